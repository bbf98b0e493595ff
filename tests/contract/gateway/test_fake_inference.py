"""The stand-in keeps to what the real llama.cpp server sent when it was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.inference import FakeInference, Scenario, fake_inference
from tests.llamacpp_wire import (
    CHAT,
    OTHERS,
    STREAMS,
    asked,
    assert_answers_as_recorded,
    assert_streams_as_recorded,
    form_of,
    recorded,
)

pytestmark = pytest.mark.contract


@pytest.mark.parametrize("name", STREAMS)
def test_streams(fake: FakeInference, name: str) -> None:
    assert_streams_as_recorded(fake.url, name)


@pytest.mark.parametrize("name", OTHERS)
def test_other_answers(fake: FakeInference, name: str) -> None:
    assert_answers_as_recorded(fake.url, name)


def test_while_the_model_is_loaded(fake: FakeInference) -> None:
    fake.scenario = Scenario("loading")
    assert form_of(asked(fake.url, "GET", "/health")) == form_of(recorded("loading_health"))
    assert form_of(asked(fake.url, "POST", "/v1/chat/completions", CHAT)) == form_of(recorded("loading"))


def test_on_a_unix_socket(tmp_path: Path) -> None:
    with fake_inference(unix_path=tmp_path / "x.sock") as fake:
        assert_streams_as_recorded(fake.url, "chat_stop")
