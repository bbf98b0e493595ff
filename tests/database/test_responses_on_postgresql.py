"""The contract of /v1/responses, with the history on PostgreSQL."""

import pytest

from tests.contract.gateway.test_responses import *  # noqa: F403

pytestmark = pytest.mark.database
