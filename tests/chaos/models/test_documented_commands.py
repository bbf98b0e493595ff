"""What the pages say about a model of one's own, typed as it stands there: convert, verify, prepare, publish.

Only `/path/to` is a folder of the test's, and a git and LFS server on this machine has OpenXLab's place.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.git_host import GitHost, run_git
from tests.internlm2_models import Form, write_model, write_safetensors
from tests.pages import ROOT, blocks_run_by

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
RUN_HERE = blocks_run_by(__file__)
FORM = Form(heads=16, kv_heads=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a reader has under /path/to: InternLM2, a fine-tune of it, a LoRA adapter."""
    folder = tmp_path / "path"
    for name in ("internlm2-chat-7b", "my-finetune"):
        write_model(folder / name, FORM)
    write_adapter(folder / "my-lora")
    return folder


def write_adapter(folder: Path) -> None:
    folder.mkdir()
    layer = "base_model.model.model.layers.0.attention.wo"
    shapes = {f"{layer}.lora_A.weight": (4, FORM.hidden), f"{layer}.lora_B.weight": (FORM.hidden, 4)}
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    write_safetensors(folder / "adapter_model.safetensors", weights, "F32")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["wo"]}
    settings["base_model_name_or_path"] = "internlm/internlm2-chat-7b"
    (folder / "adapter_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("page", sorted({block.page for block in RUN_HERE}), ids=lambda page: page.name)
def test_the_commands_of_a_page_do_what_they_say(page: Path, folder: Path, host: GitHost, home: Path) -> None:
    host.username = "me"
    host.create("me/my-finetune")
    (home / "openxlab.token").write_text(f"{host.token}\n")
    script = "".join(block.text for block in RUN_HERE if block.page == page).replace("/path/to", str(folder))
    environ = {name: str(folder.with_name(name.lower())) for name in ("MODELS_DIR", "DATA_DIR")}
    account = {"OPENXLAB_USERNAME": "me", "OPENXLAB_TOKEN_FILE": str(home / "openxlab.token")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env={**os.environ, **environ, **account, "OPENXLAB_GIT_URL": host.url},
        input=f"{host.token}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if "inference publish" in script:
        assert "Published at" in done.stdout + done.stderr
        assert "config.json" in run_git(host.folder / "me" / "my-finetune.git", "ls-tree", "--name-only", "main")
    for target in re.findall(r"inference convert \S+ (\S+)", script):
        assert Path(target).exists()
