"""The contract of the history, on PostgreSQL."""

import pytest

from tests.contract.gateway.test_history import *  # noqa: F403

pytestmark = pytest.mark.database
