"""`make release` refuses what is not ready, and notices a wheel that is not what git has. Building is in tests/real."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from scripts import release
from scripts.release import ReleaseError
from scripts.wheel_extras import packages_of
from tests.unit.test_docs import HAS_GIT, committed

pytestmark = pytest.mark.unit
ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-11-26\n\n- More.\n"


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small one that may be released."""
    if not HAS_GIT:
        pytest.skip("no git here")
    root = tmp_path / "checkout"
    for package in release.PACKAGES:
        (root / package).mkdir(parents=True)
        (root / package / "__init__.py").write_text('VERSION = "1.2.3"\n')
    for module in release.MODULES:
        (root / module).write_text("NAMES = frozenset()\n")
    (root / "inference" / "askpass.sh").write_text("#!/bin/sh\n")
    (root / "inference" / "askpass.sh").chmod(0o755)
    (root / "CHANGELOG.md").write_text(CHANGELOG)
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")
    return root


def refusal(root: Path) -> str:
    with pytest.raises(ReleaseError) as refused:
        release.release(root, root / "dist", with_images=True, say=lambda _: None)
    assert not (root / "dist").exists(), "what was there before must stay"
    return str(refused.value)


def test_a_clean_checkout_with_its_section_may_be_released(checkout: Path) -> None:
    release.refuse_unready(checkout, "1.2.3")


def test_changes_are_refused_by_name(checkout: Path) -> None:
    (checkout / "gateway" / "new.py").write_text("")
    assert refusal(checkout) == "1 uncommitted changes, the first gateway/new.py. Commit or remove them."


def test_a_version_without_a_section_is_refused(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(CHANGELOG.replace("1.2.3", "1.2.2"))
    git(checkout, "commit", "-qam", "behind")
    assert "no line `## [1.2.3] - YYYY-MM-DD`" in refusal(checkout)


def test_a_section_without_a_date_is_refused(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(CHANGELOG.replace(" - 2026-11-26", ""))
    git(checkout, "commit", "-qam", "undated")
    assert "no line `## [1.2.3] - YYYY-MM-DD`" in refusal(checkout)


def test_what_is_still_unreleased_is_refused(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text(CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n\n- Something.\n"))
    git(checkout, "commit", "-qam", "more")
    assert "still has lines under [Unreleased]" in refusal(checkout)


def test_a_version_that_is_taken_is_refused(checkout: Path) -> None:
    git(checkout, "tag", "-a", "v1.2.3", "-m", "this one")
    release.refuse_unready(checkout, "1.2.3")
    git(checkout, "commit", "-q", "--allow-empty", "-m", "later")
    assert refusal(checkout) == "the tag v1.2.3 is another commit. Raise VERSION in gateway/__init__.py."


def test_a_folder_without_git_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith("git cannot read the last commit; release from a clone: fatal: not a git")


def test_without_a_version_it_says_where_it_belongs(checkout: Path) -> None:
    (checkout / "gateway" / "__init__.py").write_text("")
    git(checkout, "commit", "-qam", "none")
    assert refusal(checkout) == 'gateway/__init__.py has no line VERSION = "X.Y.Z". Write it.'


def test_no_docker_is_said_before_anything_is_built(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(ReleaseError, match=r"no Docker engine answers.*there is no program docker\. Install it\."):
        release.require_docker(checkout)


def wheel_of(checkout: Path, *left_out: str, **more: str) -> Path:
    """As a builder makes it: names, contents, rights."""
    wheel = checkout.parent / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        files = [path for package in release.PACKAGES for path in (checkout / package).rglob("*")]
        for path in sorted([*files, *(checkout / module for module in release.MODULES)]):
            if path.name not in left_out:
                archive.write(path, path.relative_to(checkout))
        for name, text in more.items():
            archive.writestr(name.replace("__", "/"), text)
        archive.writestr("some-1.2.3.dist-info/RECORD", "")
    return wheel


def test_a_wheel_with_the_committed_files_passes(checkout: Path) -> None:
    assert release.check_contents(wheel_of(checkout), checkout) == 5


def test_a_file_that_lacks_or_is_too_much_is_named(checkout: Path) -> None:
    with pytest.raises(ReleaseError, match=r"is not what git has: inference/askpass\.sh\."):
        release.check_contents(wheel_of(checkout, "askpass.sh"), checkout)
    with pytest.raises(ReleaseError, match=r"is not what git has: tests/test_it\.\."):
        release.check_contents(wheel_of(checkout, **{"tests__test_it.": ""}), checkout)


def test_a_program_that_may_not_be_run_is_named(checkout: Path) -> None:
    wheel = wheel_of(checkout)
    (checkout / "inference" / "askpass.sh").chmod(0o644)
    with pytest.raises(ReleaseError, match=r"is not what git has: inference/askpass\.sh\."):
        release.check_contents(wheel, checkout)


def test_the_packages_of_the_wheel_are_all_that_the_images_copy() -> None:
    copied = {path.relative_to(ROOT).parts[0] for path in committed() if path.name == "__main__.py"}
    assert set(release.PACKAGES) == copied & {"gateway", "inference", "webui"}
    (targets,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("IMAGES :=")]
    assert release.IMAGES == tuple(targets.split()[2:])


def test_sha256sum_reads_the_checksums(tmp_path: Path) -> None:
    (tmp_path / "one.whl").write_bytes(b"one")
    (tmp_path / "two.json").write_bytes(b"two")
    (tmp_path / "SHA256SUMS").write_text("of an earlier time")
    assert release.write_checksums(tmp_path) == 2
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "one.whl: OK\ntwo.json: OK\n"


def test_wrong_words_are_answered_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["images"]) == 2
    assert capsys.readouterr().err == "usage: scripts/release.py wheel | all\n"


def test_an_extra_holds_the_groups_that_its_group_includes() -> None:
    groups = {"a": ["x>=1"], "b": ["y"], "all": [{"include-group": "a"}, {"include-group": "b"}, "z"]}
    assert packages_of(groups, "all") == ["x>=1", "y", "z"]
