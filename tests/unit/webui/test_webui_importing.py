"""Files that people choose: ours and OpenAI's are read, every other one gets a sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webui.importing import LARGEST_FILE_BYTES, MOST_MESSAGES, ImportRefused, parse_import
from webui.texts import TEXTS, say

pytestmark = pytest.mark.unit


def message(role: str, text: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": text, **more}


def test_our_own_export_is_read() -> None:
    exported = {
        "object": "conversation.export",
        "conversation": {"id": "conv_1", "metadata": {"title": "A title", "pinned": "true", "deleted": "1:x"}},
        "items": [
            message("user", [{"type": "input_text", "text": "你好"}], id="msg_1", status="completed"),
            message("assistant", [{"type": "output_text", "text": "Hel"}], id="msg_2", status="incomplete"),
            {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "status": "x"},
            {"id": "fco_1", "type": "function_call_output", "call_id": "c1", "output": "42", "status": "completed"},
        ],
    }
    imported = parse_import(json.dumps(exported).encode(), "x.json")
    assert imported.title == "A title"
    assert imported.items == (
        message("user", "你好"),
        message("assistant", "Hel", status="incomplete"),
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
    )


@pytest.mark.parametrize("is_object", [False, True])
def test_messages_of_openais_form_are_read(is_object: bool) -> None:
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a\r\n"}, {"type": "text", "text": "b\x00"}]},
        {"role": "user", "content": "  "},
        {"role": "assistant", "content": ""},
    ]
    imported = parse_import(b"\xef\xbb\xbf" + json.dumps({"messages": said} if is_object else said).encode())
    assert imported.items == (message("system", "Be brief."), message("user", "a\nb"), message("assistant", ""))
    assert imported.title == "a"


def test_without_a_title_or_a_question_the_file_names_it() -> None:
    said = json.dumps([{"role": "assistant", "content": "Hello"}]).encode()
    assert parse_import(said, "C:/chats/My talk.json").title == "My talk"


MANY = [{"role": "user", "content": "x"}] * (MOST_MESSAGES + 1)
BAD: list[tuple[Any, str]] = [
    (b"", "import_not_json"),
    (b"\xff\xfe\x00", "import_not_json"),
    (b"# Markdown", "import_not_json"),
    (b"[" * 100_000, "import_not_json"),
    (b" " * (LARGEST_FILE_BYTES + 1), "import_too_large"),
    ("text", "import_unknown_form"),
    (7, "import_unknown_form"),
    (None, "import_unknown_form"),
    ({}, "import_unknown_form"),
    ({"items": "x"}, "import_unknown_form"),
    ([], "import_empty"),
    ({"messages": [{"role": "user", "content": " "}]}, "import_empty"),
    (MANY, "import_too_many"),
    ([7], "import_bad_message"),
    ([{"content": "x"}], "import_bad_message"),
    ([{"role": ["user"], "content": "x"}], "import_bad_message"),
    ([{"role": "tool", "content": "x"}], "import_bad_message"),
    ([{"role": "user"}], "import_bad_message"),
    ([{"role": "user", "content": 7}], "import_bad_message"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "import_bad_message"),
    ([{"role": "user", "content": ["x"]}], "import_bad_message"),
    ([{"role": "assistant", "content": "x", "tool_calls": [{}]}], "import_bad_message"),
    ([{"type": "function_call", "call_id": "c"}], "import_bad_message"),
    ([{"type": "function_call_output", "call_id": "c", "output": "x"}], "import_bad_message"),
    ([{"type": ["message"], "role": "user", "content": "x"}], "import_bad_message"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "key"), BAD, ids=[f"{n}-{bad[1]}" for n, bad in enumerate(BAD)])
def test_every_bad_file_gets_one_sentence(content: Any, key: str) -> None:
    with pytest.raises(ImportRefused) as caught:
        parse_import(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert caught.value.key == key
    for language in TEXTS:
        assert say(language, key, **caught.value.values)


def test_the_sentence_names_the_message() -> None:
    with pytest.raises(ImportRefused) as caught:
        parse_import(json.dumps([{"role": "user", "content": "x"}, {"role": "nobody", "content": "x"}]).encode())
    assert caught.value.values == {"n": 2}
