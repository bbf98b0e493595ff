"""Every error a caller can meet, and the one place that renders them.

| class             | HTTP | code                                        | may the caller try again?      |
|-------------------|------|---------------------------------------------|--------------------------------|
| InvalidRequest    | 400  | invalid_request                             | no                             |
| ContextTooLong    | 400  | context_length_exceeded                     | no                             |
| NotAuthenticated  | 401  | invalid_api_key                             | no                             |
| Forbidden         | 403  | insufficient_scope                          | no                             |
| NotFound          | 404  | not_found, model_not_found                  | no                             |
| MethodNotAllowed  | 405  | method_not_allowed                          | no                             |
| ConversationBusy  | 409  | conversation_busy                           | after the open turn            |
| TooLarge          | 413  | request_too_large                           | no                             |
| WrongContentType  | 415  | unsupported_media_type                      | no                             |
| RateLimited       | 429  | rate_limit_exceeded                         | after Retry-After              |
| HeadTooLarge      | 431  | headers_too_large                           | no                             |
| GatewayError      | 500  | internal_error                              | no                             |
| UpstreamFailed    | 502  | upstream_failed                             | perhaps                        |
| HistoryUnavailable| 503  | history_unavailable                         | after Retry-After              |
| LimitsUnavailable | 503  | limits_unavailable                          | after Retry-After              |
| Overloaded        | 503  | overloaded                                  | after Retry-After              |
| UpstreamNotReady  | 503  | upstream_not_ready                          | after Retry-After              |
|                   |      | upstream_start_failed                       | when somebody has mended it    |
| ShuttingDown      | 503  | shutting_down                               | after Retry-After              |
| UpstreamTimeout   | 504  | upstream_timeout                            | perhaps                        |

The body is OpenAI's `{"error": {"message", "type", "param", "code"}}` with our `request_id` in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar


class GatewayError(Exception):
    """The base of all of them.

    Args:
        message: what happened and what to do, for the caller; never a key, a prompt or an internal address.
        param: the request's field at fault, as OpenAI writes it (`messages.0.content`).
        code: replaces the class's code.
        retry_after_s: when trying again makes sense, in seconds.
        headers: what the answer says beside that.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s
        self._headers = dict(headers or {})

    def body(self, request_id: str | None = None) -> dict[str, Any]:
        """The error object of OpenAI's API, with the id under which our logs know the request."""
        error: dict[str, Any] = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        if request_id:
            error["request_id"] = request_id
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """With `retry-after` in whole seconds and `retry-after-ms`, which OpenAI's SDKs read first."""
        if self.retry_after_s is None:
            return self._headers
        return self._headers | {
            "retry-after": str(max(1, math.ceil(self.retry_after_s))),
            "retry-after-ms": str(max(1, math.ceil(self.retry_after_s * 1000))),
        }


class InvalidRequest(GatewayError):
    status, type, default_code = 400, "invalid_request_error", "invalid_request"


class ContextTooLong(InvalidRequest):
    default_code = "context_length_exceeded"


class NotAuthenticated(GatewayError):
    status, type, default_code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(GatewayError):
    status, type, default_code = 403, "invalid_request_error", "insufficient_scope"


class NotFound(GatewayError):
    status, type, default_code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(GatewayError):
    status, type, default_code = 405, "invalid_request_error", "method_not_allowed"


class ConversationBusy(GatewayError):
    status, type, default_code = 409, "invalid_request_error", "conversation_busy"


class TooLarge(GatewayError):
    status, type, default_code = 413, "invalid_request_error", "request_too_large"


class WrongContentType(GatewayError):
    status, type, default_code = 415, "invalid_request_error", "unsupported_media_type"


class HeadTooLarge(GatewayError):
    status, type, default_code = 431, "invalid_request_error", "headers_too_large"


class RateLimited(GatewayError):
    """`limit` is the kind of limit, for statistics: requests, tokens_minute, tokens_day or streams."""

    status, type, default_code = 429, "rate_limit_error", "rate_limit_exceeded"
    limit = "requests"


class UpstreamFailed(GatewayError):
    status, default_code = 502, "upstream_failed"


class HistoryUnavailable(GatewayError):
    status, default_code = 503, "history_unavailable"


class LimitsUnavailable(GatewayError):
    status, default_code = 503, "limits_unavailable"


class Overloaded(GatewayError):
    status, default_code = 503, "overloaded"


class UpstreamNotReady(GatewayError):
    status, default_code = 503, "upstream_not_ready"


class ShuttingDown(GatewayError):
    status, default_code = 503, "shutting_down"


class UpstreamTimeout(GatewayError):
    status, default_code = 504, "upstream_timeout"
