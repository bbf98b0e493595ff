"""The tests of the retention, on PostgreSQL."""

import pytest

from tests.unit.gateway.test_gateway_retention import *  # noqa: F403

pytestmark = pytest.mark.database
