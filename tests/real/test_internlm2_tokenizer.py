"""InternLM2's real tokenizer: our `tokenizer.json` against sentencepiece, on tens of thousands of texts.

The model was trained with sentencepiece's reading of NUL before version 0.2.3; the tests' version is pinned for that.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from inference.tokenizer import write_tokenizer
from inference.vocabulary import NAMES, Vocabulary, read_vocabulary

pytestmark = pytest.mark.real

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "recorded" / "internlm2" / "tokenizer.model"
ROWS = 92544
TEXTS = 60_000
BY_SENTENCEPIECE = {name: f"[UNUSED_TOKEN_{141 + place}]" for place, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> Vocabulary:
    folder = tmp_path_factory.mktemp("internlm2")
    shutil.copy(MODEL, folder)
    return read_vocabulary(folder, ROWS)


@pytest.fixture(scope="module")
def ours(vocabulary, tmp_path_factory) -> tokenizers.Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    with path.open("w", encoding="utf-8") as out:
        write_tokenizer(vocabulary, "<s>", out)
    return tokenizers.Tokenizer.from_file(str(path))


@pytest.fixture(scope="module")
def theirs() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(MODEL))


def test_every_id_has_sentencepieces_piece(ours, theirs):
    assert ours.get_vocab_size() == theirs.get_piece_size() == ROWS
    named = {piece: name for name, piece in BY_SENTENCEPIECE.items()}
    for token in range(ROWS):
        piece = theirs.id_to_piece(token)
        assert ours.id_to_token(token) == named.get(piece, piece)


def test_chat_tokens_have_their_ids_and_only_the_turns_are_special(ours):
    assert {name: ours.token_to_id(name) for name in NAMES} == {
        "<|plugin|>": 92538,
        "<|interpreter|>": 92539,
        "<|action_end|>": 92540,
        "<|action_start|>": 92541,
        "<|im_end|>": 92542,
        "<|im_start|>": 92543,
    }
    call = "<|im_start|>a<|action_start|><|plugin|>\n{}<|action_end|><|im_end|>"
    ids = ours.encode(call, add_special_tokens=False).ids
    assert ours.decode(ids) == "a<|action_start|><|plugin|>\n{}<|action_end|>"


def test_a_known_chat_has_the_known_ids(ours):
    chat = "<s><|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    known = [1, 92543, 1008, 364, 6176, 92542, 364, 92543, 525, 11353, 364]
    assert ours.encode(chat, add_special_tokens=False).ids == known
    assert ours.encode("hi").ids == [1, 6176]


def test_the_ends_of_texts_are_special_tokens_in_a_text_too(ours):
    """As in InternLM2's own tokenizer; sentencepiece alone would take them for plain text."""
    assert ours.encode("<s>a</s><unk>", add_special_tokens=False).ids == [1, 264, 2, 0]


def test_the_old_name_of_the_end_of_a_turn_is_plain_text(ours, theirs):
    """For the original tokenizer a person can close a turn by typing it. Not for ours."""
    assert theirs.encode("[UNUSED_TOKEN_145]") == [92542]
    ids = ours.encode("[UNUSED_TOKEN_145]", add_special_tokens=False).ids
    assert 92542 not in ids
    assert ours.decode(ids) == "[UNUSED_TOKEN_145]"


def test_texts_are_encoded_and_decoded_as_by_sentencepiece(ours, theirs):
    texts = list(varied_texts(random.Random(5), TEXTS))
    tokens = 0
    for start in range(0, len(texts), 5000):
        part = texts[start : start + 5000]
        for text, encoding in zip(part, ours.encode_batch(part, add_special_tokens=False), strict=True):
            expected = theirs.encode(sentencepiece_form(text))
            assert encoding.ids == expected, text
            tokens += len(expected)
            assert ours.decode(encoding.ids, skip_special_tokens=False) == our_form(theirs.decode(expected)), text
    assert tokens > 500_000


def sentencepiece_form(text: str) -> str:
    """The six chat tokens are called otherwise there."""
    for name, piece in BY_SENTENCEPIECE.items():
        text = text.replace(name, piece)
    return text


def our_form(text: str) -> str:
    for name, piece in BY_SENTENCEPIECE.items():
        text = text.replace(piece, name)
    return text


ENGLISH = "The quick brown fox jumps over the lazy dog; it's 3.14159% of e=mc^2, isn't it? InternLM2 SAYS hello_w()."
CHINESE = "书生·浦语是上海人工智能实验室研发的大语言模型——你好，世界！……他说：“今天天气不错。”ＡＢＣ１２３，（测试）。"
CODE = 'def f(x: int) -> str:\n    """doc"""\n\treturn f"{x:>10}" if x != 0 else None  # 注释\n\n#include <a.h>\r\n'
EMOJI = "😀👩‍👩‍👧‍👦🇨🇳🐉🏽é́ü\u200b\u200d\ufeff\ufffd\u3000\xa0"
MARKERS = (*NAMES, "<|im_start|", "[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_140]", "——", "……", "Ａ", "ｚ", "<0x41>")
SPACES = (" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u2581", "\x00", " " * 17, "\n" * 9, "\t" * 5)


def varied_texts(chance: random.Random, count: int) -> Iterator[str]:
    """Cuts of prose and code in both languages, runs of white space, random Unicode, and markers among all of it."""
    yield from ("", " ", "\u2581", "\x00", "a", " a", "a ", " " * 4096, "\n" * 1000, "——" * 50, "a" * 3000, EMOJI * 20)
    for _ in range(count):
        yield "".join(_part(chance) for _ in range(chance.randint(1, 8)))


def _part(chance: random.Random) -> str:
    kind = chance.randrange(8)
    if kind < 4:
        text = (ENGLISH, CHINESE, CODE, EMOJI)[kind]
        start = chance.randrange(len(text))
        return text[start : start + chance.randint(1, 40)]
    if kind == 4:
        return chance.choice(MARKERS)
    if kind == 5:
        return chance.choice(SPACES)
    if kind == 6:
        letters = (chance.randrange(sys.maxunicode + 1) for _ in range(chance.randint(1, 12)))
        return "".join(map(chr, (code for code in letters if not 0xD800 <= code < 0xE000)))
    return "".join(chr(chance.choice((chance.randrange(32, 127), chance.randrange(0x4E00, 0x9FA5)))) for _ in range(20))
