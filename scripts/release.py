"""What a version is handed out as, in dist/: `make wheel` and `make release` call `scripts/release.py wheel|all`.

The wheel is built from the last commit, never from the working tree, so nothing that lies about gets in; its files are
compared with those that git knows, and it is tried in a venv of its own, whose packages come by requirements.lock with
hashes. `all` wants a clean tree and a section of this version in CHANGELOG.md, and adds the images (they stay in the
engine, dist/images.txt has their ids), what is in them (CycloneDX) and SHA256SUMS of all. Nothing is sent anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gateway", "inference", "webui")
MODULES = ("known_settings.py",)
IMAGES = ("gateway", "webui", "cpu", "app")
TRIALS = (
    ("-m", "gateway", "--version"),
    ("-m", "inference", "list"),
    ("-m", "webui", "--help"),
    ("-c", "import gateway.main, inference, webui.main"),
)
_USAGE = "usage: scripts/release.py wheel | all"


class ReleaseError(Exception):
    """Why there is no release, with what to do next, in a sentence."""


def main(words: list[str]) -> int:
    """Exit codes: 0 done, 1 refused or failed, 2 wrong usage."""
    if words not in (["wheel"], ["all"]):
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        release(ROOT, ROOT / "dist", with_images=words == ["all"])
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("release: stopped; dist/ is not whole", file=sys.stderr)
        return 130
    return 0


def release(root: Path, dist: Path, *, with_images: bool, say: Callable[[str], None] = print) -> Path:
    """Fills `dist` from the checkout at `root`; returns the wheel. Raises ReleaseError."""
    with tempfile.TemporaryDirectory(prefix="internlm-stack-release-") as name:
        code = committed_files(root, Path(name) / "code")
        version = version_of(code)
        if with_images:
            refuse_unready(root, version)
            require_docker(root)
        shutil.rmtree(dist, ignore_errors=True)
        dist.mkdir(parents=True)
        say(f"release: building the wheel of {version}")
        wheel = build_wheel(code, dist, _git(root, "log", "-1", "--format=%ct").strip())
        say(f"release: {wheel.name}: {check_contents(wheel, code)} files, as git has them")
        shutil.copy(code / "requirements.lock", dist)
        say("release: installing it with the packages of requirements.lock into a venv of its own (a minute or two)")
        try_wheel(wheel, dist / "requirements.lock", Path(name) / "venv", version)
        say("release: its commands run there")
    if with_images:
        make_images(root, dist, version, version, say)
    count = write_checksums(dist)
    say(f"release: {count} files and SHA256SUMS in {dist}")
    return wheel


# --- may it be released?


def committed_files(root: Path, folder: Path) -> Path:
    """The last commit, unpacked into `folder`."""
    archive = folder.with_suffix(".tar")
    problem = "git cannot read the last commit; release from a clone"
    _run(["git", "archive", "--output", str(archive), "HEAD"], root, {}, problem)
    folder.mkdir()  # and tar, not tarfile: Debian's Python 3.11.2 does not know its filters
    _run(["tar", "-xf", str(archive)], folder, {}, "the commit cannot be unpacked")
    return folder


def version_of(code: Path) -> str:
    """VERSION of gateway/__init__.py, where alone it stands."""
    found = re.search(r'^VERSION = "(\d+\.\d+\.\d+)"$', (code / "gateway" / "__init__.py").read_text(), re.MULTILINE)
    if not found:
        raise ReleaseError('gateway/__init__.py has no line VERSION = "X.Y.Z". Write it.')
    return found[1]


def refuse_unready(root: Path, version: str) -> None:
    """Raises ReleaseError for a tree with changes, a changelog that is behind, and a version that is taken."""
    changed = _git(root, "status", "--porcelain").splitlines()
    if changed:
        raise ReleaseError(f"{len(changed)} uncommitted changes, the first {changed[0][3:]}. Commit or remove them.")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        raise ReleaseError(f"CHANGELOG.md has no line `## [{version}] - YYYY-MM-DD`. Give this version its section.")
    pending = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", changelog, re.DOTALL | re.MULTILINE)
    if pending and pending[1].strip():
        raise ReleaseError(
            f"CHANGELOG.md still has lines under [Unreleased]. Move them to [{version}], or raise VERSION for them."
        )
    tagged = _git(root, "tag", "--list", f"v{version}", "--format=%(objectname) %(*objectname)").split()
    if tagged and tagged[-1] != _git(root, "rev-parse", "HEAD").strip():
        raise ReleaseError(f"the tag v{version} is another commit. Raise VERSION in gateway/__init__.py.")


def require_docker(root: Path) -> None:
    """Raises ReleaseError where no engine answers."""
    _run(["docker", "version"], root, {}, "no Docker engine answers, and the images need one")


# --- the wheel


def build_wheel(code: Path, dist: Path, made_at: str) -> Path:
    """Built by hatchling; `made_at` (Unix seconds) stands in it as every file's date, so two builds are alike."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)]
    _run(command, code, {"SOURCE_DATE_EPOCH": made_at}, "the wheel cannot be built")
    (wheel,) = dist.glob("*.whl")
    return wheel


