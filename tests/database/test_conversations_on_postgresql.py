"""The contract of /v1/conversations, with the history on PostgreSQL."""

import pytest

from tests.contract.gateway.test_conversations import *  # noqa: F403

pytestmark = pytest.mark.database
