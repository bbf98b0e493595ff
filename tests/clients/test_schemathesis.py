"""The gateway attacked with what its OpenAPI document allows and forbids, one operation at a time and in chains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.routes import completions, conversations, history, keys, native, ops, responses
from tests.fakes.inference import fake_inference
from tests.running_gateway import RunningGateway, run_gateway

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]
ROUTERS = (completions, conversations, history, keys, native, ops, responses)
OPERATIONS = [
    (method.lower(), route.path) for part in ROUTERS for route in part.router.routes for method in sorted(route.methods)
]
SETTINGS = settings(
    max_examples=60,
    derandomize=True,  # the same attacks in each run
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@schemathesis.check
def errors_are_in_openais_form(ctx: Any, response: Response, case: Case) -> None:
    assert response.headers.get("x-request-id"), "no request id"
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code", "request_id"}, error
        assert isinstance(error["message"], str)
        assert error["message"]
        assert [error["request_id"]] == response.headers["x-request-id"]


ID = "$response.body#/id"
FIRST = "$response.body#/data/0/id"


def _each(name: str, path: str, *calls: str, expression: str = ID) -> list[tuple[str, str, dict[str, Any]]]:
    """Links to operations under `path` whose parameter `name` is taken from the answer."""
    found = []
    for call in calls:
        method, _, rest = call.partition(" ")
        found.append((method, path + rest, {"parameters": {name: expression}}))
    return found


_CONVERSATION = _each(
    "conversation_id",
    "/v1/conversations/{conversation_id}",
    *("get ", "post ", "delete ", "post /fork", "get /export", "get /items", "post /items"),
)
_RESPONSE = _each(
    "response_id",
    "/v1/responses/{response_id}",
    *("get ", "delete ", "post /cancel", "get /input_items", "post /feedback"),
)
_ITEM = "/v1/conversations/{conversation_id}/items/{item_id}"
_OF_ITEM = {"parameters": {"conversation_id": "$request.path.conversation_id", "item_id": FIRST}}
_KEY = _each("key_id", "/v1/keys/{key_id}", "get ", "post ", "delete ", "post /rotate")
LINKS = {
    ("post", "/v1/conversations"): [
        *_CONVERSATION,
        ("post", "/v1/responses", {"requestBody": {"input": "go on", "conversation": ID}}),
        ("get", "/v1/conversations", {"parameters": {"after": ID}}),
    ],
    ("post", "/v1/conversations/{conversation_id}/fork"): _CONVERSATION,
    ("post", "/v1/conversations/{conversation_id}/items"): [
        ("get", _ITEM, _OF_ITEM),
        ("delete", _ITEM, _OF_ITEM),
        ("post", "/v1/conversations/{conversation_id}/fork", {"requestBody": {"after": FIRST}}),
    ],
    ("post", "/v1/responses"): [
        *_RESPONSE,
        ("post", "/v1/responses", {"requestBody": {"input": "go on", "previous_response_id": ID}}),
        ("post", "/v1/responses", {"requestBody": {"input": "go", "background": True, "previous_response_id": ID}}),
    ],
    ("post", "/v1/keys"): _KEY,
    ("get", "/v1/upstreams"): _each("upstream_id", "/v1/upstreams/{upstream_id}", "post ", expression=FIRST),
}
# Bodies that work, for chains: what is made up at random seldom does where there is much to say.
WORKING: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/responses"): {"input": "hi"},
    ("POST", "/v1/conversations/{conversation_id}/items"): {"items": [{"role": "user", "content": "hi"}]},
    ("POST", "/v1/keys"): {"name": "another"},
    ("POST", "/v1/keys/{key_id}"): {"rpm": 5},
    ("POST", "/v1/responses/{response_id}/feedback"): {"rating": "up"},
}
# Ours says that a stream is text, as OpenAPI 3.1 has it; schemathesis reads the schema as that of each event.
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
LINKED = ("conversation", "previous_response_id", "background")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    errors_are_in_openais_form,
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with fake_inference() as fake, run_gateway(tmp_path_factory.mktemp("gateway"), fake, slots=8) as running:
        yield running


@pytest.fixture(scope="module")
def session(gateway: RunningGateway) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.headers["authorization"] = f"Bearer {gateway.admin_key}"
        session.trust_env = False
        yield session


def api_of(gateway: RunningGateway) -> Any:
    """The document that the gateway serves, with LINKS, and event streams as schemathesis understands them."""
    with httpx2.Client(base_url=gateway.url) as client:
        document = client.get("/openapi.json").json()
    served = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert served == {(method, path.replace(":path", "")) for method, path in OPERATIONS}  # none is left out
    for operations in document["paths"].values():
        for operation in operations.values():
            for answer in operation["responses"].values():
                if stream := answer.get("content", {}).get("text/event-stream"):
                    stream["schema"] = EVENT
    for (method, path), targets in LINKS.items():
        links = document["paths"][path][method]["responses"]["200"].setdefault("links", {})
        for n, (to_method, to_path, given_) in enumerate(targets):
            operation = document["paths"][to_path][to_method]["operationId"]
            links[f"{n}"] = {"operationId": operation, **given_}
    loaded = schemathesis.openapi.from_dict(document, config=schemathesis.Config(seed=1))
    loaded.config.update(base_url=gateway.url)
    return loaded


@pytest.fixture(scope="module")
def api(gateway: RunningGateway) -> Any:
    return api_of(gateway)


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{method} {path}" for method, path in OPERATIONS])
def test_operation(method: str, path: str, api: Any, session: requests.Session, gateway: RunningGateway) -> None:
    operation = api[path.replace(":path", "")][method]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)

    @SETTINGS
    @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes)))
    def attack(case: Case) -> None:
        try:
            case.call_and_validate(session=session, headers=dict(session.headers), checks=CHECKS, timeout=30)
        finally:
            for member in gateway.parts.upstreams.members:
                member.is_draining = False

    attack()


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/responses"])
def test_a_stream_is_what_the_document_says(path: str, api: Any, session: requests.Session) -> None:
    """Chance seldom makes a body that is streamed."""
    words = {"/v1/completions": {"prompt": "hi"}, "/v1/responses": {"input": "hi"}}
    body = words.get(path, {"messages": [{"role": "user", "content": "hi"}]}) | {"stream": True}
    case = api[path]["post"].Case(body=body, media_type="application/json")
    response = case.call_and_validate(session=session, headers=dict(session.headers), checks=CHECKS, timeout=30)
    assert response.headers["content-type"][0].startswith("text/event-stream")
    assert response.content.count(b"data: ") > 2


def is_ours(value: Any) -> bool:
    """Whether a link gave it, and not chance."""
    return value is True or (isinstance(value, str) and value.startswith(("conv_", "resp_")))


def test_chains_of_operations(api: Any, session: requests.Session, gateway: RunningGateway) -> None:
    """What one operation made, the next ones use, change and delete."""
    passed: set[tuple[str, str]] = set()

    class Chains(api.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: Case) -> None:
            working = WORKING.get((case.method, case.path))
            if working is not None:
                given_ = case.body if isinstance(case.body, dict) else {}
                case.body = working | {name: given_[name] for name in LINKED if is_ours(given_.get(name))}

        def get_call_kwargs(self, case: Case) -> dict[str, Any]:
            return {"session": session, "headers": dict(session.headers), "timeout": 30}

        def validate_response(self, response: Response, case: Case, **_: Any) -> None:
            case.validate_response(response, checks=CHECKS)
            if response.status_code == 200:
                passed.add((case.method.lower(), case.path))

        def teardown(self) -> None:
            for member in gateway.parts.upstreams.members:
                member.is_draining = False

    Chains.run(settings=settings(SETTINGS, max_examples=100, stateful_step_count=12))
    reached = {(method, path) for targets in LINKS.values() for method, path, _ in targets}
    worked = reached & passed
    assert len(worked) > len(reached) / 3, sorted(worked)  # on what was there, not on made-up ids
