"""The contract of the keys, on PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.auth import Keys
from gateway.database import Database
from tests.contract.gateway.test_keys import *  # noqa: F403
from tests.contract.gateway.test_keys import made, status_with
from tests.running_gateway import RunningGateway, eventually

pytestmark = pytest.mark.database


def test_a_change_is_never_missed_while_requests_run(gateway: RunningGateway, tmp_path: Path) -> None:
    """As on SQLite, but that the news takes its way through the server: milliseconds."""
    other = Keys(Database(gateway.parts.settings.database))
    try:
        with gateway.client(gateway.admin_key) as admin, ThreadPoolExecutor(4) as pool:
            for _ in range(10):
                key = made(admin)
                asking = [pool.submit(status_with, gateway, key["value"]) for _ in range(8)]
                other.revoke(key["id"])
                eventually(lambda k=key: status_with(gateway, k["value"]) == 401, within_s=1)
                assert {answer.result() for answer in asking} <= {200, 401}
                assert status_with(gateway, key["value"]) == 401
    finally:
        other._database.close()
