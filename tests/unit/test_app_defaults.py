"""What app.py sets for gateway and web UI by where it runs."""

from __future__ import annotations

import pytest

from app import defaults_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("environ", "hops"), [({}, None), ({"SPACE_ID": ""}, None), ({"SPACE_ID": "a/b"}, "1")])
def test_the_proxy_of_a_space_is_trusted_and_no_other(environ: dict[str, str], hops: str | None) -> None:
    assert defaults_of(environ).get("WEBUI_TRUSTED_PROXY_HOPS") == hops
