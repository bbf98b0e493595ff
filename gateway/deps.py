"""What routes ask for: the caller, and the parts that the app was put together from."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.auth import Caller, Keys
from gateway.errors import Forbidden, InvalidRequest, NotAuthenticated
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


async def get_caller(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    keys: Annotated[Keys, Depends(get_keys)],
) -> Caller:
    """Who is asking, from the bearer token and, for keys that may, the header `X-End-User`.

    Raises:
        NotAuthenticated, Forbidden, InvalidRequest
    """
    if credentials is None:
        raise NotAuthenticated("No API key was sent. Send one in the header 'Authorization: Bearer sk-…'.")
    key = await keys.find(credentials.credentials)
    if "chat" not in key.scopes:
        raise Forbidden("This API key lacks the scope 'chat'.")
    end_user = request.headers.get("x-end-user")
    if end_user is None:
        return Caller(key)
    if "on_behalf_of" not in key.scopes:
        raise Forbidden("This API key may not act for others: it lacks the scope 'on_behalf_of' for 'X-End-User'.")
    if not _END_USER.fullmatch(end_user):
        raise InvalidRequest("X-End-User takes 1 to 128 letters, digits and . _ @ : + -", param="X-End-User")
    return Caller(key, end_user)


CallerDep = Annotated[Caller, Depends(get_caller)]
PartsDep = Annotated[Parts, Depends(get_parts)]
