"""The compose files against the settings: whatever may be set in .env arrives in the container that reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
# Fixed within the containers, read by other programs, or files with tokens that the containers do not see.
NOT_PASSED = {
    *("DATA_DIR", "MODELS_DIR", "HOST", "PORT", "GRADIO_SERVER_PORT", "SPACE_ID", "INFERENCE_ENGINE", "DOCKER_HOST"),
    *("INFERENCE_MODELS_FILE", "INFERENCE_TGI_IMAGE", "INFERENCE_PRESTART", "INFERENCE_LISTEN", "XDG_RUNTIME_DIR"),
    *("TMPDIR", "WEBUI_API_KEY", "WEBUI_SECRET_FILE", "PYTHON", "SETUP_SKIP_DISK_CHECK"),
    *("WEBUI_USERS_FILE", "WEBUI_OIDC_CLIENT_SECRET_FILE"),
    "COMPOSE_FILE",  # docker compose's own
    *("GATEWAY_REPLICAS", "SWARM_PLACE", "SWARM_DATABASE_PLACE"),  # Docker Swarm's
    *("APP_PLATFORM", "APP_PACKAGES", "SPACES_ZERO_GPU", "XDG_CACHE_HOME", "XDG_DATA_HOME"),
    *("UV_PYTHON_INSTALL_MIRROR", "HF_TOKEN_FILE", "MODELSCOPE_API_TOKEN_FILE", "OPENXLAB_TOKEN_FILE"),
    *("INFERENCE_GIT_TOKEN_FILE", "WEBUI_SECRET", "WEBUI_KEEPS_CHATS"),
}


def text_of_files() -> str:
    return "".join(path.read_text() for path in sorted(ROOT.glob("docker-compose*.yml")))


def test_every_setting_reaches_a_container_or_is_fixed_there() -> None:
    named = set(re.findall(r"^#([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    used = set(re.findall(r"^ +([A-Z][A-Z0-9_]*):", text_of_files(), re.MULTILINE))
    used |= set(re.findall(r"\$\{([A-Z][A-Z0-9_]*):-", text_of_files()))
    assert named - used == NOT_PASSED
    others = {name for name in used if name.startswith("GF_")} | {"USAGE_STATS", "POSTGRES_USER"}
    assert not used - named - others


def test_env_example_says_which_settings_the_containers_do_not_read() -> None:
    text = (ROOT / ".env.example").read_text()
    before, said = text.split("# Of the settings above", 1)
    above = set(re.findall(r"^#([A-Z][A-Z0-9_]*)=", before, re.MULTILINE))
    fixed = {"INFERENCE_KEY_FILE", "WEBUI_GATEWAY_URL", "WEBUI_API_KEY_FILE", "GATEWAY_METRICS_TOKEN_FILE"}
    listed = set(re.findall(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|HOST|PORT|TMPDIR", said.split("\n\n")[0]))
    assert listed == (above & NOT_PASSED) | fixed


def test_inference_publishes_nothing_and_everything_else_only_where_bind_says() -> None:
    ports = re.findall(r"ports: (\[.*\])", text_of_files())
    assert ports
    assert all(one.startswith('["${BIND:-127.0.0.1}:') for one in ports)
    services = re.split(r"^  (?=[a-z]+:$)", (ROOT / "docker-compose.yml").read_text(), flags=re.MULTILINE)
    inference = next(one for one in services if one.startswith("inference:"))
    assert "ports" not in inference


def test_there_is_one_web_ui_since_nothing_of_ours_keeps_people_at_theirs() -> None:
    compose, swarm = text_of_files(), (ROOT / "deploy" / "swarm.yml").read_text()
    for text in (compose, swarm):
        parts = re.split(r"^  (?=[a-z-]+:(?: |$))", text, flags=re.MULTILINE)
        of_webui = [part for part in parts if part.startswith("webui:") and "WEBUI_GATEWAY_URL" in part]
        assert of_webui
        assert not any("replicas" in part for part in of_webui)


def test_the_engine_does_not_share_a_network_with_the_stores() -> None:
    """deploy/swarm.yml is made of docker-compose.yml and docker-compose.scale.yml; a container test compares them."""
    stack = yaml.safe_load((ROOT / "deploy" / "swarm.yml").read_text())
    of = {name: set(one["networks"]) for name, one in stack["services"].items()}
    assert (of["postgres"], of["redis"], of["inference"]) == ({"stores"}, {"stores"}, {"engine"})
    assert {name for name, networks in of.items() if "stores" in networks} == {"postgres", "redis", "gateway"}
    assert stack["networks"]["stores"]["internal"]
    assert stack["networks"]["engine"]["internal"]


def test_no_command_alone_knows_where_the_history_is() -> None:
    """What PID 1's shell exports, `docker compose exec gateway python -m gateway keys` would not see."""
    manifests = (ROOT / "deploy" / "kubernetes" / "base" / "gateway.yaml").read_text()
    for text in (text_of_files(), (ROOT / "deploy" / "swarm.yml").read_text(), manifests):
        assert "export" not in text
    assert "DATABASE_URL: ${DATABASE_URL:-postgresql://internlm@" in text_of_files(), "one of .env wins"
