"""The workflow on GitHub calls what everybody can call, knows no secret and may only read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(TEXT)["jobs"]
    return found


def commands(job: str) -> str:
    return "\n".join(step.get("run", "") for step in jobs()[job]["steps"])


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {name for job in jobs() for name in re.findall(r"\bmake ([a-z-]+)", commands(job))}
    assert called <= targets
    assert {"check", "test", "audit", "images", "sbom"} <= called


def test_it_runs_what_ci_runs() -> None:
    ours = re.findall(r"^make [a-z-]+", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert ours
    assert all(command in commands("test") for command in ours)


def test_it_has_no_secrets_and_reads_only() -> None:
    assert not re.search(r"\{\{.*secrets", TEXT)
    assert yaml.safe_load(TEXT)["permissions"] == {"contents": "read"}
    used = [step["uses"] for job in jobs().values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@(v\d+|[0-9a-f]{40})", action) for action in used)
