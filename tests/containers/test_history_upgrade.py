"""Today's image on a volume, or a database, as an earlier release wrote it; and on one that a later one wrote.

No image of the earlier release is kept anywhere: tests/released/ has what its own code wrote.
"""

from __future__ import annotations

import io
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.network import Network

from tests.containers.compose_stack import TAG, ComposeStack
from tests.containers.faults import refusal_of
from tests.containers.one_gateway import IMAGE, OneGateway, one_gateway
from tests.released_postgresql import write_release

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]
RELEASED = sorted((Path(__file__).resolve().parents[1] / "released").glob("*.sql"))
KEY = "sk-released-0001-" + "x" * 30
REVOKED = "sk-released-revoked-" + "x" * 30


@pytest.fixture
def volume(request: pytest.FixtureRequest, tmp_path: Path, faulty_stack: ComposeStack) -> Iterator[str]:
    """A data volume as a release (the parameter is its dump) left it, or with another migration's name in it."""
    release, revision = request.param
    file = tmp_path / "gateway.sqlite3"
    with closing(sqlite3.connect(file)) as database:
        database.executescript(release.read_text())
        if revision is not None:
            database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
            database.commit()
    name = f"internlm-stack-upgrade-{TAG}"
    client = docker.from_env(timeout=60)
    container = client.containers.create(IMAGE, volumes={name: {"bind": "/data"}})
    try:
        container.put_archive("/data", packed(file))
        yield name
    finally:
        container.remove(force=True)
        client.volumes.get(name).remove(force=True)
        client.close()


def packed(file: Path) -> bytes:
    """As the gateway's user left it."""
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w") as archive:
            entry = archive.gettarinfo(file)
            entry.uid = entry.gid = 1000
            entry.mode, entry.name = 0o600, file.name
            with file.open("rb") as content:
                archive.addfile(entry, content)
        return out.getvalue()


def assert_everything_is_there(gateway: OneGateway, *, cut: tuple[str, ...] = ("incomplete",)) -> None:
    """`cut`: what an answer may be that was being written when the old version stopped."""
    (thread,) = gateway.ask("/v1/conversations", KEY)["data"]
    assert thread["metadata"] == {"title": "Grüße, 你好", "pinned": "true"}
    items = gateway.ask(f"/v1/conversations/{thread['id']}/items?order=asc", KEY)["data"]
    texts = [part["text"] for item in items for part in item["content"]]
    assert texts == ['imported 你好 "quoted"', "What is 1+1?", "Two, 二.", "And 2+2?", "Fo"]
    assert items[-1]["status"] in cut
    assert refusal_of(gateway, REVOKED, "/v1/conversations").status == 401


@pytest.mark.parametrize(
    "volume", [(release, None) for release in RELEASED], ids=lambda one: one[0].stem, indirect=True
)
def test_an_image_takes_over_the_volume_of_an_earlier_release(volume: str) -> None:
    with one_gateway(None, volume) as gateway:
        assert_everything_is_there(gateway)
        assert gateway.ask("/v1/conversations", gateway.admin_key())["data"] == [], "a new admin's key, made as ever"
        assert gateway.ask("/v1/conversations", KEY, {"metadata": {"title": "new"}})["id"]


@pytest.mark.parametrize("release", RELEASED, ids=lambda path: path.stem)
def test_an_image_takes_over_the_postgresql_database_of_an_earlier_release(
    faulty_stack: ComposeStack, release: Path
) -> None:
    data = f"internlm-stack-upgrade-{TAG}"
    with Network() as network:
        postgres = PostgresContainer("postgres:15-bookworm", driver=None).with_network(network)
        with postgres.with_network_aliases("database") as server:
            write_release(server.get_connection_url(), release)
            url = f"postgresql://{server.username}:{server.password}@database:5432/{server.dbname}"
            try:
                with one_gateway(None, data, network=network, DATABASE_URL=url) as gateway:
                    # Another gateway might be writing it: it is closed half a minute later.
                    assert_everything_is_there(gateway, cut=("in_progress", "incomplete"))
            finally:
                subprocess.run(["docker", "volume", "rm", "-f", data], check=True, capture_output=True)


@pytest.mark.parametrize("volume", [(RELEASED[-1], "9999")], ids=["newer"], indirect=True)
def test_a_history_of_a_later_version_is_refused_in_a_sentence_and_a_backup_brings_the_image_back(
    volume: str, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    older.mkdir()
    with closing(sqlite3.connect(older / "gateway.sqlite3")) as database:
        database.executescript(RELEASED[-1].read_text())
    older.chmod(0o777)
    (older / "gateway.sqlite3").chmod(0o666)
    back_up = ["docker", "run", "--rm", "-v", f"{older}:/data", IMAGE, "python", "-m", "gateway", "backup", "-"]
    backup = subprocess.run(back_up, capture_output=True, check=True).stdout
    with one_gateway(None, volume, waits=False) as gateway:
        deadline = time.monotonic() + 60
        while "gateway: " not in (said := gateway.said()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert "gateway: /data/gateway.sqlite3 was written by a newer version of the gateway" in said
        assert "Traceback" not in said
        gateway.container.stop()
        restore = ["docker", "run", "--rm", "-i", "-v", f"{volume}:/data", IMAGE, "python", "-m", "gateway", "restore"]
        refused = subprocess.run([*restore, "-"], input=backup, capture_output=True, check=False)
        assert b"There is something already" in refused.stderr
        done = subprocess.run([*restore, "--force", "-"], input=backup, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        gateway.container.start()
        gateway.wait()
        assert_everything_is_there(gateway)
