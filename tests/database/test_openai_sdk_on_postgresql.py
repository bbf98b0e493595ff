"""The contract tests of tests/contract/gateway/test_openai_sdk.py, with the history on PostgreSQL."""

import pytest

from tests.contract.gateway.test_openai_sdk import *  # noqa: F403

pytestmark = pytest.mark.database
