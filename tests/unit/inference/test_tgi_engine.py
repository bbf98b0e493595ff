"""Text Generation Inference's command line, the stages in its log and its failures: the logs are a real server's."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from inference.cards import wanted_card
from inference.catalogue import load_catalogue
from inference.engines.tgi import FLAG_VARIABLES, Tgi
from inference.machine import Machine
from inference.plan import make_plan

pytestmark = pytest.mark.unit
LOGS = Path(__file__).resolve().parents[2] / "recorded" / "tgi" / "lifecycle"
STARTS = json.loads((LOGS / "start-failures.json").read_text())


@pytest.fixture
def engine(settings, tmp_path):
    machine = Machine(8, 32 << 30, (wanted_card("A10"),), launcher="/usr/bin/text-generation-launcher")
    plan = make_plan(load_catalogue()["internlm2-chat-7b"], settings, machine)
    return Tgi(plan, tmp_path, machine.launcher, ports=(3001, 3002, 3003)).serving(Path("/models/ilm2"))


def lines_of(name):
    return (LOGS / f"{name}.log").read_text().splitlines()


def tail_of(name):
    """What the supervisor still has of it."""
    return lines_of(name)[-200:]


CAUSES = {
    "bad-flag": "does not know --no-such-flag: it is too old or too new. Take version 3.3.",
    "input-not-smaller-than-total": "`max_input_tokens`(2048) must be < `max_total_tokens`(2048). Set INFER",
    "no-such-folder": "There is no model folder /models/nothing-here. Check the path after MODEL= or --model.",
    "port-in-use": "The address 127.0.0.1:3005 is taken by another program. Start again",
    "shard-file-cut-short": "A file of the model is cut short or damaged (MetadataIncompleteBuffer). Prepare it again",
    "stray-safetensors-file": "The weight lm_head.weight is in two files, /models/ilm2-stray/model-00002-of-00002."
    "safetensors and /models/ilm2-stray/model-old.safetensors: a file of another version lies in the folder.",
    "missing-shard-file": "The weight model.layers.1.self_attn.q_proj.weight is missing: a file of the model",
    "no-tokenizer-json": "The model folder has no tokenizer.json that can be read. Prepare it again",
    "broken-chat-template": "The model's chat template has a syntax error (unexpected end of block).",
    "config-json-broken": "The file /models/ilm2-badcfg/config.json is no valid JSON. Prepare it again",
    "tokenizer-class-of-transformers-5": "written by a newer transformers (class TokenizersBackend)",
    "internlm2-layout-not-converted": "still in its own layout (internlm2), which this server cannot read",
}


def test_every_start_that_failed_has_its_cause_here():
    assert {name for name, start in STARTS.items() if not start["came_up"]} == set(CAUSES)


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_of_a_failed_start_is_one_plain_sentence_with_what_to_do(engine, name):
    text = engine.explain(tail_of(name), STARTS[name]["exit_code"])
    assert CAUSES[name] in text
    assert len(text) < 400
    assert "{" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("lines", "code", "part"),
    [
        (tail_of("sigkill-shard-while-streaming"), 1, "A shard was killed from outside"),
        (tail_of("sigkill-router-while-streaming"), 1, "Its router crashed."),
        (tail_of("sigkill-launcher-while-streaming"), -9, "was killed from outside, most likely because the memory"),
        (
            ["CUDA out of memory. Tried to allocate 2 GiB", "Error: ShardFailed"],
            1,
            "The card's memory ran out. The plan",
        ),
        (["Not enough memory to handle 8192 prefill tokens. You need to decrease"], 1, "a prefill of 8192 tokens"),
        (['Error: NotEnoughCUDADevices("`sharded` is true but only found 1 CUDA devices")'], 1, "only found 1 CUDA"),
        (
            ["error: invalid value 'tcp://10.0.0.1:9090' for '--prometheus-port <PROMETHEUS_PORT>': invalid digit"],
            2,
            "cannot use 'tcp://10.0.0.1:9090' for --prometheus-port",
        ),
        (["Shard 0 crashed", "Error: ShardFailed"], 1, "A shard crashed while serving"),
        (["something new"], 3, "ended with code 3. Its last lines: something new"),
        ([], 137, "killed from outside"),
    ],
)
def test_the_cause_of_an_end_while_serving_is_plain(engine, lines, code, part):
    assert part in engine.explain(lines, code)


@pytest.mark.parametrize("name", ["total-above-max-position", "no-chat-template", "json-output"])
def test_a_good_start_goes_through_its_stages(engine, name):
    news = [news for line in lines_of(name) if (news := engine.news_of(line)) is not None]
    assert [(one.stage, one.message) for one in news] == [
        ("load", "looking at the model's files"),
        ("load", "loading the model into the card's memory"),
        ("warmup", "trying the largest batch"),
        ("warmup", "generating a first token"),
    ]


def test_what_people_sent_and_the_key_stay_out_of_the_log(engine):
    (line,) = [one for one in lines_of("total-above-max-position") if "GenerateParameters" in one]
    assert engine.redacted(line).endswith('chat_completions{parameters="GenerateParameters [left out]')
    assert engine.redacted(f'        "{engine.api_key}",') == '        "***",'


def test_the_command_line_is_as_planned(engine, tmp_path):
    """Each flag has its reason in inference/engines/tgi.py."""
    assert engine.argv() == [
        "/usr/bin/text-generation-launcher",
        *"--model-id /models/ilm2 --num-shard 1 --dtype bfloat16 --max-input-tokens 7168".split(),
        *"--max-total-tokens 8192 --max-batch-prefill-tokens 8192 --max-concurrent-requests 64".split(),
        *"--payload-limit 2000000 --usage-stats off --graceful-termination-timeout 6".split(),
        *"--hostname 127.0.0.1 --port 3001 --prometheus-port 3002 --master-port 3003".split(),
        *("--shard-uds-path", str(tmp_path / "tgi")),
    ]
    assert engine.api_key not in " ".join(engine.argv()) + repr(engine)


def test_a_quantized_plan_leaves_the_dtype_to_the_server(engine):
    gpu = replace(engine.plan.gpu, quantize="eetq", dtype="float16")
    argv = replace(engine, plan=replace(engine.plan, gpu=gpu)).argv()
    assert argv[argv.index("--quantize") + 1] == "eetq"
    assert "--dtype" not in argv


def test_variables_with_names_of_flags_do_not_reach_the_launcher(engine, monkeypatch):
    traps = {"HOSTNAME": "pod-1", "PORT": "80", "REVISION": "main", "MASTER_PORT": "tcp://10.0.0.1:80"}
    traps |= {"PROMETHEUS_PORT": "tcp://10.0.0.1:9090", "HF_TOKEN": "secret", "MODEL_ID": "x", "ROPE_SCALING": "linear"}
    for name, value in {**traps, "CUDA_VISIBLE_DEVICES": "1", "GATEWAY_X": "secret"}.items():
        monkeypatch.setenv(name, value)
    environment = engine.environment()
    assert not (set(traps) | {"GATEWAY_X"}) & set(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert (environment["HF_HUB_OFFLINE"], environment["API_KEY"]) == ("1", engine.api_key)


def test_its_router_finds_the_python_of_its_server_before_ours(engine, tmp_path, monkeypatch):
    ours, its = tmp_path / "ours", tmp_path / "its"
    for folder, programs in ((ours, ["python3"]), (its, ["python3", "text-generation-server"])):
        folder.mkdir()
        for program in programs:
            (folder / program).write_text("#!/bin/sh\n")
            (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{ours}:{its}")
    assert shutil.which("python3", path=engine.environment()["PATH"]) == str(its / "python3")


def test_every_flag_that_the_launcher_prints_is_kept_from_its_environment():
    """The recorded log begins with all arguments by name; those without a variable would be missing here."""
    text = (LOGS / "total-above-max-position.log").read_text()
    arguments = text[text.index("Args {") : text.index("\n}")]
    names = {line.split(":")[0].strip() for line in arguments.splitlines() if line.startswith("    ") and ":" in line}
    names = {name for name in names if name.isidentifier()}
    assert len(names) > 40
    assert {name.upper() for name in names} <= FLAG_VARIABLES


def test_a_launcher_is_asked_to_end_when_we_are_killed_and_its_socket_is_cleared(engine, tmp_path):
    assert engine.parent_death_signal == signal.SIGTERM
    (tmp_path / "tgi-0").touch()
    engine.clear_the_way()
    assert not list(tmp_path.glob("tgi-*"))
