"""`doctor`: what is on this machine, what fits, what is missing and how to mend it.

It asks nobody outside of this machine unless it is told to (`--network`); of secrets it says only whether they are set.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from inference.accounts import TOKEN_NAMES, Hubs, redact
from inference.catalogue import Model, load_catalogue
from inference.choose import find_model
from inference.errors import DoesNotFit, InferenceError
from inference.machine import Machine, has_docker_socket
from inference.plan import PREFERENCE, make_plan, what_lacks
from inference.preflight import Check, State, check_data, check_python, preflight
from inference.settings import Settings
from inference.sizes import gibibytes, megabytes
from inference.tables import machine_text

PACKAGES = ("fastapi", "uvicorn", "gradio", "sqlalchemy", "huggingface_hub", "xllamacpp", "numpy")
EXTRAS = ("modelscope-hub", "lmdeploy", "torch")
SECRETS = (
    *sorted(TOKEN_NAMES),
    "DATABASE_URL",
    "REDIS_URL",
    "WEBUI_API_KEY",
    "WEBUI_SECRET",
    "GATEWAY_UPSTREAM_KEYS",
    "GATEWAY_METRICS_TOKEN",
    "GATEWAY_ADMIN_KEY",
)
NETWORK_S = 10


@dataclass(frozen=True)
class Fit:
    """One model of the catalogue on this machine; `engine` is empty where none can run it, `why` says it then."""

    model: str
    engine: str
    disk_bytes: int
    memory_bytes: int
    why: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """`is_well`: nothing stands in the way of the model that is set."""

    checks: tuple[Check, ...]
    fits: tuple[Fit, ...]
    packages: dict[str, str]
    secrets: dict[str, bool]

    @property
    def is_well(self) -> bool:
        return all(check.state != "fatal" for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": self.is_well,
            "checks": [
                {"name": check.name, "state": check.state, "text": check.text, "fix": check.fix}
                for check in self.checks
            ],
            "models": [asdict(fit) for fit in self.fits],
            "packages": self.packages,
            "secrets": {name: "set" if is_set else "unset" for name, is_set in self.secrets.items()},
        }

    def lines(self) -> Iterator[str]:
        for check in self.checks:
            yield f"{check.state:<8} {check.name:<12} {check.text}" + (f" {check.fix}" if check.fix else "")
        yield f"{'packages':<21} {', '.join(f'{name} {version}' for name, version in self.packages.items())}"
        for is_set, word in ((True, "set"), (False, "unset")):
            names = [name for name, value in self.secrets.items() if value == is_set]
            if names:
                yield f"{'secrets ' + word:<21} {', '.join(names)}"
        yield "models"
        for fit in self.fits:
            yield f"  {fit.model:<28} " + (
                f"{fit.engine}, {megabytes(fit.disk_bytes)} of disk, {gibibytes(fit.memory_bytes)} of memory"
                if fit.engine
                else f"no: {fit.why}"
            )
        yield "nothing stands in the way" if self.is_well else "mend what is fatal first"


def diagnose(
    settings: Settings, machine: Machine, environ: Mapping[str, str], *, with_network: bool = False
) -> Diagnosis:
    """Raises InferenceError only where not even the catalogue can be read."""
    catalogue = load_catalogue(own=settings.models_file)
    checks = [Check("machine", "ok", machine_text(machine)), *_of_the_model(settings, machine, catalogue)]
    checks += [_engines(machine, catalogue), _port(environ), _programs()]
    if with_network:
        checks += network(settings.hubs, environ.get("PIP_INDEX_URL") or "https://pypi.org/simple/")
    packages = {name: _version(name) for name in (*PACKAGES, *EXTRAS)}
    missing = [name for name in PACKAGES if not packages[name]]
    if missing:
        fix = "`make setup` installs them; where only models are prepared or run, the web's packages may be missing."
        checks.append(Check("packages", "warning", f"{', '.join(missing)} not installed.", fix))
    return Diagnosis(
        tuple(checks),
        tuple(fits(catalogue.values(), settings, machine)),
        {name: version for name, version in packages.items() if version},
        {name: bool(environ.get(name) or environ.get(f"{name}_FILE")) for name in SECRETS},
    )


def _of_the_model(settings: Settings, machine: Machine, catalogue: Mapping[str, Model]) -> list[Check]:
    """The preflight, or why there is no plan to check."""
    try:
        plan = make_plan(find_model(settings.model, catalogue, settings.root), settings, machine, catalogue.values())
    except InferenceError as error:
        return [check_python(), check_data(settings), Check("model", "fatal", error.message)]
    return [*preflight(plan, settings, machine), Check("engine", "ok", plan.reason)]


def fits(models: Iterable[Model], settings: Settings, machine: Machine) -> Iterator[Fit]:
    for model in models:
        try:
            plan = make_plan(model, settings, machine)
        except InferenceError as error:
            why = "it does not fit this machine" if isinstance(error, DoesNotFit) else "no engine here"
            yield Fit(model.name, "", model.size_bytes, 0, f"{why} (`plan --model {model.name}` says more)")
        else:
            yield Fit(model.name, plan.engine, plan.disk_bytes, plan.memory_bytes)


def _engines(machine: Machine, catalogue: Mapping[str, Model]) -> Check:
    """Asked about a model that every engine could run, so that what lacks is the machine's."""
    probe = next(model for model in catalogue.values() if model.layout != "gguf")
    lacks = {engine: what_lacks(engine, probe, machine) for engine in PREFERENCE}
    here = ", ".join(engine for engine, lack in lacks.items() if not lack) or "none"
    reasons = dict.fromkeys(lack for lack in lacks.values() if lack)
    absent = [f"{', '.join(name for name, lack in lacks.items() if lack == reason)}: {reason}" for reason in reasons]
    state: State = "fatal" if here == "none" else "ok"
    return Check("engines", state, "; not ".join([here, *absent]))


