"""A real Docker engine, and an image of ours in place of Text Generation Inference's; skipped where none answers."""

import os

import pytest

from inference.docker_engine import FAILURES, connected, docker_info
from tests.tgi_plan import SERVER

IMAGE = "internlm-stack-tests/tgi:latest"
BASE = "python:3.11-slim-bookworm"


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
