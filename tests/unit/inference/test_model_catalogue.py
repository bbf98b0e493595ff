"""The catalogue that is shipped, and what a wrong one is told."""

import pytest

from inference.catalogue import HubSource, WheelSource, load_catalogue, model_text
from inference.errors import SettingsError
from inference.settings import DEFAULT_MODEL

pytestmark = pytest.mark.unit


def test_the_default_model_comes_from_the_package_index():
    model = load_catalogue()[DEFAULT_MODEL]
    (source,) = model.sources
    assert isinstance(source, WheelSource)
    assert source.file_name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert (model.size_bytes, source.wheel_bytes) == (98_362_432, 92_871_040)
    assert "InternLM2" in model.note_en
    assert "InternLM2" in model.note_zh


def test_every_internlm2_names_its_hubs():
    for name, model in load_catalogue().items():
        if name == DEFAULT_MODEL:
            continue
        hubs = [source.hub for source in model.original_sources if isinstance(source, HubSource)]
        assert hubs in (["modelscope", "huggingface", "openxlab"], ["modelscope", "huggingface"])
        assert "zh" in model.languages


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes"),
    [
        ("internlm2-chat-1_8b", 1_889_110_016, 98_304),
        ("internlm2-chat-7b", 7_737_708_544, 131_072),
        ("internlm2-chat-20b", 19_861_149_696, 196_608),
        ("internlm3-8b-instruct", 8_804_241_408, 49_152),
        ("smollm2-135m-instruct", 134_515_008, 23_040),
    ],
)
def test_parameters_and_memory_of_the_context_follow_from_the_shape(name, parameters, kv_bytes):
    """Expected: what is published of the models; for InternLM2 also the sums over the tensors of their files."""
    model = load_catalogue()[name]
    assert (model.shape.parameters, model.kv_bytes_per_token) == (parameters, kv_bytes)
    assert model.size_bytes == (2 * parameters if model.is_size_computed else 98_362_432)


def test_the_small_bilingual_model_has_an_official_gguf_file_with_its_hash():
    model = load_catalogue()["internlm2_5-1_8b-chat"]
    (source,) = model.gguf_sources
    (file,) = source.files
    assert (file.name, file.size_bytes) == ("internlm2_5-1_8b-chat-q8_0.gguf", 2_009_613_056)
    assert file.sha256.startswith("8526cc24")
    assert len(source.revision) == 40
    assert model.gguf_bytes == file.size_bytes
    assert source not in model.original_sources


def test_branches_are_called_as_each_hub_calls_them():
    model = load_catalogue()["internlm2-chat-7b"]
    assert [source.revision for source in model.sources] == ["master", "main", "main"]


def test_a_file_of_ones_own_adds_models_and_replaces_ours(catalogue_text, write):
    own = write("own.toml", catalogue_text + catalogue_text.replace('"m"', f'"{DEFAULT_MODEL}"'))
    models = load_catalogue(own=own)
    assert models["m"].title == "M"
    assert models[DEFAULT_MODEL].title == "M"
    assert "internlm2-chat-7b" in models


def test_a_mistake_in_a_file_of_ones_own_is_named(catalogue_text, write):
    own = write("own.toml", catalogue_text.replace("kv_heads = 1, ", ""))
    with pytest.raises(SettingsError, match=r"own\.toml, model 1 \(m\), shape: 'kv_heads' is missing"):
        load_catalogue(own=own)


def test_the_ui_gets_the_notes():
    text = model_text(load_catalogue()[DEFAULT_MODEL])
    assert text.id == DEFAULT_MODEL
    assert "English only" in text.note_en
    assert "英文" in text.note_zh


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('title = "M"\n', "", "'title' is missing"),
        ('title = "M"', 'titel = "M"\ntitle = "M"', "unknown key 'titel'"),
        ('title = "M"', "title = 3", "'title' must be a text, but is 3"),
        ('title = "M"', 'title = " "', "'title' is empty"),
        ("bytes = 5", "bytes = 0", "'bytes' must be a whole number above 0"),
        ("bytes = 5", "bytes = true", "'bytes' must be a whole number above 0"),
        ('["en"]', "[3]", "'languages' must be a list of texts"),
        ('name = "m"', 'name = "../m"', "may hold only letters"),
        ('"huggingface"', '"ftp"', "kind 'ftp' is not known"),
        ("[[model.source]]", "[model.source]", "'source' must be one or more tables"),
        ('kind = "huggingface"', 'kind = "huggingface"\nrevison = "x"', "unknown key 'revison'"),
        ('kind = "huggingface"', 'kind = "huggingface"\nrevision = ""', "'revision' is empty"),
        (
            'layout = "llama"',
            'layout = "onnx"',
            "layout 'onnx' is not known; it can be internlm2, internlm3, llama, gguf",
        ),
        ('prompt = "chatml"', "prompt = true", "prompt True is not known"),
        ('name = "f"', 'name = "../f"', "must be a path inside the repository"),
        ('name = "f"', 'name = "f"\nsha256 = "abc"', "64 lower-case hex digits"),
        ('id = "a/b"', 'id = "a/b"\nlayout = "gguf"\n[[model.source.file]]\nname = "g"', "names exactly one 'file'"),
        ('card = "A10"', 'card = "A10"\nkv_bits = 5', "kv_bits 5 is not known; it can be 16, 8, 4"),
        ('card = "A10"', 'card = "A10"\ncache_ratio = 1.5', "'cache_ratio' must be between 0 and 1"),
        ('engine = "tgi"', 'engine = "vllm"', "engine 'vllm' is not known; it can be tgi, lmdeploy"),
        ("vocabulary = 9", "vocabulary = 9, tied_embeddings = 1", "shape: 'tied_embeddings' must be true or false"),
        ("hidden = 4, ", "", "shape: 'hidden' is missing"),
        ("[[model]]", "[[modell]]", "'model' must be one or more tables"),
        ("[[model]]", "[[model", "cannot be read"),
    ],
)
def test_a_wrong_entry_is_named(catalogue_text, write, old, new, complaint):
    assert old in catalogue_text
    path = write("models.toml", catalogue_text.replace(old, new, 1))
    with pytest.raises(SettingsError) as caught:
        load_catalogue(path)
    assert complaint in caught.value.message
    assert str(path) in caught.value.message


def test_a_name_twice_is_refused(catalogue_text, write):
    with pytest.raises(SettingsError, match="'m' is there twice"):
        load_catalogue(write("models.toml", catalogue_text * 2))


def test_a_short_hash_is_refused(catalogue_text, write):
    source = (
        'kind = "pypi"\npackage = "p"\nversion = "1"\nwheel_bytes = 1\nwheel_sha256 = "abc"\nmember = "m"\nsha256 = "b"'
    )
    text = catalogue_text.replace('kind = "huggingface"\nid = "a/b"\n[[model.source.file]]\nname = "f"', source)
    with pytest.raises(SettingsError, match="64 lower-case hex digits"):
        load_catalogue(write("models.toml", text))
