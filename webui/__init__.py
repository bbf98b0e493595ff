"""The web UI: Gradio pages behind an ASGI app of ours, talking to the gateway over HTTP only.

Follow a message: `page.py` (layout, wiring) → `actions.py` (one handler per button) → `chat.py` (one turn) →
`client.py` (HTTP) → `sse.py`, `wire.py` (bytes to typed events) → `render.py`, `texts.py` (what people read).
Around it: `main.py` puts the parts together, `identity.py` says who is asking, `door.py` guards the paths.
"""
