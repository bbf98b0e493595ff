"""The web UI's errors.

| class              | code                   | raised when                                                        |
|--------------------|------------------------|--------------------------------------------------------------------|
| SettingsError      |                        | a variable is missing or contradicts another; stops the start      |
| UsersError         |                        | the list of users cannot be read or written, or not so             |
| LoginError         |                        | a login at the provider did not come to its end                    |
| GatewayError       | the gateway's own code | the gateway answered with an error body or an error event          |
| GatewayUnreachable | `gateway_unreachable`  | no connection, no answer in time, or not HTTP                      |
| ConnectionLost     | `connection_lost`      | a stream ended without its closing event: not an answer            |
| KeyMissing         | `webui_key_missing`    | the gateway has not made the web UI's key yet, or it is unreadable |

`render.py` turns each into the sentence that people read.
"""

from __future__ import annotations


class WebUIError(Exception):
    """Base of all errors of this package."""


class SettingsError(WebUIError):
    """A setting is missing or wrong; the message names the variable."""


class UsersError(WebUIError):
    """The list of users cannot be read or changed; the message says why."""


class LoginError(WebUIError):
    """A login at a provider failed: a key of texts.py, and one for the reason where there is one."""

    def __init__(self, key: str, reason: str = "") -> None:
        super().__init__(f"{key} {reason}".strip())
        self.key = key
        self.reason = reason


class GatewayError(WebUIError):
    """The gateway refused or failed; `code` is the contract, `message` is for logs and for unknown codes."""

    def __init__(self, code: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s


class GatewayUnreachable(GatewayError):
    """No answer from the gateway at all; `was_sent` unless the request cannot have reached it."""

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__("gateway_unreachable", message)
        self.was_sent = was_sent


class ConnectionLost(GatewayError):
    """The stream of an answer broke off before its closing event."""

    def __init__(self, message: str) -> None:
        super().__init__("connection_lost", message)


class KeyMissing(GatewayError):
    """The web UI has no key for the gateway (yet)."""

    def __init__(self, message: str) -> None:
        super().__init__("webui_key_missing", message)
