"""The wheel's extras, for hatchling: `gateway`, `webui`, `inference`, `app` and `lmdeploy`, each a dependency group.

So pyproject.toml lists each package once. Without an extra the wheel asks for no packages: who takes one part needs not
those of the others.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

EXTRAS = ("gateway", "webui", "inference", "app", "lmdeploy")


class WheelExtras(MetadataHookInterface):
    """Adds `optional-dependencies` while a wheel is built."""

    def update(self, metadata: dict[str, Any]) -> None:
        groups = tomllib.loads((Path(self.root) / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
        metadata["optional-dependencies"] = {name: packages_of(groups, name) for name in EXTRAS}


def packages_of(groups: dict[str, list[Any]], name: str) -> list[str]:
    """A group's requirements (PEP 508), with those of the groups that it includes (PEP 735)."""
    found = []
    for entry in groups[name]:
        found += [entry] if isinstance(entry, str) else packages_of(groups, entry["include-group"])
    return found
