"""Why LMDeploy ended, in one plain sentence and what to do; the texts are those of version 0.18."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from inference.plan import LaunchPlan

_SMALLER = "Set INFERENCE_CONTEXT or INFERENCE_SLOTS lower, or choose a smaller model."
_PREPARE = "Prepare it again: python -m inference prepare."


def explain_lmdeploy(tail: Sequence[str], returncode: int, plan: LaunchPlan) -> str:
    text = "\n".join(tail)
    for pattern, sentence in _CAUSES:
        if match := re.search(pattern, text):
            return sentence.format(*match.groups(), name=plan.model.name)
    if returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return f"LMDeploy was killed from outside, most likely because the memory ran out. {_SMALLER}"
    if returncode == -signal.SIGABRT:
        return f"LMDeploy's engine gave up (SIGABRT), as it does when the card fails or its memory runs out. {_SMALLER}"
    last = " / ".join(line.strip() for line in tail[-3:]) or "it said nothing"
    return f"LMDeploy ended with code {returncode}. Its last lines: {last}"


_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"No module named 'lmdeploy",
        "LMDeploy is not installed beside its command. Install it: pip install lmdeploy==0.18.0 torch==2.10.0",
    ),
    (
        r"Found no NVIDIA driver|Torch not compiled with CUDA enabled",
        "There is no NVIDIA card or driver that LMDeploy can use. Install the driver, or take "
        "INFERENCE_ENGINE=llamacpp.",
    ),
    (
        r"The NVIDIA driver on your system is too old|CUDA driver version is insufficient",
        "The NVIDIA driver is too old for this torch. Install torch for CUDA 12.8: "
        "pip install lmdeploy==0.18.0 torch==2.10.0",
    ),
    (
        r"Fallback to pytorch engine because turbomind is not built",
        "LMDeploy's own engine cannot be loaded: its CUDA libraries are missing or mixed. Install it anew: "
        "pip install lmdeploy==0.18.0 torch==2.10.0",
    ),
    (
        r"\[Errno 98\] error while attempting to bind on address",
        "LMDeploy's port is taken by another program. Start again: another port is chosen then.",
    ),
    (
        r"CUDA error: out of memory|OutOfMemoryError|No enough gpu memory for kv cache|CUDA out of memory",
        "The card's memory ran out. " + _SMALLER,
    ),
    (
        r"LocalEntryNotFoundError|outgoing traffic has been disabled",
        "The model's folder is not there, and nothing is fetched at this stage. " + _PREPARE,
    ),
    (r"KeyError: '(\S+\.weight)'", "The weight {0} is missing: a file of the model is not there. " + _PREPARE),
    (
        r"SafetensorError: Error while deserializing header: (\w+)",
        "A file of the model is cut short or damaged ({0}). " + _PREPARE,
    ),
    (
        r"chat_template is not set|no chat template|does not have a chat template",
        "The model has no chat template, so it cannot chat. Convert it with python -m inference convert.",
    ),
    (
        r"error: (unrecognized arguments: .*|argument .*)",
        "This lmdeploy does not take our options ({0}); it is of another version. Install 0.18.0.",
    ),
    (r"CUDA error: (.*)", "The card failed: {0}. Look at nvidia-smi and dmesg, then start again."),
    (r"PyTorch ZMQ engine process is not alive", "LMDeploy's engine process died. " + _SMALLER),
)
