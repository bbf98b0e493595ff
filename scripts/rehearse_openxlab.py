"""The whole walk of docs/openxlab.md without OpenXLab: a local git host with LFS in its place, the CPU in the card's.

usage: .venv/bin/python -m scripts.rehearse_openxlab [--keep FOLDER]
The steps have the numbers of the document. The model is a small InternLM2 with random weights, so what it says means
nothing; all that happens to its files is real. Needs git, git-lfs and the packages of `make setup-dev`. Exit
code 0: every step did what the document says.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from packaging.requirements import Requirement

from tests.fakes.git_host import GitHost, git_host, run_git
from tests.internlm2_models import Form, tokenizer_pieces, write_model

ROOT = Path(__file__).resolve().parent.parent
MODEL, CODE = "camper/my-finetune", "camper/my-chat"
PUSHED = (
    "app.py",
    "known_settings.py",
    "requirements.txt",
    "requirements.lock",
    "packages.txt",
    "README.md",
    "pyproject.toml",
)
PACKAGES = ("gateway", "hosting", "inference", "webui")
FORM = Form(heads=4, kv_heads=2, head_dim=32, kind="bin", shards=2, context=4096)
CATALOGUE = """\
[[model]]
name = "my-finetune"
title = "My fine-tune"
languages = ["zh", "en"]
licence = "my own"
note_en = "A fine-tuned InternLM2."
note_zh = "微调的 InternLM2。"
layout = "internlm2"
prompt = "internlm2"
context_tokens = {context}
shape = {{ hidden = {hidden}, layers = {layers}, heads = {heads}, kv_heads = {kv_heads}, head_dim = {head_dim}, \
intermediate = {intermediate}, vocabulary = {vocabulary} }}

