"""The public port: opened first, and kept while another Python takes over."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping

from hosting.errors import CannotStart

DEFAULT_PORT = 7860
HANDED_OVER = "APP_LISTENING_SOCKET"  # the descriptor's number, from the Python that was too old to the one that serves


def open_port(environ: Mapping[str, str], default_host: str = "127.0.0.1") -> socket.socket:
    """The listening socket; the one that was handed over, where there is one. Raises CannotStart."""
    if handed := environ.get(HANDED_OVER):
        return _taken_over(handed)
    host = environ.get("HOST") or default_host
    text = environ.get("PORT") or environ.get("GRADIO_SERVER_PORT") or str(DEFAULT_PORT)
    if not (text.isascii() and text.isdigit()) or int(text) > 65535:
        raise CannotStart(f"PORT={text!r} is not a port: a number from 0 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(text), type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except PermissionError:
        raise CannotStart(
            f"Port {text} needs more rights than this user has. Choose one from 1024: PORT=7861."
        ) from None
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise CannotStart(f"HOST={host!r} is no address of this machine: {error.strerror or error}.") from None
        raise CannotStart(
            f"Port {text} on {host} is taken by another program. Stop that one or choose another port, for example: "
            "make run PORT=7861"
        ) from None
    return listener


def hand_over(listener: socket.socket) -> dict[str, str]:
    """The variable by which the program that replaces this process finds the open port."""
    listener.set_inheritable(True)
    listener.setblocking(True)
    return {HANDED_OVER: str(listener.fileno())}


def _taken_over(number: str) -> socket.socket:
    os.environ.pop(HANDED_OVER, None)  # children must not find it
    try:
        listener = socket.socket(fileno=int(number))
        listener.set_inheritable(False)
        listener.getsockname()
    except (OSError, ValueError):
        raise CannotStart(f"{HANDED_OVER} is for app.py's own use. Unset it and start again.") from None
    return listener


def is_on_all_addresses(listener: socket.socket) -> bool:
    return listener.getsockname()[0] in ("0.0.0.0", "::")


def url_of(listener: socket.socket) -> str:
    """Where this machine itself reaches it."""
    host, port = listener.getsockname()[:2]
    if is_on_all_addresses(listener):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
