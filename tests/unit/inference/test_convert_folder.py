"""What `convert` does with folders: whole or nothing, resumes, refuses; and what it writes beside the weights."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import pytest

from inference import new_folder
from inference.convert import convert
from inference.errors import Cancelled, ConvertError, DiskFull, InferenceError, VerifyError
from inference.verify import check_model
from inference.weights import ranges
from tests.internlm2_models import Form, config_of, random_weights, read_safetensors, write_model, write_safetensors

pytestmark = pytest.mark.unit


@pytest.fixture
def source(tmp_path):
    write_model(tmp_path / "source", Form(shards=3))
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "target"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def settings(path: Path, **changes) -> None:
    """Change a JSON file; None removes a key."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_converted_folder_has_no_fault_and_no_file_under_way(source, target, reports):
    convert(source, target, reports)
    assert check_model(target) == []
    assert not list(target.glob(".*.partial"))
    assert sorted(path.name for path in target.iterdir()) == [
        ".conversion.json",
        "config.json",
        "generation_config.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]


def test_progress_is_counted_in_bytes_to_the_end(source, target, reports):
    convert(source, target, reports)
    counted = [news for news in reports if news.total]
    assert reports.stages == ["convert"]
    assert [news.done for news in counted] == sorted(news.done for news in counted)
    size = sum(path.stat().st_size for path in target.glob("*.safetensors"))
    assert (counted[-1].done, counted[-1].total) == (size, size)


def test_config_is_the_one_that_both_engines_read_rightly(source, target, reports):
    settings(source / "config.json", rope_scaling={"type": "dynamic", "factor": 2.0}, rope_theta=1000000)
    convert(source, target, reports)
    config = json.loads((target / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["model_type"] == "llama"
    assert config["rope_theta"] == 1000000
    assert config["rope_scaling"] == {"rope_type": "dynamic", "type": "dynamic", "factor": 2.0}
    assert (config["attention_bias"], config["mlp_bias"], config["head_dim"]) == (False, False, 16)
    assert config["num_key_value_heads"] == 2
    assert not {"auto_map", "attn_implementation", "rope_parameters", "bias"} & config.keys()
    ids = config["vocab_size"] - 2
    assert json.loads((target / "generation_config.json").read_text())["eos_token_id"] == [2, ids]


def test_a_null_in_the_config_is_not_handed_on(source, target, reports):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"rms_norm_eps": None, "hidden_act": None}))
    convert(source, target, reports)
    made = json.loads((target / "config.json").read_text())
    assert (made["rms_norm_eps"], made["hidden_act"]) == (1e-6, "silu")


