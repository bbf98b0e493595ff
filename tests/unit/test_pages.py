"""The pages against each other and against the tests: both languages in step, no command that nobody runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import (
    ROOT,
    SHELLS,
    Block,
    blocks,
    commands,
    english_of,
    headings,
    user_pages,
    without_comments,
)

pytestmark = pytest.mark.unit
PAIRS = [(english, page) for page in user_pages() if (english := english_of(page)) is not None]
NOT_COMPARED = {"", "text"}  # drawings and what programs say


def name_of(value: object) -> str | None:
    return value.name if isinstance(value, Path) else None


# --- both languages


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name_of)
def test_both_languages_have_the_same_headings(english: Path, chinese: Path) -> None:
    assert english.is_file(), f"{chinese.name} has no {english.name} beside it"
    told, translated = headings(english.read_text()), headings(chinese.read_text())
    levels, translated_levels = [level for level, _ in told], [level for level, _ in translated]
    assert levels == translated_levels, f"{english.name}: {told}\n{chinese.name}: {translated}"


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name_of)
def test_both_languages_have_the_same_code(english: Path, chinese: Path) -> None:
    told, translated = (
        [block for block in blocks(page) if block.language not in NOT_COMPARED] for page in (english, chinese)
    )
    for one, other in zip(told, translated, strict=False):
        same = one.language == other.language and without_comments(one) == without_comments(other)
        assert same, f"{one.place} and {other.place} differ but in comments"
        kind, other_kind = (re.sub(r"^outside:.*", "outside", block.mark) for block in (one, other))
        assert kind == other_kind, f"{one.place} and {other.place} are not marked alike"
    assert len(told) == len(translated), f"{english.name} and {chinese.name} have not the same number of blocks"


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=name_of)
def test_both_languages_name_the_same_settings(english: Path, chinese: Path) -> None:
    named, translated = (
        set(re.findall(r"`[A-Z][A-Z0-9]*_[A-Z0-9_]+", page.read_text())) for page in (english, chinese)
    )
    if english.name != "README.md":  # its Chinese page begins with mirrors, and is shorter elsewhere
        assert named == translated


# --- who runs the commands


TO_BE_RUN = [block for page in user_pages() for block in blocks(page) if block.language in {*SHELLS, "python", "js"}]


@pytest.mark.parametrize("block", TO_BE_RUN, ids=lambda block: block.place)
def test_every_block_of_commands_or_code_says_who_runs_it(block: Block) -> None:
    form = r"tested|tested: \S.*|gpu|outside: \S.*"
    assert len(block.marks) == 1, f"{block.place}: one comment above it, as tests/pages.py says; found {block.marks}"
    assert re.fullmatch(form, block.mark), f"{block.place}: {block.mark!r} is no mark, see tests/pages.py"
    _, _, runner = block.mark.partition("tested: ")
    if "/" in runner:
        text = _said_by(ROOT / runner)
        if "blocks_run_by(__file__)" in text or block.language not in SHELLS:  # it runs them as they stand
            return
        for words in commands(block.text):
            if words == ["make", "setup-dev"]:  # the tests themselves run in what it has made
                continue
            missing = [word for word in words if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)]
            assert not missing, f"{block.place}: `{' '.join(words)}` is not run by {runner}: no {missing} there"
    elif runner:
        calls = re.compile(rf'documented\w*\(\s*"{re.escape(runner)}"')
        tests = (ROOT / "tests").rglob("test_*.py")
        assert any(calls.search(path.read_text()) for path in tests), f"{block.place}: no test asks for {runner!r}"


def _said_by(runner: Path) -> str:
    """A test, with what it calls: modules of ours that it imports, scripts that it names, its folder's fixtures."""
    assert runner.is_file(), f"there is no {runner.relative_to(ROOT)}"
    text = runner.read_text()
    called = [
        ROOT / f"{name.replace('.', '/')}.py" for name in re.findall(r"from ((?:tests|scripts)\.[\w.]+) import", text)
    ]
    called += [ROOT / name for name in re.findall(r"scripts/[\w.]+\.(?:sh|py)", text)]
    called += [runner.parent / "conftest.py", ROOT / "tests" / "conftest.py"]
    return "\n".join([text, *(path.read_text() for path in called if path.is_file())])


def test_commands_are_found_as_people_write_them() -> None:
    written = """
# a comment
sudo apt-get install -y git
.venv/bin/python -m inference plan --model x   # a comment
export A=1 B=$(cat file)
read -rs TOKEN && export TOKEN
MODEL=/models/x make up
C_1=2
curl -d '{"a":
  1}' \\
  http://127.0.0.1
for one in 1 2; do
  docker restart -t 90 $one
done
"""
    assert list(commands(written)) == [
        ["apt-get", "install"],
        ["inference", "plan"],
        ["A", "B"],
        ["TOKEN"],
        ["TOKEN"],
        ["make", "up"],
        ["C_1"],
        ["curl"],
        ["docker", "restart"],
    ]


def test_blocks_and_marks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n<!-- a -->\n<!-- b -->\n```bash\n# no heading\n```\n\n   ```yaml\n   a: 1\n   ```\n## B\n")
    assert [(block.language, block.text, block.marks, block.line) for block in blocks(page)] == [
        ("bash", "# no heading\n", ("a", "b"), 5),
        ("yaml", "a: 1\n", (), 9),
    ]
    assert headings(page.read_text()) == [(1, "A"), (2, "B")]
