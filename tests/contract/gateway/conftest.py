"""One gateway in front of one scripted inference server for each module; every test starts on a blank script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from gateway.settings import Timeouts
from tests.fakes.inference import FakeInference, fake_inference
from tests.fakes.tgi import Tgi, fake_tgi
from tests.running_gateway import RunningGateway, eventually, run_gateway


@pytest.fixture(scope="module")
def _fake() -> Iterator[FakeInference]:
    with fake_inference() as running:
        yield running


@pytest.fixture(scope="module")
def history() -> dict[str, Any]:
    """Settings that say where the history is: here SQLite; tests/database runs the same tests on PostgreSQL."""
    return {}


@pytest.fixture(scope="module")
def _gateway(
    _fake: FakeInference, history: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway"), _fake, slots=8, **history) as running:
        yield running


@pytest.fixture
def fake(_fake: FakeInference) -> Iterator[FakeInference]:
    _fake.reset()
    yield _fake
    _fake.reset()


@pytest.fixture
def gateway(_gateway: RunningGateway, fake: FakeInference) -> Iterator[RunningGateway]:
    yield _gateway
    fake.release()
    eventually(_gateway.is_idle)  # no test leaves a slot or a turn open


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[httpx2.Client]:
    """A plain HTTP client with a key of its own."""
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def _tgi() -> Iterator[Tgi]:
    with fake_tgi() as running:
        yield running


@pytest.fixture(scope="module")
def behind_tgi(
    _tgi: Tgi, history: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    """The gateway in front of TGI's stand-in."""
    timeouts = Timeouts(drain_s=0.5, first_token_s=0.5, between_tokens_s=0.5)
    folder = tmp_path_factory.mktemp("tgi")
    with run_gateway(folder, _tgi.server.url, engine="tgi", timeouts=timeouts, **history) as running:
        yield running


@pytest.fixture
def tgi(_tgi: Tgi) -> Tgi:
    _tgi.reset()
    return _tgi


@pytest.fixture
def asking(behind_tgi: RunningGateway, tgi: Tgi) -> Iterator[httpx2.Client]:
    """A plain HTTP client of it, with a key of its own."""
    with behind_tgi.client() as client:
        yield client
    eventually(behind_tgi.is_idle)
