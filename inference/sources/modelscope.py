"""ModelScope (China's hub), through its own package `modelscope_hub`, installed with this project."""

from __future__ import annotations

from inference.accounts import Hubs
from inference.sources.hub_repository import HubRepository


def modelscope_repository(repository: str, revision: str, hubs: Hubs) -> HubRepository:
    return HubRepository(
        "modelscope",
        f"ModelScope at {hubs.modelscope_url}",
        repository,
        revision,
        endpoint=hubs.modelscope_url,
        account=hubs.modelscope,
        token_name="MODELSCOPE_API_TOKEN",
        environ={
            "MODELSCOPE_ENDPOINT": hubs.modelscope_url,
            "MODELSCOPE_API_MAX_RETRIES": "1",  # our attempts come on top, with what was said shown
            "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "2",
        },
        install="Install it: python -m pip install modelscope-hub (or fetch by git: INFERENCE_SOURCES="
        f"{hubs.modelscope_url}/{repository}.git)",
    )