def test_the_form_of_transformers_5_is_read(source, target, reports):
    new = {"rope_type": "linear", "factor": 3.0, "rope_theta": 500000.0}
    settings(source / "config.json", rope_theta=None, rope_scaling=None, rope_parameters=new)
    convert(source, target, reports)
    config = json.loads((target / "config.json").read_text())
    assert config["rope_theta"] == 500000.0
    assert config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 3.0,
        "low_freq_factor": 1e9,
        "high_freq_factor": 2e9,
        "original_max_position_embeddings": 8192,
    }


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "type 'yarn'"),
        ({"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}}, "types dynamic and linear"),
        ({"rope_scaling": {"factor": 2.0}}, "a factor but no type"),
        ({"rope_scaling": 4}, "rope_scaling must be an object"),
        ({"rope_parameters": {"rope_theta": 7.0}}, "rope_theta is 10000.0, but 7.0"),
        ({"rope_theta": "much"}, "rope_theta must be a number"),
        ({"num_key_value_heads": 3}, "cannot be divided by num_key_value_heads 3"),
        ({"hidden_size": 127}, "hidden_size 127"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be"),
        ({"num_hidden_layers": 2_000_000_000}, "num_hidden_layers must be a whole number from 1 to 10000"),
        ({"bias": "yes"}, "bias must be true or false"),
        ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
        ({"num_hidden_layers": 3}, "'model.layers.2.attention_norm.weight'"),
        ({"num_hidden_layers": 1}, "'model.layers.1"),
        ({"intermediate_size": 97}, "feed_forward.w1.weight"),
        ({"num_key_value_heads": 4}, "attention.wqkv.weight"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"bos_token_id": 70}, "bos_token_id is 70"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_its_key_or_by_the_tensor(source, target, reports, changes, part):
    settings(source / "config.json", **changes)
    with pytest.raises((ConvertError, VerifyError)) as caught:
        convert(source, target, reports)
    assert part in caught.value.message
    assert not target.exists() or not (target / "config.json").exists()


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("v_head.weight", "reward model"),
        ("model.layers.0.feed_forward.w1.Plora_A.weight", "XComposer"),
        ("language_model.model.norm.weight", "InternVL"),
        ("vision_model.embeddings.weight", "InternVL"),
        ("score.weight", "classifier"),
        ("model.layers.0.attention.wo.qweight", "quantized (AWQ or GPTQ)"),
        ("model.layers.0.attention.wo.weight.absmax", "bitsandbytes"),
        ("model.layers.0.attention.wqkv.lora_A.weight", "LoRA"),
        ("model.layers.9.attention.wqkv.weight", "no place in this kind of model"),
        ("model.layers.0.feed_forward.w1.bias", "no place in this kind of model"),
    ],
)
def test_what_has_no_place_in_llama_is_refused_by_name(tmp_path, target, reports, name, part):
    weights = write_model(tmp_path / "source", Form())
    extra = weights | {name: weights["model.norm.weight"]}
    write_safetensors(tmp_path / "source" / "model.safetensors", extra, "BF16")
    with pytest.raises(ConvertError) as caught:
        convert(tmp_path / "source", target, reports)
    assert repr(name) in caught.value.message
    assert part in caught.value.message
    assert not target.exists()


def test_biases_that_are_there_in_part_are_refused(tmp_path, target, reports):
    weights = write_model(tmp_path / "source", Form(has_bias=True))
    del weights["model.layers.1.attention.wo.bias"]
    write_safetensors(tmp_path / "source" / "model.safetensors", weights, "BF16")
    with pytest.raises(ConvertError, match=r"'model.layers.1.attention.wo.bias' is missing"):
        convert(tmp_path / "source", target, reports)


def test_the_tensors_decide_about_biases(tmp_path, target, reports):
    """A config without the key means biases, by the class's default; there are none."""
    write_model(tmp_path / "source", Form())
    settings(tmp_path / "source" / "config.json", bias=None)
    convert(tmp_path / "source", target, reports)
    assert json.loads((target / "config.json").read_text())["attention_bias"] is False


def test_other_types_of_numbers_are_refused_by_name(tmp_path, target, reports):
    weights = write_model(tmp_path / "source", Form())
    write_safetensors(tmp_path / "source" / "model.safetensors", weights, "I16")
    with pytest.raises(ConvertError, match="has the type I16"):
        convert(tmp_path / "source", target, reports)


def test_a_tensor_in_two_files_is_refused(source, target, reports):
    index = source / "model.safetensors.index.json"
    index.unlink()
    shutil.copy(source / "model-00003-of-00003.safetensors", source / "copy.safetensors")
    with pytest.raises(ConvertError, match=r"is in both .*copy.safetensors and .*00003-of-00003"):
        convert(source, target, reports)


@pytest.mark.parametrize("has_index", [True, False])
def test_a_missing_shard_is_named(source, target, reports, has_index):
    (source / "model-00002-of-00003.safetensors").unlink()
    if not has_index:
        (source / "model.safetensors.index.json").unlink()
    with pytest.raises(VerifyError, match=r"lacks model-00002-of-00003.safetensors"):
        convert(source, target, reports)


def test_files_that_are_no_weights_are_left_alone(source, target, reports):
    (source / "model.safetensors.index.json").unlink()
    for name in ("training_args.bin", "optimizer.pt", "adapter_model.safetensors", "scheduler.bin"):
        (source / name).write_bytes(b"nothing")
    convert(source, target, reports)
    assert check_model(target) == []


def test_interneves_own_files_are_refused(tmp_path, target, reports):
    write_model(tmp_path / "source", Form())
    (tmp_path / "source" / "model.safetensors").rename(tmp_path / "source" / "model_tp0_pp0.pt")
    with pytest.raises(VerifyError, match=r"model_tp0_pp0.pt is in InternEvo's own format"):
        convert(tmp_path / "source", target, reports)


def test_a_hubs_snapshot_of_links_is_converted(source, tmp_path, target, reports):
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    for path in source.iterdir():
        (snapshot / path.name).symlink_to(path)
    convert(snapshot, target, reports)
    assert check_model(target) == []


def test_a_second_run_does_nothing(source, target, reports):
    convert(source, target, reports)
    before = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    convert(source, target, reports)
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == before
    assert "is converted already" in reports[-1].message


def stopping_after(reports, count):
    """A report, and the signal that it sets after so many pieces of news."""
    stop = threading.Event()

    def report(news):
        reports(news)
        if len(reports) >= count:
            stop.set()

    return report, stop


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 9, 12, 14, 16])
def test_a_stopped_conversion_looks_unfinished_and_goes_on_where_it_was(source, target, tmp_path, reports, count):
    report, stop = stopping_after(reports, count)
    with pytest.raises(Cancelled):
        convert(source, target, report, cancelled=stop)
    assert not (target / "config.json").exists()
    assert not list(target.glob(".*.partial"))
    assert any(problem.is_fatal for problem in check_model(target))
    done = {path.name: path.stat().st_mtime_ns for path in target.glob("*.safetensors")}
    convert(source, target, reports)
    assert {name: (target / name).stat().st_mtime_ns for name in done} == done
    convert(source, tmp_path / "fresh", reports)
    assert contents(tmp_path / "fresh") == contents(target)


