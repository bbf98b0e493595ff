"""The converter against `cp`: wall time for the same bytes, taken in turn, and its anonymous memory.

The checkpoint is synthetic: 4 GB of random bytes in InternLM2's layout, with the shapes of the 7B model and fewer
layers, in two files. The converter syncs each file to the disk before it is renamed; `cp` does not. So it is compared
with both: `cp` alone, and `cp` with `sync` of the same files. At the beginning of a run everything is in the page
cache, and nothing is waiting to be written.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.table import Options, Row
from inference.llama_layout import internlm2_tensors
from inference.model_config import parse_config

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "tests" / "recorded" / "internlm2" / "tokenizer.model"
MOST_RATIO = 1.15
MOST_MIB = 64
_BLOCK = 64 << 20


async def measure(options: Options) -> list[Row]:
    """Medians of the rounds; the folder is under build/, on the disk of the checkout."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="bench-convert-") as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        size = _write_checkpoint(source, layers=options.pick(6, 1))
        ways = {"convert": _convert, "cp": _cp, "cp and sync": _cp_and_sync}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name in _in_turn(list(ways), number):
                took = _timed(ways[name], source, target)
                if number:
                    times[name].append(took)
        memory_mib = _peak_anonymous_kb(source, target) / 1024
    medians = {name: statistics.median(each) for name, each in times.items()}
    return [
        *(_ratio_row(name, size, medians) for name in ("cp and sync", "cp")),
        Row("anonymous memory of a conversion", f"{memory_mib:.0f} MiB", f"≤ {MOST_MIB} MiB", memory_mib <= MOST_MIB),
    ]


def _in_turn(names: list[str], number: int) -> list[str]:
    """Each round begins with another one, so that none always follows the same."""
    return names[number % len(names) :] + names[: number % len(names)]


def _ratio_row(name: str, size: int, medians: dict[str, float]) -> Row:
    ratio = medians["convert"] / medians[name]
    told = f"{ratio:.2f} × ({medians['convert']:.1f} s, {name} {medians[name]:.1f} s)"
    return Row(f"a conversion of {size / 1e9:.1f} GB, against {name}", told, f"≤ {MOST_RATIO} ×", ratio <= MOST_RATIO)


def _write_checkpoint(folder: Path, *, layers: int) -> int:
    """Returns the bytes of all weights."""
    folder.mkdir()
    config = {
        "model_type": "internlm2",
        "architectures": ["InternLM2ForCausalLM"],
        "bias": False,
        "hidden_size": 4096,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 92544,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000,
        "max_position_embeddings": 32768,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(TOKENIZER, folder)
    shapes = internlm2_tensors(parse_config(config, folder))
    names = [name for name in shapes if not name.endswith(".bias")]
    half = len(names) // 2
    return sum(
        _write_file(folder / f"model-{number:05d}-of-00002.safetensors", {name: shapes[name] for name in part})
        for number, part in enumerate((names[:half], names[half:]), start=1)
    )


def _write_file(path: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    head, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        head[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    block = os.urandom(_BLOCK)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, offset, _BLOCK):
            out.write(block[: min(_BLOCK, offset - start)])
    return offset


def _timed(run: Callable[[Path, Path], None], source: Path, target: Path) -> float:
    """Seconds, of a run that begins with the source in memory and an idle disk."""
    shutil.rmtree(target, ignore_errors=True)
    for path in source.iterdir():
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass
    os.sync()
    begun = time.perf_counter()
    run(source, target)
    return time.perf_counter() - begun


def _convert(source: Path, target: Path) -> None:
    subprocess.run(_command(source, target), cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _command(source: Path, target: Path) -> list[str]:
    return [sys.executable, "-m", "inference", "convert", str(source), str(target)]


def _cp(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", str(source), str(target)], check=True)


def _cp_and_sync(source: Path, target: Path) -> None:
    _cp(source, target)
    subprocess.run(["sync", *map(str, target.iterdir())], check=True)


def _peak_anonymous_kb(source: Path, target: Path) -> int:
    """RssAnon of the process, looked at every 2 ms."""
    shutil.rmtree(target, ignore_errors=True)
    process = subprocess.Popen(_command(source, target), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        most = max([most, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.002)
    if process.returncode:
        raise SystemExit(f"bench: the conversion ended with {process.returncode}")
    return most
