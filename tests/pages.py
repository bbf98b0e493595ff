"""The pages that users read, taken apart: headings, code blocks, and who runs each block.

Before each block of commands stands one HTML comment:

    <!-- tested -->                     tests/real/test_documents.py runs it as it stands
    <!-- tested: tests/…/test_x.py -->  that test (or another file that runs things) gives these commands in its own way
    <!-- tested: NAME -->               a test of tests/containers runs it as it stands: documented("NAME", …)
    <!-- gpu -->                        needs a card; not run
    <!-- outside: WHAT IT NEEDS -->     needs another host, such as a model hub; not run
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOR_DEVELOPERS = {"architecture.md", "bench.md"}
SHELLS = {"bash", "sh", "shell", "console"}
_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(\w*)\s*$")
_COMMENT = re.compile(r"^\s*<!-- (.*?) -->\s*$")
_KEYWORDS = {"for", "do", "done", "until", "while", "if", "then", "else", "fi", "set", "cd", "."}
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, its text, the comments right above it, and its line in the file."""

    page: Path
    line: int
    language: str
    text: str
    marks: tuple[str, ...]

    @property
    def mark(self) -> str:
        return self.marks[-1] if self.marks else ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def user_pages() -> list[Path]:
    """What somebody reads who uses or runs this; not what is for those who change it."""
    docs = (path for path in (ROOT / "docs").glob("*.md") if path.name not in FOR_DEVELOPERS)
    return [*sorted(ROOT.glob("README*.md")), *sorted(docs)]


def english_of(page: Path) -> Path | None:
    """The page that a Chinese one is the translation of; None for others."""
    name = re.sub(r"[._]zh-CN\.md$", ".md", page.name)
    return page.with_name(name) if name != page.name else None


def _lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Number, line, and `text`, `open`, `code` or `close`."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        found = _FENCE.match(line)
        if found and not fence:
            fence = found[2]
            yield number, line, "open"
        elif found and found[2] == fence and not found[3]:
            fence = ""
            yield number, line, "close"
        else:
            yield number, line, "code" if fence else "text"


def headings(text: str) -> list[tuple[int, str]]:
    """Levels and words, in order."""
    found = (re.match(r"(#{1,6}) +(.+)$", line) for _, line, kind in _lines(text) if kind == "text")
    return [(len(one[1]), one[2].strip()) for one in found if one]


def blocks(page: Path) -> list[Block]:
    found, above, code, head = [], [""], [], ("", "", 0)
    for number, line, kind in _lines(page.read_text()):
        if kind == "open":
            opened = _FENCE.match(line)
            assert opened
            head, code = (opened[1], opened[3], number), []
        elif kind == "code":
            code.append(line.removeprefix(head[0]))
        elif kind == "close":
            text = "".join(f"{one}\n" for one in code)
            found.append(Block(page, head[2], head[1], text, _marks(above)))
            above = [""]
        else:
            above.append(line)
    return found


def blocks_run_by(test: str) -> list[Block]:
    """Those whose mark names this test (its `__file__`), but for translations, which have the same code."""
    name = Path(test).resolve().relative_to(ROOT)
    pages = (page for page in user_pages() if english_of(page) is None)
    return [block for page in pages for block in blocks(page) if block.mark == f"tested: {name}"]


def _marks(above: list[str]) -> tuple[str, ...]:
    """The comments on the lines that end `above`, in their order."""
    marks: list[str] = []
    for line in reversed(above):
        comment = _COMMENT.match(line)
        if not comment:
            break
        marks.insert(0, comment[1])
    return tuple(marks)


def without_comments(block: Block) -> str:
    """The code alone: comments, and lines that hold nothing else, may be in another language."""
    sign = r"//" if block.language in {"js", "javascript", "json", "ts", "typescript"} else "#"
    lines = (re.sub(rf"(^|\s+){sign}(?!!).*$", "", line) for line in block.text.splitlines())
    return "\n".join(line for line in lines if line.strip())


def commands(text: str) -> Iterator[list[str]]:
    """The first words, at most two, of each command of a shell's block, as a test would name them.

    `.venv/bin/python -m inference plan` is `inference plan`; of assignments, `export` and `read` it is the variables.
    """
    pending = ""
    for line in text.replace("\\\n", " ").splitlines():
        pending += f"{line}\n"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quoted text goes on in the next line
            continue
        pending = ""
        for part in _split(words):
            yield from _first_words(part)
    assert not pending.strip(), f"a quote is left open: {pending}"


def _split(words: list[str]) -> list[list[str]]:
    """At `&&`."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _first_words(words: list[str]) -> Iterator[list[str]]:
    assigned = []
    while words and (found := _ASSIGNMENT.match(words[0])):
        assigned.append(found[1])
        words = words[1:]
    if words and words[0] in {"export", "read"}:
        yield [found[1] for word in words[1:] if (found := re.fullmatch(r"(\w+)(=.*)?", word))]
    elif words and words[0] not in _KEYWORDS:
        words = words[1:] if words[0] in {"sudo", "exec"} else words
        if re.fullmatch(r"(.*/)?python3?", words[0]) and words[1:2] == ["-m"]:
            words = [words[2].removeprefix("scripts."), *words[3:]]
        yield [words[0].removeprefix("./"), *(word for word in words[1:2] if re.fullmatch(r"\w[\w.-]*", word))]
    elif not words:
        yield from ([name] for name in assigned)
