"""The tests of the migrations, on PostgreSQL."""

import pytest

from tests.unit.gateway.test_gateway_migrations import *  # noqa: F403

pytestmark = pytest.mark.database