def test_a_source_that_changed_is_converted_anew(source, target, reports, tmp_path):
    convert(source, target, reports)
    changed = source / "model-00002-of-00003.safetensors"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    convert(source, target, reports)
    convert(source, tmp_path / "fresh", reports)
    assert contents(tmp_path / "fresh") == contents(target)


def test_changed_settings_are_written_anew_and_the_weights_stay(source, target, reports):
    convert(source, target, reports)
    before = {path.name: path.stat().st_mtime_ns for path in target.glob("*.safetensors")}
    settings(source / "config.json", rope_theta=5000.0)
    convert(source, target, reports)
    assert json.loads((target / "config.json").read_text())["rope_theta"] == 5000.0
    assert {path.name: path.stat().st_mtime_ns for path in target.glob("*.safetensors")} == before


def test_a_shard_that_was_damaged_since_is_made_again(source, target, reports, tmp_path):
    convert(source, target, reports)
    shard = target / "model-00001-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    convert(source, target, reports)
    convert(source, tmp_path / "fresh", reports)
    assert contents(tmp_path / "fresh") == contents(target)


def test_a_record_that_makes_no_sense_has_all_made_again(source, target, reports):
    convert(source, target, reports)
    for content in (b"", b"[]", b'{"version": 1, "finished": [{}]}', b"\xff\xfe", b'{"version": 99}'):
        (target / ".conversion.json").write_bytes(content)
        convert(source, target, reports)
        assert check_model(target) == []


def test_another_model_in_the_same_target_leaves_nothing_of_the_first(source, target, reports, tmp_path):
    convert(source, target, reports)
    write_model(tmp_path / "other", Form(heads=4, kv_heads=4))
    convert(tmp_path / "other", target, reports)
    assert [path.name for path in target.glob("*.safetensors")] == ["model.safetensors"]
    assert [problem for problem in check_model(target) if problem.is_fatal] == []


def test_nothing_is_converted_in_place_or_over_other_files(source, tmp_path, target, reports):
    (tmp_path / "link").symlink_to(source)
    for same in (source, tmp_path / "link", source / ".." / "source"):
        with pytest.raises(ConvertError, match="own folder"):
            convert(source, same, reports)
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ConvertError, match=r"holds other files \(notes.txt"):
        convert(source, target, reports)
    with pytest.raises(ConvertError, match="is a file"):
        convert(source, target / "notes.txt", reports)
    assert (target / "notes.txt").read_text() == "mine"
    with pytest.raises(ConvertError, match="is no folder"):
        convert(tmp_path / "nothing", target, reports)


