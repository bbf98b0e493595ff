"""Names that nobody reads are told, with the nearest that somebody does; what others set is let be."""

from __future__ import annotations

import pytest

from known_settings import unknown_settings

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("GATEWAY_SLOT", "GATEWAY_SLOTS"),
        ("GATEWAY_UPSTREAM", "GATEWAY_UPSTREAMS"),
        ("INFERENCE_SLOT", "INFERENCE_SLOTS"),
        ("WEBUI_TITEL", "WEBUI_TITLE"),
        ("WEBUI_GATEWAY_URLS", "WEBUI_GATEWAY_URL"),
        ("WEBUI_OIDC_ISUER", "WEBUI_OIDC_ISSUER"),
        ("GATEWAY_REDIS_URL", "REDIS_URL"),
        ("GATEWAY_DATA_DIR", "DATA_DIR"),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest_and_without_its_value(name: str, meant: str) -> None:
    (said,) = unknown_settings({name: "canary", meant: "right"})
    assert said == f"{name} is set, but there is no such setting, so it has no effect. Is {meant} meant?"


def test_a_name_that_is_like_no_other_is_told_where_all_are() -> None:
    (said,) = unknown_settings({"GATEWAY_XYZZY": "1"})
    assert said.startswith("GATEWAY_XYZZY is set")
    assert said.endswith("docs/configuration.md names all settings.")


def test_one_sentence_for_each() -> None:
    assert [one.split()[0] for one in unknown_settings({"WEBUI_B": "1", "GATEWAY_A": "1"})] == ["GATEWAY_A", "WEBUI_B"]


def test_settings_of_other_programs_of_ours_are_known() -> None:
    names = ("GATEWAY_SLOTS", "WEBUI_TITLE", "INFERENCE_SLOTS", "GATEWAY_REPLICAS", "WEBUI_PORT", "GATEWAY_STOP_GRACE")
    assert not list(unknown_settings(dict.fromkeys(names, "1")))


def test_what_kubernetes_and_dockers_links_set_for_services_of_these_names_is_not_ours() -> None:
    environ = {
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SERVICE_PORT": "8000",
        "GATEWAY_SERVICE_PORT_HTTP": "8000",
        "GATEWAY_PORT": "tcp://10.0.0.1:8000",
        "GATEWAY_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "GATEWAY_PORT_8000_TCP_ADDR": "10.0.0.1",
        "GATEWAY_PORT_8000_TCP_PORT": "8000",
        "GATEWAY_PORT_8000_TCP_PROTO": "tcp",
        "GATEWAY_BLUE_SERVICE_HOST": "10.0.0.2",
        "INFERENCE_PORT": "tcp://10.0.0.3:80",
        "INFERENCE_SERVICE_PORT_HTTP_API": "80",
        "WEBUI_PORT_7860_UDP": "udp://10.0.0.4:7860",
    }
    assert not list(unknown_settings(environ))
    assert list(unknown_settings({"INFERENCE_PORT": "8080"})), "somebody's own"


def test_an_empty_variable_counts_as_not_set_and_other_prefixes_are_others() -> None:
    assert not list(unknown_settings({"GATEWAY_SLOT": "", "APP_SLOT": "3", "MODEL_X": "y", "GATEWAYSLOT": "1"}))
