"""The web UI: Gradio pages behind an ASGI app of ours, talking to the gateway over HTTP only.

Follow a message: `page.py` (wiring) → `chat_actions.py` (one handler per button) → `chat.py` (send, retry, open,
delete) → `turn.py` (one answer as it comes) → `client.py` (HTTP) → `sse.py`, `wire.py` (bytes to typed events), and
back as a `view.py` through `render.py` and `texts.py` (what people read).
The page's components are in `chat_column.py`, `sidebar.py` and `settings_panel.py`, joined by `layout.py`. The list in
the sidebar is drawn by `sidebar.js`, which asks `sidebar_routes.py`; what it does is in `conversations.py`.
Around it: `main.py` puts the parts together, `door.py` guards the paths, `identity.py` says who is asking (by the
tickets of `tickets.py`), `entrance.py` whether they may (login, own keys), `sessions.py` whose stream it is.
"""
