"""The page's first texts in the language of whoever opens it, before any handler has answered.

Gradio lays the page out once, in one language, and sends that with each page as JSON (`window.gradio_config`, see
gradio/templates/frontend/index.html). That JSON is changed here, and the result kept: but for the site's address it is
the same each time.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from webui.layout import Parts, labels
from webui.settings_panel import settings_labels
from webui.texts import TEXTS

_CONFIG = re.compile(rb"(?<=window\.gradio_config = )\{.*?\}(?=;</script>)", re.DOTALL)
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"}  # inside a script, as Gradio does it
_MOST_KEPT = 16  # addresses under which people come, times languages

Texts = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""By language and component id: its properties that are text."""


def texts_of(parts: Parts) -> Texts:
    """Every label of the page, in each language."""
    return {
        language: _by_id(labels(parts, language) | settings_labels(parts.settings, language, {})) for language in TEXTS
    }


class FirstTexts:
    """Puts a page into a language."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._kept: OrderedDict[tuple[str, bytes], bytes] = OrderedDict()

    def put_into(self, page: bytes, language: str) -> bytes:
        """The page with its first texts in that language; what is not Gradio's page stays as it is."""
        found = _CONFIG.search(page)
        if found is None or language not in self._texts:
            return page
        return page[: found.start()] + self._config(found[0], language) + page[found.end() :]

    def _config(self, config: bytes, language: str) -> bytes:
        place = (language, config)
        if place not in self._kept:
            self._kept[place] = _translated(config, self._texts[language])
        self._kept.move_to_end(place)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return self._kept[place]


def _translated(config: bytes, texts: Mapping[int, Mapping[str, Any]]) -> bytes:
    parsed = json.loads(config)
    for component in parsed["components"]:
        component["props"].update(texts.get(component["id"], {}))
    written = json.dumps(parsed, ensure_ascii=False, separators=(",", ":"))
    for character, escaped in _UNSAFE.items():
        written = written.replace(character, escaped)
    return written.encode()


def _by_id(updates: Mapping[Any, Any]) -> dict[int, dict[str, Any]]:
    return {part._id: {name: v for name, v in update.items() if name != "__type__"} for part, update in updates.items()}
