"""Backups of the stack's history under load, a lost volume, and the way back: the commands of docs/operations.md."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.containers.compose_stack import ComposeStack
from tests.containers.faults import STORED, kept, refusal_of

pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]
log = logging.getLogger("containers")


@pytest.fixture(scope="module")
def backup(faulty_stack: ComposeStack, faulty_stack_key: str, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    """Made while eight callers write: what they had, what was written later, and a key."""
    return Backup(faulty_stack, faulty_stack_key, tmp_path_factory.mktemp("backup"))


class Backup:
    def __init__(self, stack: ComposeStack, key: str, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "history.tar.gz"
        self.laptop = stack.ask("/v1/keys", key, {"name": "laptop"})["value"]
        self.conversation = stack.ask("/v1/conversations", self.laptop, {"metadata": {"title": "Kept"}})["id"]
        self.written: list[tuple[float, str]] = []
        is_over = threading.Event()

        def write_on(_: int) -> None:
            while not is_over.is_set():
                response_id = stack.ask("/v1/responses", self.laptop, {**STORED, "max_output_tokens": 2})["id"]
                self.written.append((time.monotonic(), response_id))

        with ThreadPoolExecutor(4) as pool:
            writing = [pool.submit(write_on, number) for number in range(4)]
            try:
                while len(self.written) < 20:
                    time.sleep(0.05)
                self.begun = time.monotonic()
                self.told = stack.documented("backup", folder).stderr
                log.info("backup under load: %.1f s", time.monotonic() - self.begun)
                while len(self.written) < 40:
                    time.sleep(0.05)
            finally:
                is_over.set()
            for one in writing:
                one.result()

    def acknowledged(self) -> list[str]:
        """What callers had been told before the backup began."""
        return [response_id for at, response_id in self.written if at < self.begun]


def test_a_backup_is_made_under_load_and_is_nobody_elses_to_read(backup: Backup) -> None:
    assert backup.file.stat().st_mode & 0o777 == 0o600
    assert "saved: " in backup.told
    assert len(backup.acknowledged()) >= 20
    assert not list(backup.folder.glob("*.partial"))


def test_a_lost_volume_comes_back_with_every_acknowledged_turn_and_every_key(
    faulty_stack: ComposeStack, faulty_stack_key: str, backup: Backup
) -> None:
    cookie_secret = faulty_stack.compose("exec", "-T", "webui", "sha256sum", "/webui/webui.secret")
    faulty_stack.compose("down", "--timeout", "10")
    for volume in ("data", "webui"):
        subprocess.run(["docker", "volume", "rm", f"{faulty_stack.project}_{volume}"], check=True, capture_output=True)
    begun = time.monotonic()
    done = faulty_stack.documented("restore after a loss", backup.folder)
    faulty_stack.wait_until_it_answers(faulty_stack_key, "volumes restored")
    log.info("volumes lost: answers %.1f s after `make restore` began", time.monotonic() - begun)
    assert "restored, as it was at " in done.stdout
    for response_id in backup.acknowledged():
        assert kept(faulty_stack, backup.laptop, response_id)["output"]
    found = faulty_stack.ask(f"/v1/conversations/{backup.conversation}", backup.laptop)
    assert found["metadata"] == {"title": "Kept"}
    assert faulty_stack.admin_key() == faulty_stack_key
    assert faulty_stack.compose("exec", "-T", "webui", "sha256sum", "/webui/webui.secret") == cookie_secret


def test_a_restore_overwrites_nothing_unless_it_is_told_to(
    faulty_stack: ComposeStack, faulty_stack_key: str, backup: Backup
) -> None:
    later = faulty_stack.ask("/v1/responses", backup.laptop, STORED)["id"]
    done = subprocess.run(
        ["make", "restore", f"FROM={backup.file}"],
        env=faulty_stack.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "There is something already" in done.stderr
    assert "Nothing was changed" in done.stderr
    faulty_stack.wait_until_it_answers(faulty_stack_key, "restore refused")
    assert kept(faulty_stack, backup.laptop, later)["id"] == later
    faulty_stack.documented("restore over what is there", backup.folder)
    faulty_stack.wait_until_it_answers(faulty_stack_key, "restored over what was there")
    assert refusal_of(faulty_stack, backup.laptop, f"/v1/responses/{later}").status == 404
    assert kept(faulty_stack, backup.laptop, backup.acknowledged()[0])["output"]


def test_a_gateway_that_runs_is_not_restored_into(faulty_stack: ComposeStack, backup: Backup) -> None:
    restore = ["docker", "exec", "-i", faulty_stack.container("gateway"), "python", "-m", "gateway", "restore"]
    with backup.file.open("rb") as file:
        done = subprocess.run([*restore, "--force", "-"], stdin=file, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gateway: Another gateway is running on /data.")
    with pytest.raises(urllib.error.HTTPError) as refused:
        faulty_stack.ask("/v1/responses/resp_none", backup.laptop)
    refused.value.close()
    assert refused.value.code == 404, "it runs on"
