"""What Docker's client is asked, what its pull tells, and its refusals in plain words; Docker itself is not there."""

import socket
import threading
from dataclasses import replace
from pathlib import Path

import docker.errors
import pytest

from inference.containers import _fetch_image, check_links, container_options, explain_docker
from inference.docker_engine import connected, docker_info
from inference.engines import ContainerSpec
from inference.errors import Cancelled, DiskFull, StartFailed

pytestmark = pytest.mark.unit
SPEC = ContainerSpec(
    image="ghcr.io/huggingface/text-generation-inference:3.3.5",
    command=("--model-id", "/models/m"),
    environment={"API_KEY": "k"},
    volumes={Path("/data/m"): "/models/m"},
    ports={80: 3001},
    gpus=2,
    shm_bytes=1 << 30,
)


def test_a_container_gets_its_cards_its_model_read_only_and_a_port_of_this_machine_only():
    options = container_options(SPEC, "mark")
    assert options["device_requests"][0]["Count"] == 2
    assert options["device_requests"][0]["Capabilities"] == [["gpu"]]
    assert options["volumes"] == {"/data/m": {"bind": "/models/m", "mode": "ro"}}
    assert options["ports"] == {"80/tcp": ("127.0.0.1", 3001)}
    assert options["labels"] == {"internlm-stack.owner": "mark"}
    assert options["log_config"]["Config"] == {"max-size": "10m", "max-file": "2"}
    assert "restart_policy" not in options


def test_a_file_that_is_a_link_out_of_its_folder_is_told_before_a_container_misses_it(tmp_path):
    model = tmp_path / "snapshot"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "same.json").symlink_to("config.json")
    check_links(replace(SPEC, volumes={model: "/models/m"}))
    (tmp_path / "blob").write_text("")
    (model / "model.safetensors").symlink_to("../blob")
    with pytest.raises(StartFailed, match=r"model\.safetensors is a link .*cp -rL"):
        check_links(replace(SPEC, volumes={model: "/models/m"}))


def test_an_engine_that_does_not_answer_is_told_with_what_to_do(monkeypatch, tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "docker.sock"))
    for path in ("docker.sock", "nothing.sock"):
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path / path}")
        assert docker_info() is None
        with pytest.raises(StartFailed, match=r"No Docker engine answers here \(unix://.*group docker"), connected():
            pass


class FakeClient:
    """Has no image, and pulls it with these news."""

    def __init__(self, news):
        self.images = self
        self.api = self
        self.news = news
        self.pulled = []

    def get(self, image):
        raise docker.errors.ImageNotFound("no such image")

    def pull(self, name, tag, stream, decode):
        self.pulled.append((name, tag, stream, decode))
        yield from self.news


def layer(name, current, total):
    return {"status": "Downloading", "id": name, "progressDetail": {"current": current, "total": total}}


def test_a_pull_reports_the_bytes_of_all_its_layers(reports):
    client = FakeClient(
        [{"status": "Pulling fs layer", "id": "a"}, layer("a", 1, 10), layer("b", 5, 20), layer("a", 9, 10)]
    )
    _fetch_image(client, SPEC.image, reports, threading.Event())
    assert client.pulled == [("ghcr.io/huggingface/text-generation-inference", "3.3.5", True, True)]
    assert [(news.done, news.total) for news in reports] == [(0, 0), (1, 10), (6, 30), (14, 30)]
    assert {news.stage for news in reports} == {"download"}


def test_a_pull_ends_when_it_is_told_to(reports):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        _fetch_image(FakeClient([layer("a", 1, 10)]), SPEC.image, reports, stop)


def test_an_error_in_the_pull_is_not_overlooked(reports):
    with pytest.raises(docker.errors.APIError, match="manifest unknown"):
        _fetch_image(FakeClient([{"error": "manifest unknown"}]), SPEC.image, reports, threading.Event())


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        (
            'could not select device driver "nvidia" with capabilities: [[gpu]]',
            StartFailed,
            "cannot give the container a",
        ),
        ("nvidia-container-cli: initialization error", StartFailed, "nvidia-container-toolkit and restart Docker"),
        ("write /var/lib/docker/tmp/x: no space left on device", DiskFull, "The disk became full while Docker"),
        ("Bind for 127.0.0.1:3001 failed: port is already allocated", StartFailed, "port is taken"),
        ("pull access denied for x, repository does not exist", StartFailed, "Check INFERENCE_TGI_IMAGE"),
        ("manifest unknown", StartFailed, "There is no image ghcr.io"),
        ("Get https://ghcr.io/v2/: dial tcp: lookup ghcr.io: no such host", StartFailed, "docker pull ghcr.io"),
        ("something new", StartFailed, "Docker refuses to run ghcr.io/huggingface/text-generation-inference:3.3.5: "),
    ],
)
def test_a_refusal_is_plain(text, kind, part):
    error = explain_docker(docker.errors.APIError(text), SPEC)
    assert isinstance(error, kind)
    assert part in error.message
