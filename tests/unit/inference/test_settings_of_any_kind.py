"""Small files with any JSON in them: `convert` converts or refuses, `verify` looks at them; neither ever crashes."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.convert import convert
from inference.errors import InferenceError
from inference.to_gguf import write_gguf
from inference.verify import check_model
from tests.internlm2_models import Form, write_model

pytestmark = pytest.mark.unit
SOME = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.sampled_from([2**63, -1.5, 1e308, "", "dynamic", "linear", "<|im_end|>", "{{ bos_token }}", "\ud800"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "rope_type", "factor", "rope_theta", "content", "special", "name", "template", "289"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("any") / "source"
    write_model(folder, Form(head_dim=8, intermediate=16, layers=1))
    (folder / "added_tokens.json").write_text("{}")
    (folder / "chat_template.json").write_text("{}")
    convert(folder, folder.with_name("llama"), lambda news: None)
    return folder


def changed(data, folder):
    """One or two keys of one of its small files get any value."""
    path = data.draw(st.sampled_from(sorted(folder.glob("*.json"))))
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        return
    more = ["rope_parameters", "added_tokens_decoder", "chat_template", "head_dim", "eos_token_id", "weight_map"]
    for key in data.draw(st.lists(st.sampled_from(sorted({*content, *more})), min_size=1, max_size=2)):
        content[key] = data.draw(anything)
    path.write_text(json.dumps(content))


def refusal(work):
    """The sentence with which it is refused, or nothing."""
    try:
        work()
    except InferenceError as error:
        return error.message
    return ""


@SOME
@given(data=st.data())
def test_a_source_is_converted_or_refused(data, original, tmp_path):
    folder = tmp_path / "source"
    for path in (folder, tmp_path / "target"):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(original, folder)
    changed(data, folder)
    if message := refusal(lambda: convert(folder, tmp_path / "target", lambda news: None)):
        assert message.endswith((".", "?", "folder", "DST"))
        assert not (tmp_path / "target" / "config.json").exists()
    refusal(lambda: write_gguf(folder, tmp_path / "model.gguf", "F16", lambda news: None))
    assert isinstance(check_model(folder), list)


@SOME
@given(data=st.data())
def test_a_converted_folder_is_looked_at_whatever_is_in_it(data, original, tmp_path):
    folder = tmp_path / "llama"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original.with_name("llama"), folder)
    changed(data, folder)
    assert all(str(problem).encode("utf-8", "surrogatepass") for problem in check_model(folder))
