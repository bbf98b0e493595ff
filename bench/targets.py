"""What the comparisons put beside each other."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import litellm
from bench.load import RESPONSES, Target
from bench.processes import gateway, mock, nginx


@contextmanager
def targets(*, with_litellm: bool = False) -> Iterator[dict[str, Target]]:
    """The mock, and the proxies in front of it, by name: direct, nginx, chat, stored, litellm. Some may lack."""
    with ExitStack() as stack:
        direct = stack.enter_context(mock())
        found = {"direct": direct}
        proxy = stack.enter_context(nginx(direct.port))
        if proxy is not None:
            found["nginx"] = proxy
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(gateway(folder, f"http://127.0.0.1:{direct.port}"))
        found["chat"] = dataclasses.replace(ours, name="chat")
        found["stored"] = dataclasses.replace(ours, name="stored", path=RESPONSES)
        if with_litellm and (rival := stack.enter_context(litellm.proxy(direct.port))) is not None:
            found["litellm"] = rival
        yield found
