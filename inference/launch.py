"""From a plan to an engine and its supervisor."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from inference.child import Runner
from inference.childlog import ChildLog
from inference.engines.llamacpp import LlamaCpp
from inference.engines.lmdeploy import LmDeploy
from inference.engines.tgi import Tgi
from inference.engines.tgi_container import TgiContainer
from inference.errors import SettingsError, StartFailed
from inference.key_file import kept_key
from inference.leftovers import claimed, end_strays, owner_mark
from inference.machine import Machine, has_docker_socket
from inference.plan import LaunchPlan
from inference.processes import ProcessRunner
from inference.settings import Settings
from inference.status import Report
from inference.supervisor import Supervisor, Timing

DOCKER_ANSWER_S = 10
AnyEngine = LlamaCpp | LmDeploy | Tgi | TgiContainer


def stop_signals() -> tuple[int, ...]:
    """Those that mean to stop in order. SIGHUP, of a terminal that goes, is one unless it is ignored (nohup)."""
    hang_ups = [number for number in signal.valid_signals() if getattr(number, "name", "") == "SIGHUP"]
    return (
        signal.SIGINT,
        signal.SIGTERM,
        *(number for number in hang_ups if signal.getsignal(number) != signal.SIG_IGN),
    )


def make_engine(plan: LaunchPlan, settings: Settings, machine: Machine, folder: Path) -> AnyEngine:
    """The engine of the plan; its address and key are known now, its model comes by `serving(path)`.

    `folder` is private and short-lived: sockets and working files. Raises SettingsError.
    """
    if settings.listen and plan.engine != "llamacpp":
        raise SettingsError(f"INFERENCE_LISTEN is for llamacpp, but the engine is {plan.engine}. Leave it out.")
    match plan.engine:
        case "tgi":
            launcher = machine.launcher or "text-generation-launcher"
            return Tgi(plan, folder, launcher, settings.stop_timeout_s)
        case "tgi-container":
            return TgiContainer(plan, settings.tgi_image, settings.stop_timeout_s)
        case "lmdeploy":
            return LmDeploy(plan, folder, machine.lmdeploy or "lmdeploy")
        case "llamacpp":
            llamacpp = LlamaCpp(plan, folder, listen=settings.listen)
            return replace(llamacpp, api_key=kept_key(settings.key_file)) if settings.key_file else llamacpp


def make_supervisor(engine: AnyEngine, settings: Settings, report: Report) -> Supervisor:
    """The supervisor as the settings want it, with its log in `DATA_DIR/logs/inference.log`."""
    timing = Timing(
        start_timeout_s=settings.start_timeout_s,
        stop_timeout_s=settings.stop_timeout_s,
        watch_pause_s=min(10.0, settings.hang_timeout_s / 4),
        alive_timeout_s=min(30.0, settings.hang_timeout_s / 2),
        hang_timeout_s=settings.hang_timeout_s,
    )
    mark = owner_mark(settings.data_dir)
    return Supervisor(
        engine,
        _runner(engine, mark, report),
        report,
        ChildLog(settings.data_dir / "logs" / "inference.log"),
        timing=timing,
        claim=claimed(settings.data_dir),
        tidy=partial(_tidy, mark),
    )


def _runner(engine: AnyEngine, mark: str, report: Report) -> Runner:
    if isinstance(engine, TgiContainer):
        from inference.containers import ContainerRunner  # its client takes a quarter of a second to import

        return ContainerRunner(engine, mark, report)
    return ProcessRunner(engine, mark)


def _tidy(mark: str) -> None:
    """What a killed owner left, whichever engine it ran."""
    end_strays(mark)
    if has_docker_socket():
        from inference.containers import remove_left_containers

        with suppress(StartFailed):  # that Docker does not answer matters only to an engine that needs it
            remove_left_containers(mark, DOCKER_ANSWER_S)
