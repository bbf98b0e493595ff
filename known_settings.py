"""The names of all settings, and what is said of a variable that looks like one and is none.

Each program reads its own settings and knows the names of all: on one host and in containers they see each other's.
tests/unit/test_docs.py compares the names with .env.example, and that with what the programs read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

NAMES = frozenset(
    """
    APP_PACKAGES APP_PLATFORM BIND COMPOSE_FILE DATABASE_PASSWORD_FILE DATABASE_URL DATA_DIR DOCKER_HOST
    GATEWAY_ADDRESS_RPM GATEWAY_ADMIN_KEY GATEWAY_ALL_USERS_RPM GATEWAY_BETWEEN_TOKENS_TIMEOUT_S
    GATEWAY_CONNECT_TIMEOUT_S GATEWAY_CONTEXT_TOKENS GATEWAY_DATABASE_WAIT_S GATEWAY_DRAIN_TIMEOUT_S
    GATEWAY_FIRST_TOKEN_TIMEOUT_S GATEWAY_KEY_RPM GATEWAY_KEY_STREAMS GATEWAY_KEY_TPD GATEWAY_KEY_TPM
    GATEWAY_LIMITS_WITHOUT_REDIS GATEWAY_MAX_BODY_BYTES GATEWAY_MAX_WAITING GATEWAY_MAX_WAIT_S
    GATEWAY_METRICS_TOKEN GATEWAY_METRICS_TOKEN_FILE GATEWAY_MODEL_TITLE GATEWAY_PORT GATEWAY_REPLICAS
    GATEWAY_RESPONSE_RETENTION_DAYS GATEWAY_RETENTION_DAYS GATEWAY_SLOTS GATEWAY_STOP_GRACE GATEWAY_TOOL_FORMAT
    GATEWAY_TURN_TIMEOUT_S GATEWAY_UPSTREAMS GATEWAY_UPSTREAM_KEYS GATEWAY_USER_RPM GATEWAY_USER_STREAMS
    GATEWAY_USER_TPD GATEWAY_USER_TPM GRADIO_SERVER_PORT GRAFANA_IMAGE GRAFANA_PORT HF_ENDPOINT HF_HUB_OFFLINE
    HF_TOKEN HF_TOKEN_FILE HOST HTTPS_PROXY HTTP_PROXY INFERENCE_CONTEXT INFERENCE_DOWNLOAD_ATTEMPTS
    INFERENCE_ENGINE INFERENCE_GGUF_TYPE INFERENCE_GIT_TOKEN INFERENCE_GIT_TOKEN_FILE INFERENCE_GIT_USERNAME
    INFERENCE_GPUS INFERENCE_HANG_TIMEOUT_S INFERENCE_KEEP_ORIGINAL INFERENCE_KEY_FILE INFERENCE_LISTEN
    INFERENCE_LOG INFERENCE_MODELS_FILE INFERENCE_PRESTART INFERENCE_QUANTIZE INFERENCE_SLOTS INFERENCE_SOURCES
    INFERENCE_START_TIMEOUT_S INFERENCE_STOP_TIMEOUT_S INFERENCE_TGI_IMAGE INFERENCE_THREADS MODEL
    MODELSCOPE_API_TOKEN MODELSCOPE_API_TOKEN_FILE MODELSCOPE_ENDPOINT MODELS_DIR NGINX_IMAGE NO_PROXY
    OPENXLAB_GIT_URL OPENXLAB_TOKEN OPENXLAB_TOKEN_FILE OPENXLAB_USERNAME OTEL_EXPORTER_OTLP_ENDPOINT
    OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_TIMEOUT OTEL_SDK_DISABLED OTEL_SERVICE_NAME
    OTEL_TRACES_SAMPLER_ARG PIP_INDEX_URL PORT POSTGRES_IMAGE PROMETHEUS_IMAGE PROMETHEUS_PORT
    PROMETHEUS_RETENTION PYTHON PYTHON_IMAGE REDIS_IMAGE REDIS_URL SETUP_SKIP_DISK_CHECK SPACES_ZERO_GPU
    SPACE_ID SWARM_DATABASE_PLACE SWARM_PLACE TAG TGI_IMAGE TMPDIR UV_PYTHON_INSTALL_MIRROR WEBUI_ANONYMOUS
    WEBUI_API_KEY WEBUI_API_KEY_FILE WEBUI_FRAME_ANCESTORS WEBUI_GATEWAY_URL WEBUI_GONE_TIMEOUT_S
    WEBUI_KEEPS_CHATS WEBUI_LOGIN_DAYS WEBUI_OIDC_CLIENT_ID WEBUI_OIDC_CLIENT_SECRET
    WEBUI_OIDC_CLIENT_SECRET_FILE WEBUI_OIDC_ISSUER WEBUI_OIDC_NAME WEBUI_OIDC_SCOPES WEBUI_OWN_KEYS
    WEBUI_PERSON_DAYS WEBUI_PORT WEBUI_ROOT_PATH WEBUI_SECRET WEBUI_SECRET_FILE WEBUI_STREAM_IDLE_TIMEOUT_S
    WEBUI_TITLE WEBUI_TRUSTED_PROXY_HOPS WEBUI_USERS_FILE XDG_CACHE_HOME XDG_DATA_HOME XDG_RUNTIME_DIR
    """.split()
)
OURS = ("GATEWAY_", "INFERENCE_", "WEBUI_")
"""Prefixes that nobody else has, but for what follows."""

# What Kubernetes and Docker's links set for a service of that name, see "Discovering services" in Kubernetes'
# documentation: GATEWAY_SERVICE_HOST, GATEWAY_SERVICE_PORT_HTTP, GATEWAY_PORT_8000_TCP_ADDR; GATEWAY_PORT=tcp://….
_OF_A_SERVICE = re.compile(r"\w+_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def unknown_settings(environ: Mapping[str, str]) -> Iterator[str]:
    """One sentence for each variable with a prefix of ours that no program knows; never with its value."""
    for name, value in sorted(environ.items()):
        is_theirs = _OF_A_SERVICE.fullmatch(name) or (name.endswith("_PORT") and _ADDRESS.match(value))
        if name.startswith(OURS) and name not in NAMES and value and not is_theirs:
            nearest = _nearest(name)
            hint = f"Is {nearest} meant?" if nearest else "docs/configuration.md names all settings."
            yield f"{name} is set, but there is no such setting, so it has no effect. {hint}"


def _nearest(name: str) -> str | None:
    """By what follows the prefix, which would make all of them alike; among equals one with the same prefix."""
    prefix = name.partition("_")[0]
    known = {_rest(one): one for one in sorted(NAMES, key=lambda one: (one.startswith(prefix), one))}
    found = difflib.get_close_matches(_rest(name), known, n=1)
    return known[found[0]] if found else None


def _rest(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in OURS if name.startswith(prefix)), name)
