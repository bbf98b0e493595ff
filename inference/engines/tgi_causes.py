"""Why Text Generation Inference ended, in one plain sentence and what to do, from the last lines of its log.

Each text was seen in a real server's log, or stands in its source (`launcher/src/main.rs`, `backends/v3/src/lib.rs`).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from inference.plan import LaunchPlan
from inference.sizes import gibibytes

_PREPARE = "Prepare it again: python -m inference prepare."


def explain_tgi(tail: Sequence[str], returncode: int, plan: LaunchPlan) -> str:
    if returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        needs = _needs(plan)
        return f"Text Generation Inference was killed from outside, most likely because the memory ran out. {needs}"
    text = " ".join(" ".join(tail).split())  # its Python logs are wrapped at 80 columns
    for pattern, sentence in _CAUSES:
        if match := re.search(pattern, text):
            return sentence.format(*match.groups(), needs=_needs(plan))
    errors = [line for line in tail if "ERROR" in line or line.startswith("Error: ")]
    last = " / ".join(line.strip() for line in (errors or list(tail))[-3:]) or "it said nothing"
    return f"Text Generation Inference ended with code {returncode}. Its last lines: {last}"


def _needs(plan: LaunchPlan) -> str:
    gpu = plan.gpu
    held = f"The plan holds {gibibytes(gpu.budget.card_bytes)} of the card for it. " if gpu else ""
    return f"{held}Set INFERENCE_CONTEXT lower, or INFERENCE_QUANTIZE=eetq, or choose a smaller model."


_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"Failed to bind to (\S+): Address already in use",
        "The address {0} is taken by another program. Start again: another port is chosen then.",
    ),
    (
        r"error: unexpected argument '(\S+)' found",
        "This text-generation-launcher does not know {0}: it is too old or too new. Take version 3.3.",
    ),
    (
        r"error: invalid value '(.*?)' for '(\S+)",
        "text-generation-launcher cannot use {0!r} for {1}; a variable of its environment has that name. Unset it.",
    ),
    (
        r"ArgumentValidation\(\"(.*?)\"\)",
        "text-generation-launcher refuses its settings: {0}. Set INFERENCE_CONTEXT to another length.",
    ),
    (
        r"Not enough memory to handle (\d+) prefill tokens",
        "The card has too little memory for a prefill of {0} tokens. {needs}",
    ),
    (r"OutOfMemoryError|CUDA out of memory|NotEnoughMemory", "The card's memory ran out. {needs}"),
    (
        r"NotEnoughCUDADevices\(\"?(.*?)\"?\)",
        "There are fewer cards than INFERENCE_GPUS asks for ({0}). Set it lower.",
    ),
    (
        r"Unsupported model type (internlm\w*)",
        "The model is still in its own layout ({0}), which this server cannot read without the model's own code. "
        "Convert it: python -m inference convert SRC DST.",
    ),
    (
        r"Unsupported model type (\S+)",
        "Text Generation Inference does not know models of type {0}. Choose another model.",
    ),
    (
        r"Key (\S+) was found in multiple files: (\S+) and (\S+)",
        "The weight {0} is in two files, {1} and {2}: a file of another version lies in the folder. "
        "Remove the older one.",
    ),
    (
        r"weight (\S+) does not exist",
        "The weight {0} is missing: a file of the model is not there. " + _PREPARE,
    ),
    (
        r"SafetensorError: Error while deserializing header: (\w+)",
        "A file of the model is cut short or damaged ({0}). " + _PREPARE,
    ),
    (
        r"It looks like the config file at '(\S+)' is not a valid JSON file",
        "The file {0} is no valid JSON. " + _PREPARE,
    ),
    (
        r"Tokenizer class (\w+) does not exist",
        "The tokenizer was written by a newer transformers (class {0}), which this server does not know. "
        "Convert the model with python -m inference convert.",
    ),
    (
        r"Converting from SentencePiece and Tiktoken failed|Unable to load tokenizer",
        "The model folder has no tokenizer.json that can be read. " + _PREPARE,
    ),
    (
        r"panicked at router/src/infer/chat_template.rs\S* .*?detail: \"(.*?)\"",
        "The model's chat template has a syntax error ({0}). Mend chat_template in tokenizer_config.json.",
    ),
    (
        r"HFValidationError: Repo id must be in the form .*?: '(.*?)'",
        "There is no model folder {0}. Check the path after MODEL= or --model.",
    ),
    (r"DownloadError", "The model's files are not all there, and nothing is fetched at this stage. " + _PREPARE),
    (
        r"Shard process was signaled to shutdown with signal 9",
        "A shard was killed from outside, most likely because the machine's memory ran out. {needs}",
    ),
    (r"Shard process was signaled to shutdown with signal (\d+)", "A shard crashed (signal {0})."),
    (
        r"Error: ShardFailed|Shard \d+ crashed",
        "A shard crashed while serving, as it does when the card's memory runs out. {needs}",
    ),
    (r"Error: WebserverFailed|Webserver Crashed", "Its router crashed."),
    (
        r"Found no NVIDIA driver|CUDA driver version is insufficient",
        "There is no NVIDIA driver here, or it is too old. Install one, or take INFERENCE_ENGINE=llamacpp.",
    ),
)
