"""Hugging Face's hub or a mirror of it (HF_ENDPOINT), through `huggingface_hub`.

Its Xet transfers are off: they do not go through mirrors, and a killed one begins its file again.
"""

from __future__ import annotations

from inference.accounts import Hubs
from inference.errors import SourceError
from inference.sources.hub_ask import HUGGINGFACE_ENVIRON
from inference.sources.hub_repository import HubRepository


def huggingface_repository(repository: str, revision: str, hubs: Hubs) -> HubRepository:
    """Raises SourceError when HF_HUB_OFFLINE forbids to ask."""
    if hubs.is_offline:
        raise SourceError(f"Hugging Face ({repository}) is not asked, because HF_HUB_OFFLINE is set.")
    return HubRepository(
        "huggingface",
        f"Hugging Face at {hubs.huggingface_url}",
        repository,
        revision,
        endpoint=hubs.huggingface_url,
        account=hubs.huggingface,
        token_name="HF_TOKEN",
        environ={**HUGGINGFACE_ENVIRON, "HF_ENDPOINT": hubs.huggingface_url},
        install="Install it: python -m pip install huggingface_hub",
    )
