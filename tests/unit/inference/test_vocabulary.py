"""Which ids the chat tokens get: InternLM2's own vocabulary, and what fine-tunes do to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inference.errors import VerifyError
from inference.gguf_vocabulary import NUL_TEXT, gguf_tokens
from inference.sentencepiece_model import Kind
from inference.vocabulary import NAMES, TOOL_MARKERS, read_vocabulary

pytestmark = pytest.mark.unit
TOKENIZER = Path(__file__).resolve().parents[2] / "recorded" / "internlm2" / "tokenizer.model"
ROWS = 92544
STOCK = dict(zip(NAMES, range(92538, 92544), strict=True))


@pytest.fixture
def folder(tmp_path):
    shutil.copy(TOKENIZER, tmp_path)
    return tmp_path


def told(folder, tokens, name="tokenizer_config.json"):
    """Tokens as transformers writes them, by id."""
    decoder = {str(token): {"content": text, "special": True} for token, text in tokens.items()}
    content = (
        {"added_tokens_decoder": decoder} if name == "tokenizer_config.json" else {v: k for k, v in tokens.items()}
    )
    (folder / name).write_text(json.dumps(content))


def ids(vocabulary):
    return {name: vocabulary.id_of(name) for name in NAMES}


def test_without_other_files_the_six_have_their_names(folder):
    vocabulary = read_vocabulary(folder, ROWS)
    assert ids(vocabulary) == STOCK
    special = {added.text for added in vocabulary.added.values() if added.is_special}
    assert special == {"<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"}
    assert len(vocabulary.added) == 3 + 92544 - 92352


def test_tool_markers_that_are_told_to_be_special_are_not(folder):
    told(folder, {token: name for name, token in STOCK.items()})
    vocabulary = read_vocabulary(folder, ROWS)
    assert ids(vocabulary) == STOCK
    assert not any(vocabulary.added[STOCK[name]].is_special for name in TOOL_MARKERS)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json"])
def test_the_six_once_more_beyond_the_pieces_count_when_the_embedding_has_their_rows(folder, name):
    """A tokenizer that went through LlamaTokenizer, and a model that was trained with it."""
    again = dict(zip(range(92544, 92550), NAMES, strict=True))
    told(folder, again, name)
    vocabulary = read_vocabulary(folder, 92550)
    assert ids(vocabulary) == {text: token for token, text in again.items()}
    assert vocabulary.text(92542) == "[UNUSED_TOKEN_145]"
    assert len({vocabulary.text(token) for token in range(92550)}) == 92550


@pytest.mark.parametrize("name", ["tokenizer_config.json", "added_tokens.json"])
def test_the_six_once_more_without_rows_are_left_out(folder, name):
    told(folder, dict(zip(range(92544, 92550), NAMES, strict=True)), name)
    vocabulary = read_vocabulary(folder, ROWS)
    assert ids(vocabulary) == STOCK
    assert vocabulary.left_out == NAMES


def test_an_unused_token_may_get_a_name(folder):
    told(folder, {92400: "<tool>"})
    assert read_vocabulary(folder, ROWS).id_of("<tool>") == 92400


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"500": {"content": "<tool>"}}, "calls token 500 '<tool>', but in tokenizer.model it is an ordinary piece"),
        ({"x": {"content": "<tool>"}}, "'x' is no id of a token"),
        ({"92400": {}}, "has no content"),
        ({"92400": "<tool>"}, "has no content"),
        ([1], "added_tokens_decoder must be an object"),
    ],
)
def test_tokens_that_make_no_sense_are_named(folder, content, part):
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": content}))
    with pytest.raises(VerifyError) as caught:
        read_vocabulary(folder, ROWS)
    assert part in caught.value.message


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(folder):
    with pytest.raises(VerifyError, match="92544 tokens, but the model's embedding only 32000 rows"):
        read_vocabulary(folder, 32000)


def test_llamacpp_gets_every_row_with_its_kind(folder):
    told(folder, {92544: "<tool>"})
    tokens = list(gguf_tokens(read_vocabulary(folder, 92546), 92546))
    kinds = {token: tokens[token].kind for token in (0, 1, 3, 264, 354, 92395, 92538, 92543, 92544, 92545)}
    assert kinds == {
        0: Kind.UNKNOWN,
        1: Kind.CONTROL,
        3: Kind.BYTE,
        264: Kind.NORMAL,
        354: Kind.UNUSED,
        92395: Kind.USER_DEFINED,
        92538: Kind.USER_DEFINED,
        92543: Kind.CONTROL,
        92544: Kind.CONTROL,
        92545: Kind.UNUSED,
    }
    assert tokens[354].text == NUL_TEXT
    assert len({token.text for token in tokens}) == 92546
