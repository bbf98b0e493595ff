"""Models and the servers that run them. What app.py needs of it, in the order of use:

    settings = Settings.from_env(os.environ, root)
    model = find_model(settings.model, load_catalogue(), root)
    plan = make_plan(model, settings, this_machine())
    status = StatusFile(settings.data_dir / "status.json", model.name)  # a Report; also model_text(model) for the UI
    with socket_folder(settings.runtime_dirs) as folder:
        engine = LlamaCpp(plan, folder)  # engine.endpoint, engine.api_key: known now, for the gateway
        file = await asyncio.to_thread(prepare, model, settings, status, cancelled=stop_event)
        supervisor = make_supervisor(engine.serving(file), settings, status)
        await supervisor.run()  # until supervisor.stop(); supervisor.wait_ready() for the others

Every error that people should see is an InferenceError with `message` and `exit_code`.
"""

from inference.catalogue import Model, ModelText, load_catalogue, model_text
from inference.choose import find_model
from inference.engines.llamacpp import LlamaCpp
from inference.errors import InferenceError
from inference.machine import Machine, this_machine
from inference.plan import LaunchPlan, make_plan
from inference.prepare import prepare
from inference.progress import ProgressLine
from inference.settings import Settings
from inference.sockets import socket_folder
from inference.status import Progress, Report, StatusFile
from inference.supervisor import Supervisor, make_supervisor

__all__ = [
    "InferenceError",
    "LaunchPlan",
    "LlamaCpp",
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
    "make_plan",
    "make_supervisor",
    "model_text",
    "prepare",
    "socket_folder",
    "this_machine",
]
