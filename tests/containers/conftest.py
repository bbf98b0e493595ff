"""A real Docker engine, an image of ours in place of Text Generation Inference's, and the stack that is made to fail.

Skipped where no engine answers.
"""

import os

# testcontainers reads them at its import: no second image cleans up here, and ports are published on this machine.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
os.environ.setdefault("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
os.environ.setdefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")

import docker
import pytest

from inference.docker_engine import FAILURES, connected, docker_info
from tests.containers.compose_stack import ComposeStack, require_docker, running
from tests.containers.faults import SILENCE_S, Faults
from tests.tgi_plan import SERVER

IMAGE = "internlm-stack-tests/tgi:latest"
LAST = "test_clean_room.py"
BASE = "python:3.11-slim-bookworm"


def pytest_collection_modifyitems(items):
    """The clean room comes last: it takes both cores for minutes, and what runs beside these tests has mostly ended."""
    items.sort(key=lambda item: item.path.name == LAST)


@pytest.fixture(scope="session")
def tgi_image(tmp_path_factory):
    """The stand-in's image, built once."""
    say = pytest.fail if "containers" in os.environ.get("TESTS_MAY_NOT_SKIP", "") else pytest.skip
    if docker_info() is None:
        say("no Docker engine answers here")
    context = tmp_path_factory.mktemp("image")
    (context / "server.py").write_text(SERVER.read_text())
    (context / "Dockerfile").write_text(
        f'FROM {BASE}\nCOPY server.py /server.py\nENTRYPOINT ["python", "-I", "/server.py"]\n'
    )
    with connected(600) as client:
        try:
            client.images.build(path=str(context), tag=IMAGE, rm=True)
        except FAILURES as error:
            say(f"the image of the stand-in cannot be built from {BASE}: {error}")
    return IMAGE


@pytest.fixture(scope="session")
def faulty_stack():
    """The stack on the CPU with the small model, for all tests of faults; each leaves it as it was."""
    require_docker()
    environ = {
        "GATEWAY_FIRST_TOKEN_TIMEOUT_S": str(SILENCE_S),
        "GATEWAY_BETWEEN_TOKENS_TIMEOUT_S": str(SILENCE_S),
        "GATEWAY_CONNECT_TIMEOUT_S": "2",
        "GATEWAY_KEY_RPM": "100000",
    }
    files = ("docker-compose.yml", "docker-compose.cpu.yml")
    with running(ComposeStack("faults", files, "smollm2-135m-instruct", environ)) as up:
        yield up
    assert not up.leftovers(), "`docker compose down -v` left something behind"


@pytest.fixture(scope="session")
def faulty_stack_key(faulty_stack):
    return faulty_stack.admin_key()


@pytest.fixture(scope="session")
def faults(faulty_stack):
    client = docker.from_env(timeout=60)
    yield Faults(faulty_stack, client)
    client.close()
