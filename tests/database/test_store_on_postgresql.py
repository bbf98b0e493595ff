"""The tests of the store, on PostgreSQL."""

import pytest

from tests.unit.gateway.test_gateway_store import *  # noqa: F403

pytestmark = pytest.mark.database
