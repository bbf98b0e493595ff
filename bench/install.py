"""Programs that only the bench uses, each in a virtual environment of its own under build/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.processes import ROOT

_INSTALL_S = 600


def installed(name: str, package: str) -> Path | None:
    """The `bin` folder of build/NAME with `package` in it, installed once; None where pip cannot get it."""
    folder = ROOT / "build" / name
    if (folder / "installed").exists():
        return folder / "bin"
    print(f"bench: installing {package} (once, into build/{name}) …", file=sys.stderr, flush=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", package]
        subprocess.run(pip, check=True, timeout=_INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"bench: {package} is left out: {error}", file=sys.stderr)
        return None
    (folder / "installed").touch()
    return folder / "bin"
