"""What `serve --dry-run` prints: how the engine would be started, with secrets as ***."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from inference.catalogue import FileSource, FolderSource, HubSource, WheelSource
from inference.engines.tgi_container import TgiContainer
from inference.launch import AnyEngine
from inference.plan import LaunchPlan

HIDDEN = "***"


def expected_path(plan: LaunchPlan, models_dir: Path) -> Path:
    """Where the model will be once it is prepared, see `job.py`; nothing has to be there yet."""
    model, folder = plan.model, models_dir / f"{plan.model.name}-{plan.form}"
    if plan.form == "llama":
        own = [source.path for source in model.sources if isinstance(source, FolderSource)]
        return own[0] if own and model.layout == "llama" else folder
    for source in model.gguf_sources:
        match source:
            case FileSource():
                return source.path
            case WheelSource():
                return models_dir / model.name / source.file_name
            case HubSource():
                return folder / source.files[0].name
    return folder / f"{model.name}.gguf"


def dry_run_text(engine: AnyEngine, environ: Mapping[str, str]) -> str:
    """The command line or the container, and how its environment differs from ours (`environ`)."""
    if isinstance(engine, TgiContainer):
        lines = _container_lines(engine)
    else:
        lines = _process_lines(engine, environ)
    text = "\n".join([f"# {engine.description}", f"# it listens on {engine.endpoint}", *lines])
    return text.replace(engine.api_key, HIDDEN)


def _process_lines(engine: AnyEngine, environ: Mapping[str, str]) -> list[str]:
    assert not isinstance(engine, TgiContainer)
    own = engine.environment()
    added = [f"{name}={shlex.quote(value)}" for name, value in sorted(own.items()) if environ.get(name) != value]
    removed = [f"unset {name}" for name in sorted(environ) if name not in own]
    first, *rest = engine.argv()
    return [*removed, f"cd {shlex.quote(str(engine.folder))}", *(f"{one} \\" for one in added), *_command(first, rest)]


def _container_lines(engine: TgiContainer) -> list[str]:
    """As the `docker run` that does the same."""
    spec = engine.container()
    options = [
        f"--gpus {spec.gpus}" if spec.gpus else "",
        f"--shm-size {spec.shm_bytes}",
        "--security-opt no-new-privileges",
        *(f"--publish 127.0.0.1:{here}:{there}" for there, here in spec.ports.items()),
        *(f"--volume {shlex.quote(f'{here}:{there}:ro')}" for here, there in spec.volumes.items()),
        *(f"--env {name}={shlex.quote(value)}" for name, value in spec.environment.items()),
    ]
    return [
        "docker run \\",
        *(f"  {option} \\" for option in options if option),
        *_command(f"  {spec.image}", spec.command),
    ]


def _command(first: str, rest: list[str] | tuple[str, ...]) -> list[str]:
    """An option and its value on a line of their own."""
    lines = [first]
    for word in rest:
        if word.startswith("--") or len(lines) == 1:
            lines.append(f"  {shlex.quote(word)}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]
