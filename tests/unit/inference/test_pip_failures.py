"""What pip says when it fails, as recorded, and what people are told."""

import pytest

from inference.errors import DiskFull, SourceError
from inference.sources.pypi import explain_pip

pytestmark = pytest.mark.unit

NOTHING = """Looking in indexes: https://nosuch.invalid/simple
WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError("refused")': /simple/m/
ERROR: Could not find a version that satisfies the requirement m==1.0 (from versions: none)
ERROR: No matching distribution found for m==1.0"""
BEHIND = """ERROR: Could not find a version that satisfies the requirement m==1.0 (from versions: 0.1, 0.2)
ERROR: No matching distribution found for m==1.0"""
FULL = """  File "download.py", line 176, in write_chunk
    self.output_file.write(data)
OSError: [Errno 28] No space left on device"""
OLD = "ERROR: option --progress-bar: invalid choice: 'raw' (choose from 'off', 'on')"
HASHES = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."


@pytest.mark.parametrize(
    ("said", "kind", "parts"),
    [
        (NOTHING, SourceError, ["no network", "PIP_INDEX_URL", "PIP_PROXY"]),
        (BEHIND, SourceError, ["only in the versions 0.1, 0.2", "mirror"]),
        (FULL, DiskFull, ["disk became full"]),
        (OLD, SourceError, ["too old", "pip install -U pip"]),
        ("/usr/bin/python3: No module named pip", SourceError, ["pip is missing", "ensurepip"]),
        (HASHES, SourceError, ["could not fetch m==1.0: THESE PACKAGES"]),
        ("", SourceError, ["ended with code 7"]),
    ],
)
def test_the_cause_and_the_remedy_are_named(said, kind, parts):
    error = explain_pip("m==1.0", said.splitlines(), 7)
    assert type(error) is kind
    for part in parts:
        assert part in error.message
    assert "Traceback" not in error.message
