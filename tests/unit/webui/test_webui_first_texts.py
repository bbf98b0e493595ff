"""The JSON inside Gradio's page, put into a language: escaped as it was, and kept for the next visitor."""

from __future__ import annotations

import pytest

from webui.first_texts import FirstTexts

pytestmark = pytest.mark.unit


def test_what_is_written_into_the_script_cannot_end_it() -> None:
    texts = FirstTexts({"zh": {1: {"label": "</script>&'\u4e2d"}}})
    page = b'<script>window.gradio_config = {"components":[{"id":1,"props":{"label":"a"}}]};</script>'
    written = texts.put_into(page, "zh")
    assert written == (
        b'<script>window.gradio_config = {"components":[{"id":1,"props":'
        b'{"label":"\\u003c/script\\u003e\\u0026\\u0027\xe4\xb8\xad"}}]};</script>'
    )


def test_what_is_no_page_of_gradios_stays_as_it_is() -> None:
    assert FirstTexts({"zh": {}}).put_into(b"<h1>Bad gateway</h1>", "zh") == b"<h1>Bad gateway</h1>"


def test_strange_addresses_do_not_pile_up() -> None:
    texts = FirstTexts({"zh": {}})
    for n in range(100):
        texts.put_into(b'window.gradio_config = {"components":[],"root":"http://%d"};</script>' % n, "zh")
    assert len(texts._kept) <= 16
