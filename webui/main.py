"""create_app(settings): the only place where the web UI's parts are put together."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from webui import page_html
from webui.address import AddressMiddleware
from webui.chat import Chat
from webui.client import GatewayClient
from webui.conversations import Conversations
from webui.door import DoorMiddleware
from webui.entrance import Entrance, EntranceMiddleware
from webui.identity import IdentityMiddleware
from webui.language import LanguageMiddleware
from webui.page_html import PageHtmlMiddleware
from webui.presence import Presence, PresenceMiddleware
from webui.public_address import PublicAddressMiddleware
from webui.sessions import SessionMiddleware
from webui.settings import Settings
from webui.tickets import Tickets


def create_app(settings: Settings) -> Starlette:
    """The web UI as an ASGI app: Gradio's page behind the door and the identity.

    It has its own lifespan. Served alone (`python -m webui`) that runs by itself; Starlette does not run the lifespan
    of a mounted app, so whoever mounts this one at `/` enters it in the lifespan of the outer app:

        async with web.router.lifespan_context(web): ...
    """
    _keep_gradio_quiet()
    _forget_unused_numbers()
    import gradio as gr
    from fastapi import FastAPI

    from webui.page import build_page, styles, theme
    from webui.scripts import script_routes, script_tags
    from webui.sidebar_routes import SidebarRoutes

    tickets = Tickets(settings.load_secrets(), person_s=settings.person_s, login_s=settings.login_s)
    client = GatewayClient(settings)
    entrance = Entrance(settings, tickets, client)
    chat = Chat(client)
    conversations = Conversations(client, stop=chat.stop)
    presence = Presence(settings.gone_timeout_s, when_gone=chat.turns.stop_all_of)
    blocks, first_texts = build_page(settings, chat, client, entrance)
    inner = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        theme=theme(),
        css=styles(),
        head=script_tags(),
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client, inner.router.lifespan_context(inner):
            yield
            presence.close()
            await chat.close()
            await conversations.deletions.close()

    return Starlette(
        routes=[
            *entrance.routes,
            *script_routes(),
            *SidebarRoutes(conversations).routes,
            Route("/webui/page.js", page_html.script),
            Mount("/", _PageCompressed(PageHtmlMiddleware(inner, first_texts.put_into, settings.frame_ancestors))),
        ],
        middleware=[
            Middleware(PublicAddressMiddleware, root_path=settings.root_path),
            Middleware(DoorMiddleware, frame_ancestors=settings.frame_ancestors),
            Middleware(AddressMiddleware, trusted_hops=settings.trusted_proxy_hops),
            Middleware(LanguageMiddleware),
            Middleware(IdentityMiddleware, tickets=tickets, check=entrance.current),
            Middleware(EntranceMiddleware, entrance=entrance),
            Middleware(PresenceMiddleware, presence=presence),
            Middleware(SessionMiddleware),
        ],
        lifespan=lifespan,
    )


class _PageCompressed:
    """The page, which is rewritten for each request, compressed; Gradio compresses everything else itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressed = GZipMiddleware(app, compresslevel=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["path"] == "/"
        await (self._compressed if is_page else self._app)(scope, receive, send)


def _keep_gradio_quiet() -> None:
    """No calls home, no statistics. Gradio and huggingface_hub read these when they are imported and used.

    HF_HUB_OFFLINE is left alone: on one host the same process may be fetching the model.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(
        10**9
    )  # else it makes a pandas table of all past events each time
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _forget_unused_numbers() -> None:
    """Gradio reads these when it is imported and raises on what is no number. Nothing of ours asks it for a port.

    GRADIO_SERVER_PORT is ours as well: whoever starts the server has read it by now.
    """
    for name in ("GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS", "GRADIO_NODE_NUM_PORTS", "GRADIO_DEFAULT_CONCURRENCY_LIMIT"):
        os.environ.pop(name, None)
