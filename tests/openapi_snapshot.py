"""The OpenAPI document of the gateway as it is kept in docs/openapi.json; `make openapi` writes it anew."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from gateway.main import create_app
from gateway.settings import Settings, UpstreamAddress

SNAPSHOT = Path(__file__).resolve().parents[1] / "docs" / "openapi.json"


def document() -> str:
    """The document that the app gives now, as text in a stable order."""
    with tempfile.TemporaryDirectory() as folder:
        upstreams = (UpstreamAddress("llamacpp", "http://127.0.0.1:9"),)
        app = create_app(Settings(data_dir=Path(folder), model="internlm2", upstreams=upstreams))
        described = app.openapi()
        app.state.keys._database.close()
    return json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(document())
