"""The command line: `python -m inference list | prepare | convert | verify | serve`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import inference
from inference import InferenceError, LaunchPlan, Model, Progress, Report, Settings
from inference.errors import Cancelled, VerifyError
from inference.sizes import megabytes

GGUF_TYPES = ("F16", "BF16", "Q8_0")
ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = """examples:
  python -m inference list
  python -m inference prepare --model smollm2-135m-instruct
  python -m inference convert /path/to/internlm2-chat-7b /path/to/internlm2-chat-7b-llama
  python -m inference convert /path/to/my-finetune /path/to/my-finetune.gguf --gguf Q8_0
  python -m inference verify /path/to/internlm2-chat-7b-llama
  python -m inference serve --model /path/to/internlm2-chat-1_8b.gguf

The settings come from the environment: MODEL, MODELS_DIR, DATA_DIR, INFERENCE_CONTEXT, INFERENCE_SLOTS,
INFERENCE_THREADS, INFERENCE_START_TIMEOUT_S, INFERENCE_STOP_TIMEOUT_S.

exit codes: 0 done, 2 settings, 3 unknown model, 4 cannot fetch, 5 wrong file, 6 disk full, 7 does not fit,
8 start failed, 9 not ready in time, 10 engine keeps ending, 11 cannot convert, 130 stopped

`verify` ends with 5 when something is wrong, with 0 when there are notes only."""


def main(argv: list[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    try:
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
    commands.add_parser("list", help="the models of the catalogue").set_defaults(run=_list)
    prepare = commands.add_parser("prepare", help="fetch and check a model, so that it can be run")
    prepare.set_defaults(run=_prepare)
    serve = commands.add_parser("serve", help="prepare a model and run its engine until Ctrl-C")
    serve.set_defaults(run=_serve)
    serve.add_argument("--engine", help="auto or llamacpp (default: INFERENCE_ENGINE, else auto)")
    convert = commands.add_parser("convert", help="a folder in InternLM2's layout to Llama's, or to a GGUF file")
    convert.set_defaults(run=_convert)
    convert.add_argument("source", type=Path, metavar="SRC", help="the model's folder, or a LoRA adapter's")
    convert.add_argument("target", type=Path, metavar="DST", help="the new folder; with --gguf the new file")
    convert.add_argument("--gguf", choices=GGUF_TYPES, help="write one file for llama.cpp, its weights in this type")
    verify = commands.add_parser("verify", help="check a model on disk, and say what would go wrong in which engine")
    verify.set_defaults(run=_verify)
    verify.add_argument("path", type=Path, metavar="PATH", help="a model's folder, an adapter's, or a .gguf file")
    for command in (prepare, serve):
        command.add_argument("--model", help="a name from `list`, or the path of a .gguf file (default: MODEL)")
    return parser


def _list(settings: Settings, _: argparse.Namespace) -> int:
    for model in inference.load_catalogue().values():
        mark = "*" if model.name == settings.model else " "
        languages = ", ".join(model.languages)
        print(f"{mark} {model.name:<24} {megabytes(model.size_bytes):>9}  {languages:<7} {model.licence}")
    return 0


def _prepare(settings: Settings, _: argparse.Namespace) -> int:
    line = inference.ProgressLine()
    try:
        path = inference.prepare(_model(settings), settings, line)
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


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    """Ctrl-C and SIGTERM stop in order, from the first moment."""
    model = _model(settings)
    plan = inference.make_plan(model, settings, inference.this_machine())
    status = inference.StatusFile(settings.data_dir / "status.json", model.name)
    line = inference.ProgressLine()

    def report(news: Progress) -> None:
        status(news)
        line(news)

    try:
        asyncio.run(_run_engine(plan, settings, report))
    except asyncio.CancelledError:
        status.clear()
        print("stopped", file=sys.stderr)
    finally:
        line.close()
    return 0


async def _run_engine(plan: LaunchPlan, settings: Settings, report: Report) -> None:
    cancelled = threading.Event()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _stop, cancelled, task)
    with inference.socket_folder(settings.runtime_dirs) as folder:
        engine = inference.LlamaCpp(plan, folder)
        file = await asyncio.to_thread(inference.prepare, plan.model, settings, report, cancelled=cancelled)
        key_file = folder / "key"
        key_file.write_text(engine.api_key, encoding="ascii")
        print(f"It will listen on {engine.endpoint}; its key is in {key_file}. Ctrl-C stops it.", flush=True)
        await inference.make_supervisor(engine.serving(file), settings, report).run()


def _stop(cancelled: threading.Event, task: asyncio.Task[None]) -> None:
    cancelled.set()
    task.cancel()


def _model(settings: Settings) -> Model:
    return inference.find_model(settings.model, inference.load_catalogue(), settings.root)


if __name__ == "__main__":
    sys.exit(main())
