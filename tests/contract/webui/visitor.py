"""A person at the web UI without a browser: what the page knows of its actions, and calls of them."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx2

Json = dict[str, Any]


class Visitor:
    """A person with a cookie of their own, or with that of a client that has been there before."""

    def __init__(self, url: str, http: httpx2.Client | None = None) -> None:
        self.http = http or httpx2.Client(base_url=url, timeout=30, trust_env=False)
        page = self.http.get("/").text
        config = re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.DOTALL)
        assert config is not None
        self.config: Json = json.loads(config[1])

    def action(self, name: str) -> Json:
        """What the page knows of one of its actions."""
        return next(d for d in self.config["dependencies"] if d["api_name"] == name)

    def body(self, name: str, session: str, *values: object) -> Json:
        """A call of an action; inputs that are not given are as the page has them at first."""
        first = {c["id"]: c["props"].get("value") for c in self.config["components"]}
        inputs = [first[i] for i in self.action(name)["inputs"]]
        data = [*values, *inputs[len(values) :]]
        return {"data": data, "fn_index": self.action(name)["id"], "session_hash": session}

    def predict(self, name: str, session: str, *values: object) -> httpx2.Response:
        return self.http.post("/gradio_api/run/predict", json=self.body(name, session, *values))

    def send(self, session: str, text: str) -> str:
        """Sends a message; returns what makes the page watch its answer, "" when there is none."""
        body = self.body("send", session, "", text)
        answer = self.http.post("/gradio_api/run/predict", json=body)
        assert answer.status_code == 200, answer.text
        return self.watched(answer)

    def watched(self, answer: httpx2.Response) -> str:
        """The token among the updates that `send` gave."""
        place = self.action("send")["outputs"].index(
            next(c["id"] for c in self.config["components"] if c["props"].get("elem_id") == "watched")
        )
        update = answer.json()["data"][place]
        return str(update.get("value", "")) if isinstance(update, dict) else str(update)

    def join(self, session: str, text: str) -> httpx2.Response:
        """Sends a message and begins to watch its answer."""
        token = self.send(session, text)
        return self.http.post("/gradio_api/queue/join", json=self.body("watch", session, token))

    def chat(self, session: str, text: str) -> str:
        """All that the page gets when a message is sent and its answer is watched."""
        answer = self.http.post("/gradio_api/run/predict", json=self.body("send", session, "", text))
        assert answer.status_code == 200, answer.text
        if not (token := self.watched(answer)):
            return answer.text
        self.http.post("/gradio_api/queue/join", json=self.body("watch", session, token))
        return answer.text + self.stream(session).text + self.predict("settle", session, "").text

    def stream(self, session: str) -> httpx2.Response:
        return self.http.get("/gradio_api/queue/data", params={"session_hash": session})
