"""The API as its users see it changes only on purpose: the change is in the diff of docs/openapi.json."""

from __future__ import annotations

import difflib

import pytest

from tests.openapi_snapshot import SNAPSHOT, document

pytestmark = pytest.mark.contract


def test_the_openapi_document_is_the_one_in_docs() -> None:
    kept, now = SNAPSHOT.read_text().splitlines(), document().splitlines()
    changes = "\n".join(difflib.unified_diff(kept, now, "docs/openapi.json", "the app", lineterm="", n=5))
    assert not changes, f"The API has changed. If that is meant: make openapi, and commit it.\n{changes}"
