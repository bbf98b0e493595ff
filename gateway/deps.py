"""What routes ask for: the caller, and the parts that the app was put together from."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.auth import ApiKey, Caller, Keys
from gateway.background import BackgroundAnswers
from gateway.errors import Forbidden, InvalidRequest, NotAuthenticated
from gateway.shared_answers import SharedAnswers
from gateway.telemetry import note_key
from gateway.turn import Parts

_bearer = HTTPBearer(auto_error=False, description="An API key, `sk-…`")
_END_USER = re.compile(r"[A-Za-z0-9._@:+-]{1,128}")


async def get_parts(request: Request) -> Parts:
    """The parts of the app that answers `request`."""
    parts: Parts = request.app.state.parts
    return parts


async def get_keys(request: Request) -> Keys:
    """The app's API keys."""
    keys: Keys = request.app.state.keys
    return keys


KeysDep = Annotated[Keys, Depends(get_keys)]


def secret_in(authorization: str | None) -> str:
    """The bearer token of an `Authorization` header. Raises NotAuthenticated when there is none."""
    scheme, _, secret = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise NotAuthenticated("No API key was sent. Send one in the header 'Authorization: Bearer sk-…'.")
    return secret.strip()


async def get_key(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)], keys: KeysDep
) -> ApiKey:
    """The key of the bearer token. Raises NotAuthenticated."""
    key = await keys.find(secret_in(f"{credentials.scheme} {credentials.credentials}" if credentials else None))
    note_key(key.id)
    return key


KeyDep = Annotated[ApiKey, Depends(get_key)]


async def get_admin(key: KeyDep) -> ApiKey:
    """The key, when it may administer. Raises NotAuthenticated, Forbidden."""
    if "admin" not in key.scopes:
        raise Forbidden("This API key lacks the scope 'admin'.")
    return key


async def get_caller(request: Request, key: KeyDep) -> Caller:
    """Who is asking, from the bearer token and, for keys that may, `X-End-User` and `X-End-User-Address`.

    Raises:
        NotAuthenticated, Forbidden, InvalidRequest
    """
    return caller_of(key, request.headers.get("x-end-user"), request.headers.get("x-end-user-address"))


def caller_of(key: ApiKey, end_user: str | None, address: str | None) -> Caller:
    """Who is asking with `key`. Raises Forbidden, InvalidRequest."""
    if "chat" not in key.scopes:
        raise Forbidden("This API key lacks the scope 'chat'.")
    if end_user is None and address is None:
        return Caller(key)
    if "on_behalf_of" not in key.scopes:
        name = "X-End-User" if end_user is not None else "X-End-User-Address"
        raise Forbidden(f"This API key may not act for others: it lacks the scope 'on_behalf_of' for '{name}'.")
    if end_user is not None and not _END_USER.fullmatch(end_user):
        raise InvalidRequest("X-End-User takes 1 to 128 letters, digits and . _ @ : + -", param="X-End-User")
    return Caller(key, end_user, None if address is None else _network(address))


def _network(text: str) -> str:
    """What limits count: an IPv4 address, or the 64 bits of IPv6 that one customer gets. Raises InvalidRequest."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        raise InvalidRequest(
            "X-End-User-Address takes one IPv4 or IPv6 address, such as 203.0.113.7.", param="X-End-User-Address"
        ) from None
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


async def get_background(request: Request) -> BackgroundAnswers:
    """The answers that run without their callers."""
    answers: BackgroundAnswers = request.app.state.background
    return answers


async def get_shared(request: Request) -> SharedAnswers:
    """Those that run in other gateways."""
    answers: SharedAnswers = request.app.state.shared_answers
    return answers


CallerDep = Annotated[Caller, Depends(get_caller)]
PartsDep = Annotated[Parts, Depends(get_parts)]
BackgroundDep = Annotated[BackgroundAnswers, Depends(get_background)]
SharedDep = Annotated[SharedAnswers, Depends(get_shared)]
