"""Logging in at an OpenID Connect provider (OpenID Connect Core 1.0: authorization code, with PKCE, state and nonce).

Authlib speaks the protocol, as in Gradio's own login for Spaces, which knows only that one provider. What has to come
back with the person is sealed in a cookie of ten minutes.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Any

import httpx2
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.starlette_client import OAuth, OAuthError
from joserfc.errors import JoseError
from starlette.requests import Request
from starlette.responses import Response

from webui.errors import LoginError
from webui.identity import set_cookie
from webui.language import cookies
from webui.public_address import public_url
from webui.settings import Oidc
from webui.tickets import Ticket, Tickets

_STATE_COOKIE = "webui_oidc"
_STATE_LASTS_S = 600
_TIMEOUT_S = 10.0
_LONGEST_NAME = 64
_NAMES = ("preferred_username", "name", "email", "sub")
_STRANGE = (ValueError, KeyError, TypeError, AttributeError, RuntimeError)  # a provider that answers nonsense


class Provider:
    """The provider of the settings."""

    def __init__(self, oidc: Oidc, tickets: Tickets) -> None:
        self._oidc = oidc
        self._tickets = tickets
        registered = OAuth().register(
            name="provider",
            server_metadata_url=oidc.issuer.rstrip("/") + "/.well-known/openid-configuration",
            client_id=oidc.client_id,
            client_secret=oidc.client_secret or None,
            client_kwargs={"scope": oidc.scopes, "code_challenge_method": "S256", "timeout": _TIMEOUT_S}
            | ({} if oidc.client_secret else {"token_endpoint_auth_method": "none"}),
        )
        self._client: Any = registered
        self.proof = hashlib.sha256(f"{oidc.issuer}\n{oidc.client_id}".encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """What people call it; "" when nobody said."""
        return self._oidc.name

    async def begin(self, request: Request) -> Response:
        """Sends the person to the provider. Raises LoginError when it does not answer."""
        request.scope["session"] = {}
        try:
            response: Response = await self._client.authorize_redirect(request, _callback_of(request))
        except (httpx2.HTTPError, httpx2.InvalidURL, AuthlibBaseError, *_STRANGE) as error:
            raise LoginError("login_no_provider") from error
        sealed = self._tickets.seal_bytes(json.dumps(request.session).encode())
        response.headers.append("set-cookie", self._state_cookie(request, sealed, _STATE_LASTS_S))
        response.headers["cache-control"] = "no-store"
        return response

    async def finish(self, request: Request) -> Ticket:
        """The ticket of the person whom the provider sent back. Raises LoginError."""
        request.scope["session"] = self._session_of(request)
        try:
            token = await self._client.authorize_access_token(request, claims_options=self._claims_options())
        except OAuthError as error:
            reason = "reason_state" if error.error == "mismatching_state" else "reason_refused"
            raise LoginError("login_failed", reason) from error
        except httpx2.HTTPError as error:
            raise LoginError("login_no_provider") from error
        except (AuthlibBaseError, JoseError, *_STRANGE) as error:
            raise LoginError("login_failed", "reason_answer") from error
        claims = token.get("userinfo") or {}
        if not isinstance(claims.get("sub"), str) or not claims["sub"] or "id_token" not in token:
            raise LoginError("login_failed", "reason_answer")
        return Ticket(
            person_of(self._oidc.issuer, claims["sub"]),
            name=_name_in(claims),
            proof=self.proof,
            issued_at=self._tickets.now(),
        )

    def forget_state(self, request: Request, response: Response) -> Response:
        """Takes the cookie back: a state is good for one login."""
        response.headers.append("set-cookie", self._state_cookie(request, "", 0))
        return response

    def _claims_options(self) -> dict[str, Any]:
        issuer = self._oidc.issuer.rstrip("/")
        return {
            "iss": {"essential": True, "values": [issuer, issuer + "/"]},
            "aud": {"essential": True, "value": self._oidc.client_id},
            "exp": {"essential": True},
        }

    def _session_of(self, request: Request) -> dict[str, Any]:
        opened = self._tickets.open_bytes(cookies(request.scope).get(_STATE_COOKIE, ""), lasts_s=_STATE_LASTS_S)
        session = json.loads(opened) if opened is not None and opened.startswith(b"{") else {}
        return session if isinstance(session, dict) else {}

    def _state_cookie(self, request: Request, value: str, lasts_s: int) -> str:
        # Lax: the way back is a click at another site.
        return set_cookie(request.scope, _STATE_COOKIE, value, lasts_s=lasts_s, same_site="Lax").decode()


def person_of(issuer: str, subject: str) -> str:
    """A provider's person at the gateway: always the same, and it says nothing about them."""
    return "oidc:" + hashlib.sha256(f"{issuer.rstrip('/')}\n{subject}".encode()).hexdigest()[:40]


def _callback_of(request: Request) -> str:
    return f"{public_url(request.scope)}/login/oidc/callback"


def _name_in(claims: Mapping[str, Any]) -> str:
    """What to call the person; nothing in it turns the page around or breaks a line."""
    found = next((str(claims[key]) for key in _NAMES if isinstance(claims.get(key), str) and claims[key].strip()), "?")
    return "".join(c for c in found if unicodedata.category(c)[0] != "C").strip()[:_LONGEST_NAME] or "?"
