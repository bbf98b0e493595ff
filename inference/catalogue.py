"""The models that this project knows by name (`models.toml`).

Format of the file: TOML, an array of tables `model`, each with an array of tables `source` (its files in an array
`file`) and perhaps `gpu`. Keys that are not expected are errors, so that a slip of the pen is seen. A person's own file
(INFERENCE_MODELS_FILE) has the same form; a model there takes the place of ours with the same name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from inference.errors import SettingsError
from inference.tomltable import Table

CATALOGUE_FILE = Path(__file__).with_name("models.toml")

Hub = Literal["openxlab", "huggingface", "modelscope"]
Layout = Literal["internlm2", "internlm3", "llama", "gguf"]
PromptFormat = Literal["internlm2", "chatml", "own"]
GpuEngine = Literal["tgi", "lmdeploy"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
PROMPT_FORMATS: tuple[PromptFormat, ...] = get_args(PromptFormat)
GPU_ENGINES: tuple[GpuEngine, ...] = get_args(GpuEngine)
SourceKind = Literal["pypi", "openxlab", "huggingface", "modelscope"]
SOURCE_KINDS: tuple[SourceKind, ...] = get_args(SourceKind)
HUB_URLS: Mapping[Hub, str] = {
    "openxlab": "https://openxlab.org.cn/models/detail/",
    "huggingface": "https://huggingface.co/",
    "modelscope": "https://modelscope.cn/models/",
}
DEFAULT_REVISIONS: Mapping[Hub, str] = {"openxlab": "main", "huggingface": "main", "modelscope": "master"}


@dataclass(frozen=True)
class RemoteFile:
    """A file at a source; `size_bytes` and `sha256` (lower-case hex) are None when nobody published them."""

    name: str
    size_bytes: int | None
    sha256: str | None


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
    """A model repository on a hub at one revision (branch, tag or commit), and how its weights are laid out.

    `files` are the ones to fetch; empty: all that belong to the model, as the hub lists them. `about_bytes` is their
    size as hubs show it, rounded; for plans, not for checks.
    """

    hub: Hub
    id: str
    revision: str
    files: tuple[RemoteFile, ...] = ()
    layout: Layout = "internlm2"
    about_bytes: int | None = None

    @property
    def url(self) -> str:
        return HUB_URLS[self.hub] + self.id


@dataclass(frozen=True)
class FileSource:
    """A GGUF file on this machine, named by MODEL=."""

    path: Path


@dataclass(frozen=True)
class FolderSource:
    """A model folder on this machine (config.json and weights), named by MODEL=."""

    path: Path


Source = WheelSource | HubSource | FileSource | FolderSource


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a decoder with grouped attention, as in its config.json; all memory is computed from them."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    has_tied_embeddings: bool = False

    @property
    def embedding_parameters(self) -> int:
        """Embedding and output head."""
        return self.vocabulary * self.hidden * (1 if self.has_tied_embeddings else 2)

    @property
    def mlp_parameters(self) -> int:
        """Gate, up and down of one layer."""
        return 3 * self.hidden * self.intermediate

    @property
    def layer_parameters(self) -> int:
        """All matrices of one layer."""
        query_and_output = 2 * self.hidden * self.heads * self.head_dim
        return query_and_output + 2 * self.hidden * self.kv_heads * self.head_dim + self.mlp_parameters

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.embedding_parameters + self.layers * self.layer_parameters + norms

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of all layers in 16 bits."""
        return self.layers * 2 * self.kv_heads * self.head_dim * 2


@dataclass(frozen=True, kw_only=True)
class GpuSettings:
    """What serves one model well on one card with one engine. `quantize` is the engine's word, or "none".

    `context_tokens` is for prompt and answer together, `prefill_tokens` for all prompts read at once, `requests` for
    answers at once, `kv_bits` for one number of the context's memory (16, 8 or 4).
    """

    card: str
    engine: GpuEngine
    quantize: str
    context_tokens: int
    prefill_tokens: int
    requests: int
    kv_bits: int = 16
    cache_ratio: float = 0.8


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model. `name` is its public id; `note_en` and `note_zh` are what people who use it should know about it.

    `context_tokens` is the length it was trained for, `size_bytes` the size of its weights in `layout`,
    `kv_bytes_per_token` the memory of one token of context with 16-bit keys and values; for a file of the person's own
    the first and the last may be unknown (None), and `shape`. `is_size_computed`: from the parameters, so the files'
    true sizes may differ by their headers. `prompt` "own": whatever the file's own template says.
    """

    name: str
    title: str
    languages: tuple[str, ...]
    licence: str
    note_en: str
    note_zh: str
    layout: Layout
    prompt: PromptFormat
    context_tokens: int | None
    size_bytes: int
    is_size_computed: bool = False
    kv_bytes_per_token: int | None
    shape: Shape | None = None
    sources: tuple[Source, ...]
    gpus: tuple[GpuSettings, ...] = ()

    @property
    def gguf_sources(self) -> tuple[Source, ...]:
        """Where llama.cpp's form of it can be had ready-made."""
        return tuple(source for source in self.sources if _is_gguf(source))

    @property
    def original_sources(self) -> tuple[Source, ...]:
        """Where its weights can be had in `layout`, for engines on a GPU and for the converter."""
        return tuple(source for source in self.sources if not _is_gguf(source))

    @property
    def gguf_bytes(self) -> int:
        """The size of its ready-made GGUF file, perhaps rounded; without one, of the Q8_0 file that is made of it.

        Q8_0 has blocks of 32 weights in 34 bytes (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
        """
        hubs = [source for source in self.gguf_sources if isinstance(source, HubSource)]
        known = [source.files[0].size_bytes or source.about_bytes for source in hubs]
        made = self.shape.parameters * 34 // 32 if self.shape and self.layout != "gguf" else self.size_bytes
        return next((size for size in known if size), made)


