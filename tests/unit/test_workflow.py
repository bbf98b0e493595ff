"""The workflows on GitHub call what everybody can call, know no secret and may only read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {path.name: path.read_text() for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))}


def jobs(workflow: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOWS[workflow])["jobs"]
    return found


def commands(workflow: str, job: str) -> str:
    return "\n".join(step.get("run", "") for step in jobs(workflow)[job]["steps"])


def called(workflow: str) -> set[str]:
    return {name for job in jobs(workflow) for name in re.findall(r"\bmake ([a-z-]+)", commands(workflow, job))}


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set.union(*map(called, WORKFLOWS)) <= targets
    assert called("ci.yml") == {"check", "setup-torch", "test", "audit", "pin-images", "images", "sbom"}
    assert called("release.yml") == {"check", "test-fast", "release"}


def test_it_runs_what_ci_runs() -> None:
    run = (ROOT / ".ci" / "run").read_text()
    ours = re.findall(r"^make ([a-z-]+)", run, re.MULTILINE)
    assert ours == ["check", "setup-torch", "test"]
    assert re.findall(r"\bmake ([a-z-]+)", commands("ci.yml", "test")) == ours


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_it_has_no_secrets_and_reads_only(workflow: str) -> None:
    assert not re.search(r"\{\{.*secrets", WORKFLOWS[workflow])
    assert yaml.safe_load(WORKFLOWS[workflow])["permissions"] == {"contents": "read"}
    used = [step["uses"] for job in jobs(workflow).values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[a-z-]+@(v\d+|[0-9a-f]{40})", action) for action in used)


def test_a_tag_that_is_not_the_version_is_no_release() -> None:
    assert yaml.safe_load(WORKFLOWS["release.yml"])[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as true
    assert '[ "$GITHUB_REF_NAME" = "v$(.venv/bin/python -m gateway --version)" ]' in commands("release.yml", "release")
