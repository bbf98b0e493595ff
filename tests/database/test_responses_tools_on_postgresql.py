"""The contract tests of tests/contract/gateway/test_responses_tools.py, with the history on PostgreSQL."""

import pytest

from tests.contract.gateway.test_responses_tools import *  # noqa: F403

pytestmark = pytest.mark.database
