"""requirements.txt, which platforms install before our code runs: made from the lock files, for old Pythons too.

On Python 3.11 and newer it is requirements.lock without hashes (platforms add packages of their own); on older ones it
is uv alone, with which app.py makes a newer Python. `scripts/lock.sh` writes the file, a test compares it.
usage: python scripts/space_requirements.py >requirements.txt
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# What a Space or an OpenXLab app installs. Made from the lock files by scripts/space_requirements.py; without hashes,
# because platforms add packages of their own. On an old Python it is uv alone: app.py makes a newer Python with it.
"""
NEW = "python_full_version >= '3.11'"


def render(lock: str, dev_lock: str) -> str:
    """From the texts of requirements.lock and requirements-dev.lock, which has uv."""
    uv = re.search(r"^uv==([\w.]+)", dev_lock, re.MULTILINE)
    assert uv, "uv is not in requirements-dev.lock"
    lines = [_marked(line) for line in re.findall(r"^([\w.-]+==[^\\\n]+?) *\\?$", lock, re.MULTILINE)]
    return HEAD + "\n".join([f"uv=={uv[1]} ; python_full_version < '3.11'", *lines]) + "\n"


def _marked(line: str) -> str:
    """With the condition, in brackets where it meets an `or`."""
    pin, _, marker = (part.strip() for part in line.partition(" ; "))
    if not marker:
        return f"{pin} ; {NEW}"
    return f"{pin} ; ({marker}) and {NEW}" if " or " in marker else f"{pin} ; {marker} and {NEW}"


if __name__ == "__main__":
    texts = ((ROOT / name).read_text(encoding="utf-8") for name in ("requirements.lock", "requirements-dev.lock"))
    print(render(*texts), end="")
