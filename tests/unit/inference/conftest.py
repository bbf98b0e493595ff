"""Small real things for the tests of `inference`: GGUF files, wheels with a model, a pip that is a script of ours."""

import hashlib
import json
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from inference.catalogue import Model, WheelSource
from inference.settings import Settings
from inference.status import Progress


def _text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def _entry(key, value):
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", 8) + _text(value)
    if isinstance(value, list):
        return _text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return _text(key) + struct.pack("<II", 4, value)


@pytest.fixture
def gguf_bytes():
    """A function: the head of a GGUF file with these entries."""

    def build(entries, version=3):
        head = b"GGUF" + struct.pack("<IQQ", version, 0, len(entries))
        return head + b"".join(_entry(key, value) for key, value in entries.items())

    return build


@pytest.fixture
def llama_head():
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.tokens": ["a", "b", "c"],
        "llama.context_length": 2048,
        "llama.block_count": 3,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
    }


class FakeIndex:
    """A wheel with one model file, and a stand-in for pip that delivers it. `calls` counts the stand-in's starts."""

    def __init__(self, folder, content):
        self.folder = folder
        self.wheel = folder / "tiny_model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(self.wheel, "w") as archive:
            archive.writestr("tiny_model/tiny.gguf", content)
        self.source = WheelSource(
            package="tiny-model",
            version="1.0",
            wheel_bytes=self.wheel.stat().st_size,
            wheel_sha256=hashlib.sha256(self.wheel.read_bytes()).hexdigest(),
            member="tiny_model/tiny.gguf",
            sha256=hashlib.sha256(content).hexdigest(),
        )
        self.model = Model(
            name="tiny",
            title="Tiny",
            languages=("en",),
            licence="MIT",
            note_en="tiny",
            note_zh="小",
            layout="gguf",
            prompt="chatml",
            context_tokens=128,
            size_bytes=len(content),
            kv_bytes_per_token=1,
            sources=(self.source,),
        )
        self._calls = folder / "calls"
        self.pip = self.script(
            "size = shutil.copy(wheel, target) and wheel.stat().st_size; print('Progress 0 of', size)"
        )

    @property
    def calls(self):
        return len(self._calls.read_text().splitlines()) if self._calls.exists() else 0

    def script(self, body):
        """The command of a stand-in for pip: `wheel` is the wheel's path, `target` the folder it was asked to fill."""
        path = self.folder / f"pip{len(list(self.folder.iterdir()))}.py"
        path.write_text(
            "import os, shutil, sys, time\nfrom pathlib import Path\n"
            f"wheel = Path({json.dumps(str(self.wheel))})\n"
            "target = Path(sys.argv[sys.argv.index('-d') + 1])\n"
            f"open({json.dumps(str(self._calls))}, 'a').write('call\\n')\n" + body + "\n"
        )
        return (sys.executable, "-I", "-S", str(path))


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    return FakeIndex(folder, b"GGUF" + bytes(range(256)) * 400)


@pytest.fixture
def settings(tmp_path):
    return Settings(root=tmp_path, models_dir=tmp_path / "models", data_dir=tmp_path / "data")


class Reports(list[Progress]):
    """A `Report` that remembers."""

    def __call__(self, news):
        self.append(news)

    @property
    def text(self):
        return "\n".join(news.message for news in self)

    @property
    def stages(self):
        return list(dict.fromkeys(news.stage for news in self))


@pytest.fixture
def reports():
    return Reports()


@pytest.fixture
def catalogue_text():
    """One valid entry, as text to be spoilt."""
    return (
        '[[model]]\nname = "m"\ntitle = "M"\nlanguages = ["en"]\nlicence = "MIT"\nnote_en = "n"\nnote_zh = "n"\n'
        'layout = "llama"\nprompt = "chatml"\ncontext_tokens = 10\nbytes = 5\n'
        "shape = { hidden = 4, layers = 1, heads = 2, kv_heads = 1, head_dim = 2, intermediate = 8, vocabulary = 9 }\n"
        '[[model.source]]\nkind = "huggingface"\nid = "a/b"\n'
        '[[model.source.file]]\nname = "f"\n'
        '[[model.gpu]]\ncard = "A10"\nengine = "tgi"\ncontext_tokens = 1\nprefill_tokens = 1\nrequests = 1\n'
    )


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = Path(tmp_path / name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file
