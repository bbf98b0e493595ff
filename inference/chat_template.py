"""The chat template: where the files of a model keep it, and InternLM2's own.

Transformers reads `chat_template.jinja`, then `chat_template.json`, then `chat_template` in `tokenizer_config.json` (a
text, or a list of named ones). TGI never reads the first. So a converted folder has it in `tokenizer_config.json`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference.errors import VerifyError
from inference.model_config import read_json
from inference.vocabulary import FIRST_NAMED, NAMES

# The stock template of InternLM2's tokenizer_config.json.
INTERNLM2 = (
    "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MOST_BYTES = 1 << 20


def read_chat_template(folder: Path) -> str | None:
    """The template that transformers would use. Raises VerifyError when a file that may hold it is damaged."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_bytes()[:_MOST_BYTES].decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise VerifyError(f"{path} cannot be read ({error}).") from None
    return read_tgi_template(folder)


def read_tgi_template(folder: Path) -> str | None:
    """The template that TGI's router would use: `chat_template.json` goes before `tokenizer_config.json`."""
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        if path.exists() and (found := _chosen(read_json(path).get("chat_template"), path)) is not None:
            return found
    return None


def with_chat_names(template: str) -> str:
    """A template from before the six tokens had names, with their names."""
    for place, name in enumerate(NAMES):
        template = template.replace(f"[UNUSED_TOKEN_{FIRST_NAMED + place - 92397}]", name)
    return template


def _chosen(value: Any, path: Path) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        named = {one.get("name"): one.get("template") for one in value}
        if isinstance(found := named.get("default"), str):
            return found
    raise VerifyError(f"{path}: chat_template must be a text, or a list of named ones with a default.")
