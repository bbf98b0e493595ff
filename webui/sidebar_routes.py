"""What the sidebar's script (`sidebar.js`) asks of us: the list, names, pins, deletions, exports, imports.

Who asks is who `identity.py` says; whose a conversation is the gateway says. Whatever changes something must be JSON:
no page of another site can send that with a person's cookie without being asked for its permission first.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from webui import wire
from webui.asking import asking
from webui.conversations import PAGE, Conversations
from webui.door import refusal
from webui.errors import GatewayError
from webui.identity import Person
from webui.importing import LARGEST_FILE_BYTES, ImportRefused, parse_import
from webui.render import error_sentence
from webui.texts import TEXTS, say

_TYPES = {"md": "text/markdown; charset=utf-8", "json": "application/json"}
_STATUS = {"not_found": 404, "rate_limit_exceeded": 429, "conversation_busy": 409}
_LONGEST_SEARCH = 200

Answer = Callable[[Request, Person, str], Awaitable[Response]]


class SidebarRoutes:
    """The routes below `/webui/`."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    @property
    def routes(self) -> list[Route]:
        one = "/webui/conversations/{id:str}"
        return [
            Route("/webui/conversations", _told(self._list)),
            Route("/webui/conversations", _told(_changing(self._import)), methods=["POST"]),
            Route(one, _told(_changing(self._change)), methods=["POST"]),
            Route(f"{one}/delete", _told(_changing(self._delete)), methods=["POST"]),
            Route(f"{one}/undelete", _told(_changing(self._undelete)), methods=["POST"]),
            Route(f"{one}/export", _told(self._export)),
        ]

    async def _list(self, request: Request, person: Person, language: str) -> Response:
        query = request.query_params
        limit = query.get("limit", "")
        page = await self._conversations.page(
            person,
            after=query.get("after", ""),
            q=query.get("q", "").strip()[:_LONGEST_SEARCH],
            limit=min(PAGE, max(1, int(limit))) if limit.isascii() and limit.isdigit() else PAGE,
        )
        shown = {"entries": [_entry(c) for c in page.entries], "pinned": [_entry(c) for c in page.pinned]}
        return JSONResponse(shown | {"has_more": page.has_more})

    async def _change(self, request: Request, person: Person, language: str) -> Response:
        change = json.loads(await request.body())
        if isinstance(change, dict) and isinstance(change.get("title"), str):
            return JSONResponse({"title": await self._conversations.rename(person, _id(request), change["title"])})
        if isinstance(change, dict) and isinstance(change.get("pinned"), bool):
            await self._conversations.pin(person, _id(request), pinned=change["pinned"])
            return JSONResponse({"pinned": change["pinned"]})
        return refusal(400, "invalid_request", "Give a 'title' or 'pinned'.")

    async def _delete(self, request: Request, person: Person, language: str) -> Response:
        await self._conversations.deletions.mark(person, _id(request))
        return JSONResponse({"deleted": True})

    async def _undelete(self, request: Request, person: Person, language: str) -> Response:
        await self._conversations.deletions.undo(person, _id(request))
        return JSONResponse({"deleted": False})

    async def _export(self, request: Request, person: Person, language: str) -> Response:
        form = request.query_params.get("format", "")
        if form not in _TYPES:
            return refusal(400, "invalid_request", "'format' is md or json.")
        title, document = await self._conversations.export(person, _id(request), form)
        name = "".join(c for c in title if c.isalnum() or c in " -_").strip() or say(language, "list_untitled")
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(f'{name}.{form}')}"}
        return Response(document, media_type=_TYPES[form], headers=headers)

    async def _import(self, request: Request, person: Person, language: str) -> Response:
        try:
            imported = parse_import(await _bounded_body(request), request.query_params.get("name", ""))
        except ImportRefused as error:
            return JSONResponse(_error(error.key, say(language, error.key, **error.values)), 400)
        return JSONResponse(_entry(await self._conversations.add(person, imported)))


def _told(answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """A route whose errors are sentences in the page's language; what it answers is one person's, and kept nowhere."""

    async def route(request: Request) -> Response:
        language, person = asking(request)
        language = request.query_params.get("lang", "") if request.query_params.get("lang") in TEXTS else language
        try:
            response = await answer(request, person, language)
        except GatewayError as error:
            body = _error(error.code, error_sentence(error, language))
            response = JSONResponse(body, _STATUS.get(error.code, 503))
        response.headers["cache-control"] = "private, no-store"
        return response

    return route


def _changing(answer: Answer) -> Answer:
    async def only_json(request: Request, person: Person, language: str) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return refusal(415, "unsupported_media_type", "The body must be announced as application/json.")
        try:
            return await answer(request, person, language)
        except (ValueError, RecursionError):
            return refusal(400, "invalid_request", "The body must be JSON.")

    return only_json


async def _bounded_body(request: Request) -> bytes:
    """The body, or a little more of it than is allowed."""
    body = b""
    async for portion in request.stream():
        body += portion
        if len(body) > LARGEST_FILE_BYTES:
            break
    return body


def _entry(conversation: wire.Conversation) -> dict[str, Any]:
    match = {"match": conversation.match} if conversation.match else {}
    pinned = {"pinned": True} if conversation.metadata.get("pinned") == "true" else {}
    return {"id": conversation.id, "title": conversation.title, "at": conversation.updated_at, **pinned, **match}


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def _id(request: Request) -> str:
    return str(request.path_params["id"])
