"""One case of one client: python run.py CLIENT CASE. The gateway's address, key and model come from the environment."""

import importlib
import json
import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class To:
    """Where the cases go, and what the engine answers in words."""

    url: str
    key: str
    model: str
    answer: str


def main(client: str, name: str) -> None:
    cases = importlib.import_module(client).CASES
    if name == "--list":
        sys.stdout.write(json.dumps([case.__name__ for case in cases]))
        return
    (case,) = [case for case in cases if case.__name__ == name]
    case(To(*(os.environ[name] for name in ("BASE_URL", "API_KEY", "MODEL", "ANSWER"))))


main(*sys.argv[1:])