def _is_gguf(source: Source) -> bool:
    match source:
        case WheelSource() | FileSource():
            return True
        case HubSource(layout=layout):
            return layout == "gguf"
        case FolderSource():
            return False


@dataclass(frozen=True)
class ModelText:
    """What the web UI says about the model."""

    id: str
    title: str
    note_en: str
    note_zh: str


def model_text(model: Model) -> ModelText:
    return ModelText(model.name, model.title, model.note_en, model.note_zh)


def load_catalogue(path: Path = CATALOGUE_FILE, own: Path | None = None) -> dict[str, Model]:
    """All models of the file by name, and those of a person's `own` file. Raises SettingsError naming what is wrong."""
    models = _read_models(path)
    if own is None:
        return models
    if not own.is_file():
        raise SettingsError(f"INFERENCE_MODELS_FILE is {own}, but there is no such file. Check the path, or unset it.")
    return {**models, **_read_models(own)}


def _read_models(path: Path) -> dict[str, Model]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"The model catalogue {path} cannot be read: {error}.") from None
    top = Table(document, str(path))
    models: dict[str, Model] = {}
    for index, entry in enumerate(top.tables("model"), start=1):
        model = _model(Table(entry, f"{path}, model {index}"))
        if model.name in models:
            raise SettingsError(f"{path}: the model {model.name!r} is there twice.")
        models[model.name] = model
    top.finish()
    return models


def _model(table: Table) -> Model:
    name = table.text("name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}", name):
        raise SettingsError(f"{table.where}: name {name!r} may hold only letters, digits, '.', '_' and '-'.")
    table.where = f"{table.where} ({name})"
    layout: Layout = table.choice("layout", LAYOUTS)
    shape = _shape(table.subtable("shape"))
    is_size_computed = not table.has("bytes")
    model = Model(
        name=name,
        title=table.text("title"),
        languages=table.texts("languages"),
        licence=table.text("licence"),
        note_en=table.text("note_en"),
        note_zh=table.text("note_zh"),
        layout=layout,
        prompt=table.choice("prompt", PROMPT_FORMATS),
        context_tokens=table.positive("context_tokens"),
        size_bytes=table.positive("bytes", optional=True) or 2 * shape.parameters,
        is_size_computed=is_size_computed,
        kv_bytes_per_token=shape.kv_bytes_per_token,
        shape=shape,
        sources=tuple(_source(entry, layout) for entry in table.subtables("source")),
        gpus=tuple(_gpu(entry) for entry in table.subtables("gpu", optional=True)),
    )
    table.finish()
    return model


def _shape(table: Table) -> Shape:
    shape = Shape(
        hidden=table.positive("hidden"),
        layers=table.positive("layers"),
        heads=table.positive("heads"),
        kv_heads=table.positive("kv_heads"),
        head_dim=table.positive("head_dim"),
        intermediate=table.positive("intermediate"),
        vocabulary=table.positive("vocabulary"),
        has_tied_embeddings=table.flag("tied_embeddings"),
    )
    table.finish()
    return shape


def _source(table: Table, layout: Layout) -> Source:
    kind = table.choice("kind", SOURCE_KINDS)
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
            source = HubSource(
                hub=kind,
                id=table.text("id"),
                revision=table.text("revision", DEFAULT_REVISIONS[kind]),
                files=tuple(_file(entry) for entry in table.subtables("file", optional=True)),
                layout=table.choice("layout", LAYOUTS, layout),
                about_bytes=table.positive("about_bytes", optional=True),
            )
            if source.layout == "gguf" and len(source.files) != 1:
                raise SettingsError(f"{table.where}: a source with layout 'gguf' names exactly one 'file'.")
    table.finish()
    return source


def _file(table: Table) -> RemoteFile:
    name = table.text("name")
    if name.startswith("/") or ".." in name.split("/"):
        raise SettingsError(f"{table.where}: name {name!r} must be a path inside the repository.")
    file = RemoteFile(name, table.positive("bytes", optional=True), table.sha256("sha256", optional=True))
    table.finish()
    return file


def _gpu(table: Table) -> GpuSettings:
    settings = GpuSettings(
        card=table.text("card"),
        engine=table.choice("engine", GPU_ENGINES),
        quantize=table.text("quantize", "none"),
        context_tokens=table.positive("context_tokens"),
        prefill_tokens=table.positive("prefill_tokens"),
        requests=table.positive("requests"),
        kv_bits=table.choice("kv_bits", (16, 8, 4), 16),
        cache_ratio=table.ratio("cache_ratio", 0.8),
    )
    table.finish()
    return settings
