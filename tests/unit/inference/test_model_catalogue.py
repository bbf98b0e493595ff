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


def test_every_internlm2_names_all_three_hubs():
    others = [model for name, model in load_catalogue().items() if name != DEFAULT_MODEL]
    assert len(others) == 6
    for model in others:
        assert [source.hub for source in model.sources if isinstance(source, HubSource)] == [
            "openxlab",
            "huggingface",
            "modelscope",
        ]
        assert "zh" in model.languages


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
        ('kind = "huggingface"', 'kind = "huggingface"\nrevision = "x"', "unknown key 'revision'"),
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
    text = catalogue_text.replace('kind = "huggingface"\nid = "a/b"', source)
    with pytest.raises(SettingsError, match="64 lower-case hex digits"):
        load_catalogue(write("models.toml", text))