def _port(environ: Mapping[str, str]) -> Check:
    """Whether app.py could listen where it is told to; a name or number that is wrong, app.py itself tells."""
    host, text = environ.get("HOST") or "127.0.0.1", environ.get("PORT") or environ.get("GRADIO_SERVER_PORT") or "7860"
    try:
        with socket.create_server((host, int(text)), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return Check("port", "ok", f"{text} on {host} is free")
    except (OSError, ValueError, OverflowError):
        fix = "Stop what listens there (is the stack running already?), or choose another one: PORT=7861."
        return Check("port", "warning", f"{text} on {host} cannot be had.", fix)


def _programs() -> Check:
    missing = [name for name in ("git", "git-lfs") if shutil.which(name) is None]
    docker = "Docker's socket is there" if has_docker_socket() else "no Docker socket"
    if missing:
        fix = "For models from OpenXLab or a git host: apt-get install git git-lfs"
        return Check("programs", "warning", f"{' and '.join(missing)} not installed; {docker}.", fix)
    return Check("programs", "ok", f"git, git-lfs; {docker}")


def network(hubs: Hubs, index: str) -> Iterator[Check]:
    """Asks each place that things come from for its first page; a proxy of the environment is used."""
    for name, url in (
        ("pypi", index),
        ("huggingface", hubs.huggingface_url),
        ("modelscope", hubs.modelscope_url),
        ("openxlab", hubs.openxlab_url),
    ):
        yield _asked(name, url)


def _asked(name: str, url: str) -> Check:
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "internlm-stack"})
    try:
        with urllib.request.urlopen(request, timeout=NETWORK_S):
            return Check(name, "ok", f"{redact(url)} answers")
    except urllib.error.HTTPError as error:
        error.close()
        return Check(name, "ok", f"{redact(url)} answers ({error.code})")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        fix = "Take another source (INFERENCE_SOURCES), a mirror (HF_ENDPOINT, PIP_INDEX_URL) or a proxy (HTTPS_PROXY)."
        return Check(name, "warning", f"{redact(url)} cannot be reached: {reason}.", fix)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