[[model.source]]
kind = "openxlab"
id = "{id}"
revision = "main"
"""
DEADLINE_S = 300


class Rehearsal:
    """One walk in `folder`; each step prints what it does, and raises AssertionError or SubprocessError if it fails."""

    def __init__(self, folder: Path, host: GitHost) -> None:
        self.folder = folder
        self.host = host
        self.model = folder / "my-finetune"
        self.app = folder / "xlab-app-center"
        self.admin_key = secrets.token_hex(32)
        # What the platform's form holds: settings, and the two secrets.
        self.form = {
            "MODEL": "my-finetune",
            "INFERENCE_MODELS_FILE": "models.toml",
            "INFERENCE_SOURCES": "openxlab",
            "OPENXLAB_USERNAME": host.username,
            "OPENXLAB_TOKEN": host.token,
            "GATEWAY_ADMIN_KEY": self.admin_key,
        }

    def walk(self) -> None:
        self.make_the_model()
        self.publish_the_model()
        self.push_the_code()
        self.create_the_app()
        with self.started() as url:
            self.watch(url)
            self.test_it(url)
        fetched = self.host.downloaded_bytes()
        with self.started() as url:
            self.watch(url)
            assert self.host.downloaded_bytes() == fetched, "the second start fetched the model again"
        say("7", "a restart fetched nothing")
        self.look_for_secrets()

    def make_the_model(self) -> None:
        say("1", "a model of one's own: an InternLM2 in .bin files, checked before it is sent")
        write_model(self.model, FORM)
        self.inference("verify", str(self.model))

    def publish_the_model(self) -> None:
        say("2", "the model to the model centre, the token from the environment; a second time sends nothing")
        self.host.create(MODEL)
        told = self.inference("publish", str(self.model), "--to", f"openxlab:{MODEL}")
        assert len(self.host.of("PUT", "/lfs/objects/")) >= 2, told
        before = len(self.host.of("PUT", "/lfs/objects/"))
        self.inference("publish", str(self.model), "--to", f"openxlab:{MODEL}")
        assert len(self.host.of("PUT", "/lfs/objects/")) == before

    def push_the_code(self) -> None:
        say("3", "the code to its repository, with models.toml beside app.py")
        self.host.create(CODE)
        code = self.folder / "code"
        code.mkdir()
        for name in PUSHED:
            shutil.copy(ROOT / name, code)
        for name in PACKAGES:
            shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
        shape = {**dataclasses.asdict(FORM), "hidden": FORM.hidden, "vocabulary": tokenizer_pieces()}
        catalogue = CATALOGUE.format(**shape, id=MODEL)
        (code / "models.toml").write_text(catalogue, encoding="utf-8")
        who = ("-c", "user.name=camper", "-c", "user.email=camper@example.org")
        run_git(code, "init", "--quiet", "--initial-branch=main")
        run_git(code, "add", "--all")
        run_git(code, *who, "commit", "--quiet", "-m", "an app for OpenXLab")
        run_git(code, "push", "--quiet", str(self.host.folder / f"{CODE}.git"), "main")

    def create_the_app(self) -> None:
        say("4", "the app: the platform clones the code and installs requirements.txt and packages.txt")
        run_git(self.folder, "clone", "--quiet", str(self.host.folder / f"{CODE}.git"), str(self.app))
        for name in ("app.py", "requirements.txt", "packages.txt", "README.md"):
            assert (self.app / name).is_file(), f"{name} is not at the root"
        lacking = [line for line in _applicable(self.app / "requirements.txt") if not _is_installed(line)]
        assert not lacking, f"these packages are not installed here: {lacking}"
        for program in (self.app / "packages.txt").read_text().split():
            assert shutil.which(program), f"{program} is not installed here: apt-get install {program}"

    @contextmanager
    def started(self) -> Iterator[str]:
        """`python app.py`, as the platform starts it; ends it as the platform does, and expects exit code 0."""
        shown = {name: "***" if _is_secret(name) else text for name, text in self.form.items()}
        say("5", f"the start, with {' '.join(f'{name}={text}' for name, text in shown.items())}")
        log = self.folder / "app.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "app.py", "--port", "0", "--host", "127.0.0.1"],
                cwd=self.app,
                env=self.environ({**self.form, "APP_PLATFORM": "openxlab", "PYTHONUNBUFFERED": "1"}),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            yield _address_in(process, log)
        except BaseException:
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert code == 0, f"app.py ended with {code}"

    def watch(self, url: str) -> None:
        say("6", "its stages until it is ready, then one question end to end")
        told = self.smoke(url)
        print("".join(f"     {line}\n" for line in told.splitlines()), end="", flush=True)
        assert told.rstrip().endswith("passed")

    def smoke(self, url: str, tries: int = 5) -> str:
        """Random weights may end an answer before its first word; then it is asked again."""
        try:
            return self.inference("smoke", url, "--wait", str(DEADLINE_S), "--key-env", "GATEWAY_ADMIN_KEY")
        except AssertionError as error:
            if "The answer is empty" not in str(error) or tries == 1:
                raise
            return self.smoke(url, tries - 1)

    def test_it(self, url: str) -> None:
        say("7", "made public: a visitor's page, in the platform's frame")
        with urllib.request.urlopen(url + "/", timeout=60) as page:
            policy = page.headers["Content-Security-Policy"]
            assert page.status == 200
        assert re.search(r"frame-ancestors[^;]*openxlab\.org\.cn", policy), policy

    def look_for_secrets(self) -> None:
        say("8", "the secrets are in no log, no git configuration and no file of the app")
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.name != "admin.key":
                content = path.read_bytes()
                for secret in (self.host.token, self.admin_key):
                    assert secret.encode() not in content, f"a secret stands in {path}"

    def inference(self, *arguments: str) -> str:
        """A command of ours; its output is shown when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "inference", *arguments],
            cwd=ROOT,
            env=self.environ(
                {name: text for name, text in self.form.items() if name.startswith(("OPENXLAB", "GATEWAY"))}
            ),
            capture_output=True,
            text=True,
            timeout=DEADLINE_S + 60,
            check=False,
        )
        assert done.returncode == 0, f"{arguments[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def environ(self, extra: Mapping[str, str]) -> dict[str, str]:
        """A home, data and models of this walk's own; the local host in the model centre's place."""
        own = {
            "HOME": str(self.folder),
            "OPENXLAB_GIT_URL": self.host.url,
            "DATA_DIR": str(self.folder / "data"),
            "MODELS_DIR": str(self.folder / "models"),
        }
        return {**os.environ, **own, **extra}


def say(step: str, text: str) -> None:
    print(f"{step}/8  {text}", flush=True)


def _is_secret(name: str) -> bool:
    return name.endswith(("_TOKEN", "_KEY"))


def _applicable(requirements: Path) -> Iterator[Requirement]:
    for line in requirements.read_text(encoding="utf-8").splitlines():
        if re.match(r"[A-Za-z0-9]", line):
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate():
                yield wanted


def _is_installed(wanted: Requirement) -> bool:
    try:
        return wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def _address_in(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"listening on port \d+ \((http://[^\s,)]+)", log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"app.py opened no port (exit code {process.poll()})")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.rehearse_openxlab", description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this new folder, and leave it there")
    kept = parser.parse_args().keep
    with tempfile.TemporaryDirectory(prefix="openxlab-") as temporary:
        folder = kept or Path(temporary) / "walk"
        try:
            folder.mkdir(parents=True)
            with git_host(folder / "host") as host:
                host.is_private = True
                Rehearsal(folder, host).walk()
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            print(f"the walk ended here: {error}", file=sys.stderr)
            return 1
    print("the whole walk went well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