def test_a_stray_file_of_weights_in_the_target_is_named(source, target, reports):
    convert(source, target, reports)
    (target / "stray.safetensors").write_bytes(b"x")
    settings(source / "config.json", rope_theta=5000.0)
    with pytest.raises(ConvertError, match=r"stray.safetensors, which engines would load too"):
        convert(source, target, reports)


def test_two_conversions_to_one_folder_do_not_disturb_each_other(source, target, reports):
    target.mkdir()
    with new_folder._locked(target), pytest.raises(ConvertError, match="Another process"):
        convert(source, target, reports)


def test_a_full_disk_is_known_before_anything_is_written(source, target, reports, monkeypatch):
    usage = shutil.disk_usage(source)
    monkeypatch.setattr(new_folder.shutil, "disk_usage", lambda path: usage._replace(free=new_folder.DISK_MARGIN_BYTES))
    with pytest.raises(DiskFull, match=r"needs 64\.\d MB|needs 67\.\d MB"):
        convert(source, target, reports)
    assert not list(target.glob("*.safetensors"))


def test_a_disk_that_becomes_full_on_the_way_is_said_so(source, target, reports, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ranges.os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match="became full"):
        convert(source, target, reports)
    assert not list(target.glob(".*.partial"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(source, target, reports):
    target.mkdir(mode=0o555)
    with pytest.raises(ConvertError, match="may not be written"):
        convert(source, target, reports)


def test_without_copying_in_the_kernel_the_bytes_are_the_same(source, target, tmp_path, reports, monkeypatch):
    convert(source, target, reports)

    def refused(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(ranges.os, "copy_file_range", refused)
    monkeypatch.setattr(ranges, "BUFFER_BYTES", 1000)
    convert(source, tmp_path / "buffered", reports)
    assert contents(tmp_path / "buffered") == contents(target)


def test_a_source_that_is_cut_while_it_is_read_is_noticed(source, target, reports, monkeypatch):
    monkeypatch.setattr(ranges.os, "copy_file_range", lambda *_: 0)
    with pytest.raises(ConvertError, match="became shorter"):
        convert(source, target, reports)


def test_a_source_that_changes_while_it_is_converted_is_noticed(source, target, reports):
    changed = source / "model-00002-of-00003.safetensors"

    def report(news):
        reports(news)
        if "file 2" in news.message:
            changed.touch()

    with pytest.raises(ConvertError, match="was changed while it was converted"):
        convert(source, target, report)
    assert [path.name for path in target.glob("*.safetensors")] == ["model-00001-of-00003.safetensors"]
    convert(source, target, reports)
    assert check_model(target) == []


def test_a_folder_in_llamas_layout_is_recognized(source, target, tmp_path, reports):
    convert(source, target, reports)
    assert convert(target, tmp_path / "again", reports) == target
    assert "Llama's layout already" in reports[-1].message
    assert not (tmp_path / "again").exists()


def test_an_old_template_gets_the_names_of_the_tokens(tmp_path, target, reports):
    write_model(tmp_path / "source", Form())
    old = "{{ bos_token }}[UNUSED_TOKEN_146]user\n{{ messages[0]['content'] }}[UNUSED_TOKEN_145]\n"
    settings(tmp_path / "source" / "tokenizer_config.json", chat_template=old)
    convert(tmp_path / "source", target, reports)
    new = json.loads((target / "tokenizer_config.json").read_text())["chat_template"]
    assert new == "{{ bos_token }}<|im_start|>user\n{{ messages[0]['content'] }}<|im_end|>\n"


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_template_in_a_file_of_its_own_comes_where_tgi_reads_it(tmp_path, target, reports, name):
    write_model(tmp_path / "source", Form())
    template = "{{ bos_token }}mine"
    content = template if name.endswith("jinja") else json.dumps({"chat_template": template})
    (tmp_path / "source" / name).write_text(content)
    convert(tmp_path / "source", target, reports)
    assert json.loads((target / "tokenizer_config.json").read_text())["chat_template"] == template


def test_tokens_of_a_fine_tune_are_added_when_the_embedding_has_their_rows(tmp_path, target, reports):
    form = Form()
    write_model(tmp_path / "source", form)
    vocab = json.loads((tmp_path / "source" / "config.json").read_text())["vocab_size"]
    write_safetensors(tmp_path / "source" / "model.safetensors", random_weights(form, vocab + 1), "BF16")
    decoder = {str(vocab): {"content": "<tool>", "special": False}, str(vocab + 1): {"content": "<gone>"}}
    named = {str(vocab - 2): {"content": "<|im_end|>", "special": True}, str(vocab - 1): {"content": "<|im_start|>"}}
    settings(tmp_path / "source" / "tokenizer_config.json", added_tokens_decoder=decoder | named)
    convert(tmp_path / "source", target, reports)
    assert "<gone>" in reports.text
    assert f"config.json says {vocab} tokens, the embedding has {vocab + 1}" in reports.text
    tokens = {one["content"]: one for one in json.loads((target / "tokenizer.json").read_text())["added_tokens"]}
    assert (tokens["<tool>"]["id"], tokens["<tool>"]["special"]) == (vocab, False)
    assert "<gone>" not in tokens
    assert json.loads((target / "config.json").read_text())["vocab_size"] == vocab + 1
    assert [problem for problem in check_model(target) if problem.is_fatal] == []


def test_internlm3_is_linked_and_only_its_settings_are_written(source, target, tmp_path, reports):
    convert(source, tmp_path / "llama", reports)
    third = tmp_path / "internlm3"
    shutil.copytree(tmp_path / "llama", third)
    (third / ".conversion.json").unlink()
    config = config_of(Form(), json.loads((third / "config.json").read_text())["vocab_size"])
    config |= {"model_type": "internlm3", "architectures": ["InternLM3ForCausalLM"], "qkv_bias": False, "head_dim": 16}
    config |= {"rope_scaling": {"rope_type": "dynamic", "factor": 6.0}, "rope_theta": 50000000}
    (third / "config.json").write_text(json.dumps(config))
    convert(third, target, reports)
    written = json.loads((target / "config.json").read_text())
    assert written["model_type"] == "llama"
    assert written["rope_scaling"]["factor"] == 6.0
    assert (written["attention_bias"], written["mlp_bias"]) == (False, False)
    for path in third.glob("*.safetensors"):
        assert os.path.samefile(path, target / path.name)
    assert read_safetensors(target).keys() == read_safetensors(third).keys()
    assert [problem for problem in check_model(target) if problem.is_fatal] == []


def test_internlm3_on_another_disk_is_copied(source, target, tmp_path, reports, monkeypatch):
    convert(source, tmp_path / "internlm3", reports)
    path = tmp_path / "internlm3" / "config.json"
    settings(path, model_type="internlm3", qkv_bias=False, bias=False)

    def other_disk(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(new_folder.os, "link", other_disk)
    convert(tmp_path / "internlm3", target, reports)
    for shard in (tmp_path / "internlm3").glob("*.safetensors"):
        assert not os.path.samefile(shard, target / shard.name)
        assert (target / shard.name).read_bytes() == shard.read_bytes()


def test_internlm3_with_biases_of_the_queries_alone_is_refused(source, target, tmp_path, reports):
    """No engine's Llama has them without a bias of the output."""
    write_model(tmp_path / "biased", Form(has_bias=True))
    convert(tmp_path / "biased", tmp_path / "internlm3", reports)
    path = tmp_path / "internlm3" / "config.json"
    settings(path, model_type="internlm3", qkv_bias=True, bias=False)
    weights = {
        name: values
        for name, (_, values) in read_safetensors(tmp_path / "internlm3").items()
        if "o_proj.bias" not in name
    }
    write_safetensors(tmp_path / "internlm3" / "model.safetensors", weights, "BF16")
    with pytest.raises(ConvertError, match=r"o_proj.bias' and 1 more is missing"):
        convert(tmp_path / "internlm3", target, reports)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_small_file_is_named(source, target, reports, name, content):
    (source / name).write_bytes(content)
    with pytest.raises(InferenceError, match=name):
        convert(source, target, reports)
