"""The contract tests of tests/contract/gateway/test_background.py, with the history on PostgreSQL."""

import pytest

from tests.contract.gateway.test_background import *  # noqa: F403

pytestmark = pytest.mark.database
