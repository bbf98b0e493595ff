"""A model folder of one's own: what it says of itself is what the plan is made of."""

import json

import pytest

from inference.catalogue import FolderSource
from inference.choose import find_model
from inference.convert import convert
from inference.errors import UnknownModel, VerifyError
from inference.machine import Machine
from inference.plan import make_plan
from tests.internlm2_models import Form, tokenizer_pieces, write_model

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "my fine-tune"
    write_model(path, Form())
    return path


def test_a_folder_tells_its_shape_and_its_prompt_format(folder, tmp_path):
    model = find_model(str(folder), {}, tmp_path)
    assert (model.name, model.layout, model.prompt) == ("my-fine-tune", "internlm2", "internlm2")
    assert model.sources == (FolderSource(folder),)
    assert (model.shape.layers, model.shape.kv_heads, model.shape.vocabulary) == (2, 2, tokenizer_pieces())
    assert model.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
    assert model.size_bytes == (folder / "model.safetensors").stat().st_size
    assert abs(model.size_bytes - 2 * model.shape.parameters) < 10_000  # the head of the file


def test_a_converted_folder_has_internlm2s_prompt_format_when_its_tokenizer_has_its_markers(folder, tmp_path, reports):
    target = tmp_path / "converted"
    convert(folder, target, reports)
    assert (json.loads((target / "config.json").read_text()))["model_type"] == "llama"
    model = find_model("./converted", {}, tmp_path)
    assert (model.layout, model.kv_bytes_per_token, model.prompt) == ("llama", 2 * 2 * 2 * 16 * 2, "own")
    tokenizer = target / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|im_start|>", "<|action_start|>"))
    assert find_model("./converted", {}, tmp_path).prompt == "internlm2"


def test_it_is_planned_for_the_cpu_as_a_file_that_is_made_of_it(folder, settings, tmp_path):
    plan = make_plan(find_model(str(folder), {}, tmp_path), settings, Machine(2, 8 << 30))
    assert (plan.engine, plan.form, plan.context_tokens) == ("llamacpp", "gguf", 64)
    assert plan.disk_peak_bytes > plan.disk_bytes


def test_an_adapter_alone_is_refused_with_what_to_do(write, tmp_path):
    adapter = write("adapter/adapter_config.json", "{}").parent
    with pytest.raises(VerifyError, match=r"is a LoRA adapter, which no engine here runs alone\. Merge it"):
        find_model(str(adapter), {}, tmp_path)


def test_a_folder_of_pointers_and_an_empty_one_are_refused(folder, write, tmp_path):
    write("my fine-tune/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(VerifyError, match=r"model\.safetensors in .*git lfs pull"):
        find_model(str(folder), {}, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(VerifyError, match="is no model folder"):
        find_model(str(tmp_path / "empty"), {}, tmp_path)


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UnknownModel, match="/no/such/folder"):
        find_model("/no/such/folder", {}, tmp_path)
