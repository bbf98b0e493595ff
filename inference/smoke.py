"""`smoke`: one question end to end through a deployment, by its address and key, as a stranger's program would ask it.

| step | what | for |
|---|---|---|
| ready | `GET /v1/status`, or `GET /health` where there is none; with patience when asked | all |
| models | `GET /v1/models` | all |
| chat | `POST /v1/chat/completions`, streamed, through huggingface_hub | all |
| history | a conversation with two turns of `POST /v1/responses`, read back and deleted | this gateway |
| generate | `POST /` through huggingface_hub | Text Generation Inference |
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from inference.errors import NotReadyInTime, SmokeFailed
from inference.sizes import megabytes
from inference.web_json import Deployment, NoSuchPath, NotReady

QUESTION = "Write one short sentence about the sea."
MOST_TOKENS = 24
PAUSE_S = 2.0
Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What answers: ours has a status and a history, TGI its own text generation; others have OpenAI's API alone."""

    is_ours: bool = False
    is_tgi: bool = False

    @property
    def title(self) -> str:
        return "this gateway" if self.is_ours else "Text Generation Inference" if self.is_tgi else "an OpenAI API"


def smoke(at: Deployment, say: Say, *, model: str = "", wait_s: float = 0.0) -> None:
    """One line a step. Raises NotReadyInTime or SmokeFailed at the first step that fails, having told it."""
    from inference.smoke_chat import chat, generate  # its client takes a second to import

    kind = _step("ready", say, lambda: _wait(at, wait_s, say), lambda found: found.title)
    model = _step("models", say, lambda: _model(at, kind, model), str)
    _step(
        "chat",
        say,
        lambda: chat(at, model, QUESTION, MOST_TOKENS),
        lambda answer: f"{answer.pieces} pieces, the first after {answer.first_s:.2f} s: {answer.text[:40]!r}",
    )
    if kind.is_ours:
        _step("history", say, lambda: _history(at, model), str)
    if kind.is_tgi:
        _step("generate", say, lambda: generate(at, "The sea is", 8), repr)
    say("passed")


def _step(name: str, say: Say, work: Callable[[], T], told: Callable[[T], str]) -> T:
    began_at = time.monotonic()
    try:
        found = work()
    except NotReady as error:
        say(f"FAIL  {name:<9} {error}")
        raise SmokeFailed(f"{name}: {error}") from None
    except (SmokeFailed, NotReadyInTime) as error:
        say(f"FAIL  {name:<9} {error.message}")
        raise
    say(f"pass  {name:<9} {time.monotonic() - began_at:6.2f} s  {told(found)}")
    return found


def _wait(at: Deployment, wait_s: float, say: Say) -> Kind:
    """Until it is ready; its stages are told as they come. Raises NotReadyInTime."""
    deadline = time.monotonic() + wait_s
    said = ""
    while True:
        try:
            return _kind(at)
        except NotReady as waiting:
            if str(waiting) != said and wait_s:
                said = str(waiting)
                say(f"wait  {said}")
            if time.monotonic() + PAUSE_S > deadline:
                cure = "Wait longer: --wait 1800." if wait_s else "Add --wait 600 to wait for it."
                raise NotReadyInTime(f"It is not ready: {waiting}. {cure}") from None
        time.sleep(PAUSE_S)


def _kind(at: Deployment) -> Kind:
    """What is there, when it is ready. Raises NotReady."""
    try:
        status = at.ask("/v1/status")
    except NoSuchPath:
        return Kind(is_tgi=_is_tgi(at))
    if status.get("object") != "status":
        return Kind(is_tgi=_is_tgi(at))
    if not status.get("ready"):
        raise NotReady(_stage(status))
    engines = {upstream.get("engine") for upstream in status.get("upstreams") or [] if isinstance(upstream, dict)}
    return Kind(is_ours=True, is_tgi=engines == {"tgi"})


def _stage(status: dict[str, Any]) -> str:
    done, total = status.get("done") or 0, status.get("total") or 0
    count = f", {megabytes(done)} of {megabytes(total)}" if total and status.get("unit") == "bytes" else ""
    words = (str(status.get("stage") or "not ready"), str(status.get("message") or ""))
    return ": ".join(word for word in words if word)[:300] + count


def _is_tgi(at: Deployment) -> bool:
    try:
        info = at.ask("/info")
    except SmokeFailed:
        return False
    return "model_id" in info and "max_total_tokens" in info


def _model(at: Deployment, kind: Kind, wanted: str) -> str:
    """An older TGI has no list of models; then its one model, whatever name is asked for."""
    try:
        data = at.ask("/v1/models").get("data")
    except NoSuchPath:
        if not kind.is_tgi:
            raise
        data = [{"id": at.ask("/info")["model_id"]}]
    names = [str(entry["id"]) for entry in data if isinstance(entry, dict) and "id" in entry] if data else []
    if not names:
        raise SmokeFailed("It names no model.")
    if wanted and wanted not in names:
        raise SmokeFailed(f"The model {wanted!r} is not there; there are: {', '.join(names)}.")
    return wanted or names[0]


def _history(at: Deployment, model: str) -> str:
    """Two turns whose second one sees the first; what was made is deleted, also when something fails."""
    conversation = str(at.ask("/v1/conversations", {"metadata": {"title": "smoke"}})["id"])
    try:
        used = [_turn(at, model, conversation, text) for text in ("My name is Ada. Say hello.", "What is my name?")]
        if used[1] <= used[0]:
            raise SmokeFailed("The second turn did not see the first.")
        items = at.ask(f"/v1/conversations/{conversation}/items").get("data") or []
        if len(items) != 4:
            raise SmokeFailed(f"{len(items)} messages were stored instead of 4.")
    finally:
        at.ask(f"/v1/conversations/{conversation}", method="DELETE")
    return "two turns stored, read back and deleted"


def _turn(at: Deployment, model: str, conversation: str, text: str) -> int:
    """Returns how many tokens the model was given."""
    body = {"model": model, "conversation": conversation, "input": text, "max_output_tokens": MOST_TOKENS}
    response = at.ask("/v1/responses", body)
    reason = (response.get("incomplete_details") or {}).get("reason")
    if response.get("status") != "completed" and reason != "max_output_tokens":
        raise SmokeFailed(f"A turn ended as {response.get('status')}: {reason or response.get('error')}.")
    return int((response.get("usage") or {}).get("input_tokens") or 0)
