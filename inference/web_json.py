"""JSON over HTTP to a deployment that may be wrong in any way; each way is told in one sentence.

Redirects are not followed: the key would go to wherever they lead.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from inference.accounts import Secret, redact
from inference.errors import SettingsError, SmokeFailed

MOST_BYTES = 4 << 20


class NotReady(Exception):
    """It answers, or will: somebody starts it. The text says what it is doing."""


class NoSuchPath(SmokeFailed):
    """404: this kind of server has no such path."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True)
class Deployment:
    """`url` has no path of the API in it: `https://host` or `https://host/prefix`."""

    url: str
    key: Secret | None
    timeout_s: float = 30.0

    def ask(self, path: str, body: object = None, *, method: str = "") -> dict[str, Any]:
        """The JSON object that is answered. Raises NotReady, NoSuchPath or SmokeFailed."""
        request = urllib.request.Request(self.url + path, method=method or ("GET" if body is None else "POST"))
        request.add_header("Accept", "application/json")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key.value}")
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body).encode()
        try:
            with _OPENER.open(request, timeout=self.timeout_s) as answer:
                return self._parsed(path, answer.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(path, error.code, error.headers.get("Location"), _read(error)) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._no_answer(error) from None

    def _parsed(self, path: str, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content)
        except ValueError:
            if not content.lstrip()[:1] == b"<":
                raise SmokeFailed(f"{self.url}{path} did not answer with JSON. Is it the API's address?") from None
            raise SmokeFailed(f"{self.url}{path} is a web page, not an API.{self._hint()}") from None
        if not isinstance(found, dict):
            raise SmokeFailed(f"{self.url}{path} answered with JSON of another form than expected.")
        return found

    def _refusal(self, path: str, status: int, location: str | None, content: bytes) -> Exception:
        said = redact(message_of(content), [self.key])
        if status in (401, 403):
            return SmokeFailed(self._about_key(status, said))
        if status == 404:
            return NoSuchPath(f"There is nothing at {self.url}{path} (404).{self._hint()}")
        if status in (301, 302, 303, 307, 308):
            return SmokeFailed(
                f"{self.url} leads to {redact(location or '?')}. Name that address, if it is the right one."
            )
        if status in (502, 503, 504):
            return NotReady(said or f"HTTP {status}")
        return SmokeFailed(f"{self.url}{path} answered HTTP {status}: {said or 'without a reason'}")

    def _about_key(self, status: int, said: str) -> str:
        if not self.key:
            return f"{self.url} wants a key ({status}). Give one by --key-file FILE, or by the variable of --key-env."
        return f"{self.url} refused the key ({status}): {said or 'without a reason'}. Is it a key of this deployment?"

    def _hint(self) -> str:
        parts = urlsplit(self.url)
        words = parts.path.strip("/").split("/")
        if parts.hostname == "huggingface.co" and words[0] == "spaces" and len(words) == 3:
            name = "-".join(words[1:]).replace("_", "-").replace(".", "-").lower()
            return f" A Space's own address is another one: https://{name}.hf.space"
        return " Give the address without a path, such as http://127.0.0.1:7860."

    def _no_answer(self, error: Exception) -> Exception:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        host = urlsplit(self.url).netloc
        if isinstance(reason, ssl.SSLCertVerificationError):
            return SmokeFailed(
                f"The certificate of {host} is not trusted: {reason.verify_message}. If it is your own, name its "
                "authority's file by SSL_CERT_FILE."
            )
        if isinstance(reason, ssl.SSLError):
            return SmokeFailed(f"{host} does not speak TLS as expected ({reason.reason}). Is it http:// there?")
        if isinstance(reason, socket.gaierror):
            return SmokeFailed(f"The name {host} is not known. Is the address right, and the network there?")
        if isinstance(reason, ConnectionRefusedError):
            return NotReady(f"nothing listens at {host}")
        if isinstance(reason, TimeoutError):
            return NotReady(f"{host} did not answer within {self.timeout_s:g} s")
        if isinstance(reason, http.client.BadStatusLine | http.client.IncompleteRead | ConnectionError):
            return NotReady(f"{host} closed the connection without an answer")
        return SmokeFailed(f"{host} cannot be reached: {getattr(reason, 'strerror', None) or type(reason).__name__}.")


def parse_address(text: str) -> str:
    """Raises SettingsError. `/v1` at the end, as SDKs want it, is taken off."""
    url = text.strip().rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"{redact(text)[:80]!r} is no address. Give one such as http://127.0.0.1:7860.")
    if parts.username or parts.password:
        raise SettingsError("A key or password does not belong into the address. Give it by --key-file or --key-env.")
    return url.removesuffix("/v1")


def message_of(content: bytes) -> str:
    """The sentence in an error's body: OpenAI's form, LMDeploy's flat one, TGI's; empty where there is none."""
    try:
        found = json.loads(content)
    except ValueError:
        return ""
    error = found.get("error", found.get("message")) if isinstance(found, dict) else None
    text = error.get("message") if isinstance(error, dict) else error
    return str(text)[:300] if text else ""


def _read(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(MOST_BYTES)
    except (OSError, http.client.HTTPException):
        return b""