def check_contents(wheel: Path, code: Path) -> int:
    """Compares the wheel's files with the packages' committed ones, and which may be run; returns their number."""
    wanted = {
        path.relative_to(code).as_posix(): os.access(path, os.X_OK)
        for name in (*PACKAGES, *MODULES)
        for path in (code / name, *(code / name).rglob("*"))
        if path.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        has = {
            one.filename: bool(one.external_attr >> 16 & 0o100)
            for one in archive.infolist()
            if ".dist-info/" not in one.filename
        }
    wrong = sorted(name for name in wanted.keys() | has.keys() if wanted.get(name) != has.get(name))
    if wrong:
        raise ReleaseError(
            f"{wheel.name} is not what git has: {', '.join(wrong[:5])}. Look at [tool.hatch.build] in pyproject.toml."
        )
    return len(has)


def try_wheel(wheel: Path, lock: Path, venv: Path, version: str) -> None:
    """Installs it with all extras, everything by hash, and runs its commands outside of any checkout."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    itself = venv.with_suffix(".txt")
    itself.write_text(f"internlm-stack[app] @ {wheel.as_uri()} --hash=sha256:{digest}\n")
    elsewhere = venv.with_suffix(".empty")
    elsewhere.mkdir()
    _run([sys.executable, "-m", "venv", str(venv)], elsewhere, {}, "no venv can be made")
    python = str(venv / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    problem = "the wheel cannot be installed with requirements.lock (an index is needed: PIP_INDEX_URL)"
    _run([*install, "--require-hashes", "-r", str(lock), "-r", str(itself)], elsewhere, {}, problem)
    for words in TRIALS:
        said = _run([python, "-I", *words], elsewhere, {}, f"`python {' '.join(words)}` fails in the wheel's venv")
        if "--version" in words and said.strip() != version:
            raise ReleaseError(f"the installed gateway says {said.strip()!r} for its version, not {version}.")
    left = [path.name for path in elsewhere.iterdir()]
    if left:
        raise ReleaseError(
            f"the wheel's commands wrote {', '.join(left)} where they were only asked to tell something."
        )


# --- images


def make_images(root: Path, dist: Path, version: str, tag: str, say: Callable[[str], None]) -> None:
    """`make images` and `make sbom`; what they made is looked at and listed."""
    say("release: building the images (a few minutes the first time)")
    _show(["make", "images", f"TAG={tag}"], root, "the images cannot be built")
    listed = []
    for target in IMAGES:
        image = f"internlm-stack/{target}:{tag}"
        told = json.loads(_run(["docker", "image", "inspect", image], root, {}, f"{image} is not there"))[0]
        label = told["Config"]["Labels"].get("org.opencontainers.image.version")
        if label != version:
            raise ReleaseError(f"{image} is labelled {label}, not {version}. Look at `make images`.")
        listed.append(f"{told['Id']}  {image}\n")
    (dist / "images.txt").write_text("".join(listed))
    say("release: listing what is in the images")
    _show(["make", "sbom", f"TAG={tag}"], root, "the images cannot be looked into")
    for target in IMAGES:
        document = root / "build" / "sbom" / f"{target}.cdx.json"
        if json.loads(document.read_text())["metadata"]["component"]["version"] != version:
            raise ReleaseError(f"{document} is of another version. Look at `make sbom`.")
        shutil.copy(document, dist)


def write_checksums(dist: Path) -> int:
    """SHA256SUMS in the form of `sha256sum`, which checks it with -c; returns the number of files."""
    files = sorted(path for path in dist.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (dist / "SHA256SUMS").write_text("".join(lines))
    return len(files)


# --- programs


def _git(root: Path, *words: str) -> str:
    return _run(["git", *words], root, {}, f"`git {' '.join(words)}` fails")


def _run(command: list[str], folder: Path, environ: dict[str, str], problem: str) -> str:
    """What a program prints. Raises ReleaseError with the problem and the program's last words."""
    whole = {**os.environ, **environ}
    try:
        done = subprocess.run(command, cwd=folder, env=whole, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ReleaseError(f"{problem}: there is no program {command[0]}. Install it.") from None
    if done.returncode:
        last = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise ReleaseError(f"{problem}: {last[-600:] or f'exit code {done.returncode}'}")
    return done.stdout


def _show(command: list[str], folder: Path, problem: str) -> None:
    """Runs a program whose words are the progress."""
    sys.stdout.flush()
    if subprocess.run(command, cwd=folder, check=False).returncode:
        raise ReleaseError(f"{problem}; the cause stands above.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
