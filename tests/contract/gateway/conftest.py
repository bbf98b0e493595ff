"""One gateway in front of one scripted inference server for each module; every test starts on a blank script."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.fakes.inference import FakeInference, fake_inference
from tests.running_gateway import RunningGateway, eventually, run_gateway


@pytest.fixture(scope="module")
def _fake() -> Iterator[FakeInference]:
    with fake_inference() as running:
        yield running


@pytest.fixture(scope="module")
def _gateway(_fake: FakeInference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway"), _fake, slots=8) as running:
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
