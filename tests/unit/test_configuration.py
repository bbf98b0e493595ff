"""docs/configuration.md in both languages against the programs: names, groups, defaults, bounds, choices, secrets.

The names come from .env.example, which tests/unit/test_docs.py compares with the code and with the settings' defaults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gateway.settings
import inference
import inference.errors
import inference.plan
import webui.errors
import webui.settings
from hosting import listening, platforms
from inference.accounts import TOKEN_NAMES
from inference.budget import QUANTIZATIONS

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = (ROOT / ".env.example").read_text()
PAGES = {language: ROOT / "docs" / f"configuration{end}.md" for language, end in (("en", ""), ("zh", ".zh-CN"))}
UPSTREAM = {"GATEWAY_UPSTREAMS": "llamacpp=http://127.0.0.1:8080"}
SECRET = {"en": "**secret**", "zh": "**机密**"}
RANGE = re.compile(r"(above |大于 )?(\d[\d.]*)(?:–(\d[\d.]*))?")
# What other modules look at: the planner, the hosting, or a library.
CHOSEN_LATER = {"INFERENCE_ENGINE", "INFERENCE_QUANTIZE", "APP_PLATFORM", "SPACES_ZERO_GPU"}


@dataclass(frozen=True)
class Row:
    name: str
    default: str
    values: str
    meaning: str


def groups(page: Path) -> list[list[Row]]:
    """The rows below each heading that has a table of settings."""
    parts = re.split(r"^## .*$", page.read_text(), flags=re.MULTILINE)[1:]
    found = [
        [Row(*cells) for cells in re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*) \|$", part, re.MULTILINE)]
        for part in parts
    ]
    return [rows for rows in found if rows]


def rows(language: str = "en") -> list[Row]:
    return [row for group in groups(PAGES[language]) for row in group]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def example_groups() -> list[list[str]]:
    """The names of .env.example as they stand below its `# ---` headings."""
    parts = re.split(r"^# --- ", EXAMPLE, flags=re.MULTILINE)[1:]
    return [re.findall(r"^#([A-Z][A-Z0-9_]*)=", part, re.MULTILINE) for part in parts]


@pytest.mark.parametrize("language", PAGES)
def test_every_setting_has_a_row_in_the_groups_of_env_example(language: str) -> None:
    assert [[row.name for row in group] for group in groups(PAGES[language])] == example_groups()


@pytest.mark.parametrize("language", PAGES)
def test_the_defaults_are_those_of_env_example(language: str) -> None:
    shown = dict(re.findall(r"^#([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE, re.MULTILINE))
    for row in rows(language):
        value = shown[row.name].strip('"')
        assert row.default, f"{row.name}: say what counts without it, or –"
        assert not value or row.default == f"`{value}`", f"{row.name}: its default is {value}"


def test_both_languages_have_the_same_defaults_and_values() -> None:
    for row, translated in zip(rows("en"), rows("zh"), strict=True):
        assert codes(row.default) == codes(translated.default), row.name
        assert RANGE.findall(row.values) == [
            (one.replace("大于", "above"), *rest) for one, *rest in RANGE.findall(translated.values)
        ], row.name
        english = [one for one in codes(row.values) if not re.search(r"[A-Z]+=", one)]  # ENGINE=KEY is translated
        assert english == [one for one in codes(translated.values) if not re.search(r"[一-龥]", one)], row.name


def refusal(name: str, value: str) -> str:
    """What the programs say to a value; empty when all of them take it."""
    environ = {**UPSTREAM, name: value}
    try:
        gateway.settings.Settings.from_env(environ, ROOT)
        inference.Settings.from_env(environ, ROOT)
        webui.settings.Settings.from_env(environ, ROOT)
    except (gateway.settings.SettingsError, inference.errors.SettingsError, webui.errors.SettingsError) as error:
        return str(error)
    return ""


def bounds() -> Iterator[tuple[str, str, str, bool]]:
    """Name, least, largest (or nothing), whether the least itself is too small."""
    for row in rows():
        found = RANGE.match(row.values)
        if found:
            yield row.name, found[2], found[3] or "", bool(found[1])


@pytest.mark.parametrize(("name", "least", "largest", "is_open"), list(bounds()), ids=lambda value: str(value))
def test_the_bounds_are_the_programs_own(name: str, least: str, largest: str, is_open: bool) -> None:
    if name == "GRADIO_SERVER_PORT":  # read in the place of PORT, in the same way
        return
    below = least if is_open else str(float(least) - 0.01) if "." in least else str(int(least) - 1)
    assert name in refusal(name, below), f"{name}={below} is taken"
    assert is_open or not refusal(name, least), f"{name}={least}: {refusal(name, least)}"
    if largest:
        assert not refusal(name, largest), f"{name}={largest}: {refusal(name, largest)}"
        above = str(float(largest) + 0.01) if "." in largest else str(math.floor(float(largest)) + 1)
        assert name in refusal(name, above), f"{name}={above} is taken"


def test_the_numbers_that_settings_bound_have_their_bounds_here() -> None:
    told = {name for name, *_ in bounds()}
    for row in rows():
        if row.name not in told and "PORT" not in row.name and row.name not in CHOSEN_LATER:
            said = refusal(row.name, "-1")
            assert not re.search(r"outside|whole number|number of", said), f"{row.name}: {said}"


def choices() -> list[tuple[str, list[str]]]:
    return [(row.name, codes(row.values)) for row in rows() if re.fullmatch(r"`[^`=]+`(, `[^`=]+`)*", row.values)]


@pytest.mark.parametrize(("name", "values"), choices(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_choices_are_the_programs_own(name: str, values: list[str]) -> None:
    for value in values:
        assert not refusal(name, value), f"{name}={value} is refused: {refusal(name, value)}"
    if name not in CHOSEN_LATER:
        said = refusal(name, "nonsense")
        assert name in said, f"{name}=nonsense is taken"
        told = set(re.findall(r"\w+", said))
        assert set(values) <= told, f"{name}: {values} are not those of: {said}"


def test_the_choices_that_others_make_are_theirs() -> None:
    said = dict(choices())
    assert said["INFERENCE_QUANTIZE"] == [
        "auto",
        *(one for one in QUANTIZATIONS if one != "awq"),
    ]  # files are awq or not
    assert said["INFERENCE_ENGINE"] == ["auto", *inference.plan.PREFERENCE]
    assert said["APP_PLATFORM"] == list(platforms.NAMES)
    assert f"`{listening.DEFAULT_PORT}`" == next(row.default for row in rows() if row.name == "PORT")


@pytest.mark.parametrize("language", PAGES)
def test_secrets_are_called_so(language: str) -> None:
    names = re.compile(
        r".*_(KEY|UPSTREAM_KEYS|TOKEN|SECRET|PASSWORD)(_FILE)?|.*_HEADERS|WEBUI_USERS_FILE|DATABASE_URL|REDIS_URL"
    )
    called = {row.name for row in rows(language) if SECRET[language] in row.values}
    assert called == {row.name for row in rows(language) if names.fullmatch(row.name)}
    assert called >= TOKEN_NAMES


@pytest.mark.parametrize("language", PAGES)
def test_what_is_fixed_in_containers_is_what_env_example_says(language: str) -> None:
    paragraph = EXAMPLE.split("these are fixed in the containers")[1].split("\n\n")[0].split("instead)")[0]
    fixed = re.findall(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|HOST|PORT|TMPDIR", paragraph)
    said = next(
        line for line in PAGES[language].read_text().splitlines() if "`SPACE_ID`, `" in line or "`SPACE_ID`、" in line
    )
    assert [code for code in codes(said) if re.fullmatch(r"[A-Z0-9_]+", code)] == fixed


def test_the_containers_defaults_are_those_of_the_compose_files() -> None:
    files = [ROOT / name for name in ("docker-compose.yml", "docker-compose.scale.yml", "deploy/swarm.yml")]
    for row in groups(PAGES["en"])[-3] + groups(PAGES["en"])[-2]:
        found = (re.search(rf"\$\{{{row.name}:-([^}}]*)\}}", path.read_text()) for path in files)
        first = next((one for one in found if one), None)
        if row.name != "COMPOSE_FILE":
            assert first, f"{row.name} is in none of {files}"
            assert row.default == f"`{first[1]}`", row.name
