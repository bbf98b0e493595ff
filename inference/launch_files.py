"""What containers that start beside each other must know of the plan: small files in a folder that they share.

| file         | who reads it                     | what is in it                                                      |
|--------------|----------------------------------|--------------------------------------------------------------------|
| engine.key   | the engine, and gateway.env      | the bearer token between gateway and engine; made once, then kept  |
| gateway.env  | a shell that starts the gateway  | defaults: what the environment already sets is left as it is       |
| tgi.args     | TGI's entry point                | its arguments; it splits them at spaces, so no word holds one      |

docker-compose.yml mounts the folder; `python -m inference plan --write FOLDER` fills it, before any model is there.
"""

from __future__ import annotations

from pathlib import Path

from inference.catalogue import model_text
from inference.dry_run import expected_path
from inference.engines.tgi import STOP_MARGIN_S, flags
from inference.errors import SettingsError
from inference.key_file import kept_key, private
from inference.plan import LaunchPlan
from inference.settings import Settings

KEY_FILE = "engine.key"
TGI_PORT = 80
_DIALECTS = {"tgi-container": "tgi"}


def write_launch_files(folder: Path, plan: LaunchPlan, settings: Settings) -> list[Path]:
    """Write them anew, but keep the key; returns them. Raises SettingsError when the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        key = kept_key(folder / KEY_FILE)
        texts = {"gateway.env": gateway_env(plan, key)}
        if plan.engine in ("tgi", "tgi-container"):
            texts["tgi.args"] = tgi_args(plan, settings)
        for name, text in texts.items():
            beside = folder / f".{name}"
            beside.unlink(missing_ok=True)
            with open(beside, "w", encoding="utf-8", opener=private) as file:
                file.write(text)
            beside.replace(folder / name)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written: {error.strerror}. Name another folder.") from None
    return [folder / KEY_FILE, *(folder / name for name in texts)]


def gateway_env(plan: LaunchPlan, key: str) -> str:
    """Lines for `sh`: each sets a variable that is unset or empty, and exports it."""
    values = {
        "MODEL": plan.model.name,
        "GATEWAY_MODEL_TITLE": model_text(plan.model).title,
        "GATEWAY_CONTEXT_TOKENS": str(plan.context_tokens),
        "GATEWAY_SLOTS": str(plan.slots),
        "GATEWAY_TOOL_FORMAT": "internlm2" if plan.model.prompt == "internlm2" else "engine",
        "GATEWAY_UPSTREAM_KEYS": f"{_DIALECTS.get(plan.engine, plan.engine)}={key}",
    }
    lines = [f"{name}=${{{name}:-{_quoted(value)}}}; export {name}" for name, value in values.items()]
    return "\n".join([f"# {plan.engine}: defaults of the gateway, by `python -m inference plan --write`", *lines, ""])


def tgi_args(plan: LaunchPlan, settings: Settings) -> str:
    """As compose runs it: every address of its container, the port that the image exposes. Raises SettingsError."""
    model = str(expected_path(plan, settings.models_dir))
    if any(mark.isspace() for mark in model):
        raise SettingsError(f"The model's path {model!r} has a space in it, where TGI's image would split it.")
    grace_s = max(1, int(settings.stop_timeout_s) - STOP_MARGIN_S)
    return (
        " ".join([*flags(plan, model, grace_s), "--hostname", "0.0.0.0", "--port", str(TGI_PORT), "--json-output"])
        + "\n"
    )


def _quoted(value: str) -> str:
    """Within `${NAME:-…}` of a shell."""
    return "".join(f"\\{mark}" if mark in "\\\"'$`}" or mark.isspace() else mark for mark in value)
