"""`/v1/keys` and `python -m gateway keys`: what they change holds from the very next request on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.auth import Keys
from gateway.database import Database
from gateway.settings import Settings, SettingsError
from tests.fakes.inference import FakeInference
from tests.running_gateway import ROOT, RunningGateway, client_of, eventually, run_gateway, run_gateway_process

pytestmark = pytest.mark.contract
Json = dict[str, Any]
HI = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def admin(gateway: RunningGateway) -> Iterator[httpx2.Client]:
    with gateway.client(gateway.admin_key) as client:
        yield client


def made(admin: httpx2.Client, **fields: Any) -> Json:
    answer = admin.post("/v1/keys", json={"name": "test"} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def status_with(gateway: RunningGateway, secret: str) -> int:
    with client_of(gateway.url, secret) as client:
        return client.get("/v1/models").status_code


def error_of(answer: httpx2.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def test_a_key_from_its_making_to_its_end(gateway: RunningGateway, admin: httpx2.Client) -> None:
    end = int(time.time()) + 3600
    key = made(admin, name="laptop", rpm=7, tpm=1000, tpd=20_000, streams=3, expires_at=end)
    secret = key.pop("value")
    assert secret.startswith("sk-")
    assert key["redacted_value"] == secret[:10] + "…"
    expected = {"object": "api_key", "name": "laptop", "scopes": ["chat"], "rpm": 7, "tpm": 1000, "tpd": 20_000}
    assert expected.items() <= key.items()
    assert (key["streams"], key["expires_at"], key["revoked_at"]) == (3, end, None)
    assert admin.get(f"/v1/keys/{key['id']}").json() == key
    assert key in admin.get("/v1/keys").json()["data"]
    assert secret not in admin.get("/v1/keys").text
    with client_of(gateway.url, secret) as client:
        assert client.post("/v1/chat/completions", json=HI).headers["x-ratelimit-limit-requests"] == "7"
        changed = admin.post(f"/v1/keys/{key['id']}", json={"rpm": 9, "streams": None, "name": "desk"}).json()
        assert changed == key | {"rpm": 9, "streams": None, "name": "desk"}
        assert client.post("/v1/chat/completions", json=HI).headers["x-ratelimit-limit-requests"] == "9"
        gone = admin.delete(f"/v1/keys/{key['id']}")
        assert gone.json() == {"id": key["id"], "object": "api_key.deleted", "deleted": True}
        assert "revoked" in client.get("/v1/models").json()["error"]["message"]
    assert admin.get(f"/v1/keys/{key['id']}").json()["revoked_at"] >= key["created_at"]
    assert admin.delete(f"/v1/keys/{key['id']}").json()["deleted"] is True
    for path in (f"/v1/keys/{key['id']}", f"/v1/keys/{key['id']}/rotate"):
        assert error_of(admin.post(path, json={"rpm": 1} if path.endswith(key["id"]) else {}))[0] == 400


def test_rotation_keeps_history_and_limits(gateway: RunningGateway, admin: httpx2.Client) -> None:
    key = made(admin, rpm=50)
    with client_of(gateway.url, key["value"]) as client:
        conversation = client.post("/v1/conversations").json()["id"]
    second = admin.post(f"/v1/keys/{key['id']}/rotate", json={"grace_s": 3600}).json()
    assert second["id"] == key["id"]
    assert second["value"] != key["value"]
    assert status_with(gateway, key["value"]) == 200
    with client_of(gateway.url, second["value"]) as client:
        assert client.get(f"/v1/conversations/{conversation}").is_success
        assert client.post("/v1/chat/completions", json=HI).headers["x-ratelimit-limit-requests"] == "50"
    third = admin.post(f"/v1/keys/{key['id']}/rotate").json()["value"]  # leaked: all earlier ones end now
    assert [status_with(gateway, secret) for secret in (key["value"], second["value"], third)] == [401, 401, 200]
    with client_of(gateway.url, key["value"]) as client:
        assert "replaced" in client.get("/v1/models").json()["error"]["message"]


def test_a_grace_ends_by_itself(gateway: RunningGateway, admin: httpx2.Client) -> None:
    key = made(admin)
    admin.post(f"/v1/keys/{key['id']}/rotate", json={"grace_s": 1})
    assert status_with(gateway, key["value"]) == 200
    eventually(lambda: status_with(gateway, key["value"]) == 401)


def test_an_expiry_can_be_set_and_taken_away(gateway: RunningGateway, admin: httpx2.Client) -> None:
    key = made(admin, expires_at=int(time.time()) + 2)
    assert status_with(gateway, key["value"]) == 200
    eventually(lambda: status_with(gateway, key["value"]) == 401)
    admin.post(f"/v1/keys/{key['id']}", json={"expires_at": None})
    assert status_with(gateway, key["value"]) == 200


def test_pages(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake) as gateway, gateway.client(gateway.admin_key) as admin:
        made_ids = {made(admin)["id"] for _ in range(5)} | {key.id for key in gateway.app.state.keys.list()}
        seen: list[str] = []
        after: dict[str, str] = {}
        while True:
            page = admin.get("/v1/keys", params={"limit": "2"} | after).json()
            seen += [key["id"] for key in page["data"]]
            assert (page["object"], page["first_id"], page["last_id"]) == (
                "list",
                seen[len(seen) - len(page["data"])],
                seen[-1],
            )
            if not page["has_more"]:
                break
            after = {"after": page["last_id"]}
        assert len(seen) == len(set(seen)) == 7
        assert set(seen) == made_ids


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": None}, "name"),
        ({"name": "x", "rpm": 0}, "rpm"),
        ({"name": "x", "rpm": "5"}, "rpm"),
        ({"name": "x", "tpd": 10**10}, "tpd"),
        ({"name": "x", "streams": -1}, "streams"),
        ({"name": "x", "expires_at": 1}, "expires_at"),
        ({"name": "x", "expires_at": 2**31}, "expires_at"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["root"]}, "scopes.0"),
        ({"name": "x", "secret": "sk-mine"}, "secret"),
    ],
)
def test_what_cannot_be(admin: httpx2.Client, body: Json, param: str) -> None:
    assert error_of(admin.post("/v1/keys", json=body)) == (400, "invalid_request", param)
    if "scopes" not in body and body:
        key = made(admin)["id"]
        assert error_of(admin.post(f"/v1/keys/{key}", json=body)) == (400, "invalid_request", param)


def test_what_is_not_there(admin: httpx2.Client) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", ""), ("POST", "/rotate")):
        answer = admin.request(method, f"/v1/keys/key_0{path}", json={"rpm": 1} if path + method == "POST" else None)
        assert error_of(answer) == (404, "not_found", "id"), (method, path)
    assert error_of(admin.get("/v1/keys?after=key_0"))[0] == 404
    key = made(admin)["id"]
    assert error_of(admin.post(f"/v1/keys/{key}", json={}))[:2] == (400, "invalid_request")
    assert error_of(admin.post(f"/v1/keys/{key}/rotate", json={"grace_s": 10**9})) == (
        400,
        "invalid_request",
        "grace_s",
    )


def test_the_last_admin_cannot_revoke_itself_over_http(fake: FakeInference, tmp_path: Path) -> None:
    with run_gateway(tmp_path, fake) as gateway, gateway.client(gateway.admin_key) as admin:
        own = next(key["id"] for key in admin.get("/v1/keys").json()["data"] if "admin" in key["scopes"])
        refused = admin.delete(f"/v1/keys/{own}")
        assert error_of(refused) == (400, "invalid_request", "id")
        assert f"python -m gateway keys revoke {own}" in refused.json()["error"]["message"]
        expired = made(admin, scopes=["admin"], expires_at=int(time.time()) + 2)
        time.sleep(2.1)
        assert admin.delete(f"/v1/keys/{own}").status_code == 400
        other = made(admin, scopes=["admin"])
        assert admin.delete(f"/v1/keys/{own}").is_success
        assert admin.get("/v1/keys").status_code == 401
        with gateway.client(other["value"]) as second:
            assert second.delete(f"/v1/keys/{expired['id']}").is_success
            assert second.delete(f"/v1/keys/{other['id']}").status_code == 400


def test_every_route_wants_its_scope(gateway: RunningGateway) -> None:
    scopes_of = {"/v1/keys": "admin", "/v1/upstreams": "admin"}
    open_to_all = {"/healthz", "/readyz", "/metrics"}  # the last one on a loopback address
    paths: Json = gateway.app.openapi()["paths"]
    secrets = {scope: gateway.new_key(scopes=frozenset({scope})) for scope in ("chat", "admin", "on_behalf_of")}
    asked = 0
    for path, operations in paths.items():
        if path in open_to_all:
            continue
        wanted = next((scope for start, scope in scopes_of.items() if path.startswith(start)), "chat")
        for method in operations:
            for scope, secret in secrets.items():
                if scope == wanted:
                    continue
                with gateway.client(secret) as client:
                    answer = client.request(method, path, json={} if method in ("post", "patch") else None)
                    assert error_of(answer)[:2] == (403, "insufficient_scope"), (method, path, scope)
                    assert f"'{wanted}'" in answer.json()["error"]["message"]
                    asked += 1
    assert asked > 30


def test_a_replaced_or_revoked_key_does_not_come_back_with_its_file(fake: FakeInference, tmp_path: Path) -> None:
    """The files of the first start revive keys in a new database, but never one that was ended on purpose."""
    with run_gateway(tmp_path, fake) as gateway, gateway.client(gateway.admin_key) as admin:
        ids = {tuple(key["scopes"]): key["id"] for key in admin.get("/v1/keys").json()["data"]}
        old = gateway.webui_key
        for _ in range(2):
            new = admin.post(f"/v1/keys/{ids['chat', 'on_behalf_of']}/rotate").json()["value"]
        gateway.app.state.keys.revoke(ids["admin", "chat"])
        old_admin = gateway.admin_key
    with run_gateway(tmp_path, fake) as gateway:
        assert [status_with(gateway, secret) for secret in (old, old_admin, new)] == [401, 401, 200]


def test_the_command_line_beside_a_running_gateway(fake: FakeInference, tmp_path: Path) -> None:
    """Each in a process of its own."""
    data = tmp_path / "data"

    def keys(*arguments: str) -> list[str]:
        command = [sys.executable, "-m", "gateway", "keys", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env={"DATA_DIR": str(data), "PATH": ""}, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    with run_gateway_process(data, fake.url) as gateway:
        first = keys("create", "--name", "laptop", "--rpm", "5", "--tpd", "1000", "--expires", "30d")
        key_id, secret = first[0].split(" ")[0], first[-1]
        with client_of(gateway.url, secret) as client:
            assert client.post("/v1/chat/completions", json=HI).headers["x-ratelimit-limit-requests"] == "5"
            second = keys("rotate", key_id)[-1]
            assert client.get("/v1/models").status_code == 401
        with client_of(gateway.url, second) as client:
            assert client.get("/v1/models").is_success
            listed = next(line for line in keys("list") if "laptop" in line)
            assert "rpm 5 tpd 1000" in listed
            assert second[:10] in listed
            assert keys("revoke", key_id) == [f"{key_id} is revoked; a running gateway refuses it from now on."]
            assert client.get("/v1/models").status_code == 401


def test_a_change_is_never_missed_while_requests_run(gateway: RunningGateway, tmp_path: Path) -> None:
    """Revoking races with look-ups of the same key; what was read before it must not be kept under the new stamp."""
    other = Keys(Database(gateway.data_dir / "gateway.sqlite3"))  # another process's, as far as these parts know
    try:
        with gateway.client(gateway.admin_key) as admin, ThreadPoolExecutor(4) as pool:
            for _ in range(10):
                key = made(admin)
                asking = [pool.submit(status_with, gateway, key["value"]) for _ in range(8)]
                other.revoke(key["id"])
                assert status_with(gateway, key["value"]) == 401
                assert {answer.result() for answer in asking} <= {200, 401}
                assert status_with(gateway, key["value"]) == 401
    finally:
        other._database.close()


def test_an_admin_key_of_the_operators_own_is_the_same_after_every_start(fake: FakeInference, tmp_path: Path) -> None:
    """For platforms whose disk is emptied and cannot be read; one that was revoked does not come back to life."""
    own = "0123456789abcdef" * 4
    for folder in ("first", "second"):
        with run_gateway(tmp_path / folder, fake, admin_key=own) as running:
            assert status_with(running, own) == 200
    with run_gateway(tmp_path / "first", fake, admin_key=own) as running, running.client(own) as client:
        (key,) = (key for key in client.get("/v1/keys").json()["data"] if key["name"] == "GATEWAY_ADMIN_KEY")
        assert client.delete(f"/v1/keys/{key['id']}").status_code == 200
    with run_gateway(tmp_path / "first", fake, admin_key=own) as running:
        assert status_with(running, own) == 401


def test_an_admin_key_that_can_be_guessed_is_refused_without_being_shown(tmp_path: Path) -> None:
    told = {"GATEWAY_UPSTREAMS": "llamacpp=http://127.0.0.1:1", "GATEWAY_ADMIN_KEY": "hunter2"}
    with pytest.raises(SettingsError, match="GATEWAY_ADMIN_KEY must have 32") as refused:
        Settings.from_env(told, tmp_path)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" * 6 not in repr(Settings.from_env({**told, "GATEWAY_ADMIN_KEY": "hunter2" * 6}, tmp_path))
