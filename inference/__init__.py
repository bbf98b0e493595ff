"""Models and the servers that run them. What app.py needs of it, in the order of use:

    settings = Settings.from_env(os.environ, root)
    catalogue = load_catalogue(own=settings.models_file)
    model = find_model(settings.model, catalogue, root)
    machine = this_machine()
    plan = make_plan(model, settings, machine, catalogue.values())
    checks = preflight(plan, settings, machine)
    status = StatusFile(settings.data_dir / "status.json", model.name)  # a Report; also model_text(model) for the UI
    with socket_folder(settings.runtime_dirs) as folder:
        engine = make_engine(plan, settings, machine, folder)  # engine.endpoint, engine.api_key: known now
        await run_prestart(settings, status)
        path = await asyncio.to_thread(prepare, model, settings, status, form=plan.form, cancelled=stop_event)
        supervisor = make_supervisor(engine.serving(path), settings, status)
        await supervisor.run()  # until supervisor.stop(); supervisor.wait_ready() for the others

Every error that people should see is an InferenceError with `message` and `exit_code`.
"""

from inference.catalogue import Model, ModelText, load_catalogue, model_text
from inference.choose import find_model
from inference.errors import InferenceError
from inference.launch import AnyEngine, make_engine, make_supervisor, stop_signals
from inference.machine import Machine, this_machine
from inference.plan import LaunchPlan, make_plan
from inference.preflight import Check, preflight
from inference.prepare import prepare
from inference.prestart import run_prestart
from inference.progress import ProgressLine
from inference.settings import Settings
from inference.sockets import socket_folder
from inference.status import Progress, Report, StatusFile
from inference.supervisor import Supervisor

__all__ = [
    "AnyEngine",
    "Check",
    "InferenceError",
    "LaunchPlan",
    "Machine",
    "Model",
    "ModelText",
    "Progress",
    "ProgressLine",
    "Report",
    "Settings",
    "StatusFile",
    "Supervisor",
    "find_model",
    "load_catalogue",
    "make_engine",
    "make_plan",
    "make_supervisor",
    "model_text",
    "preflight",
    "prepare",
    "run_prestart",
    "socket_folder",
    "stop_signals",
    "this_machine",
]
