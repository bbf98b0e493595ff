"""Makes an empty private repository, where a hub lets programs do that. OpenXLab has its web page only."""

from __future__ import annotations

import threading

from inference.accounts import Hubs, redact
from inference.errors import UploadError
from inference.publishing.target import Target
from inference.sources.hub_ask import HUGGINGFACE_ENVIRON, ask_hub


def create_repository(target: Target, hubs: Hubs, stop: threading.Event) -> None:
    """Does nothing when it is there already. Raises UploadError or Cancelled."""
    if target.hub not in ("huggingface", "modelscope"):
        raise UploadError(
            f"{target.title} cannot be created from here, only on the platform's web page. Create it there (empty, "
            "without a README), and leave out --create."
        )
    endpoint = hubs.huggingface_url if target.hub == "huggingface" else hubs.modelscope_url
    name = "HF_ENDPOINT" if target.hub == "huggingface" else "MODELSCOPE_ENDPOINT"
    job = {"hub": target.hub, "command": "create", "endpoint": endpoint, "id": target.repository}
    answer = ask_hub(job, {**HUGGINGFACE_ENVIRON, name: endpoint}, target.account, stop)
    if "reason" in answer:
        said = redact(str(answer["said"]), [target.account.token])
        advice = {
            "auth": f"Set {target.token_name} to a token that may write.",
            "package": "Install it: python -m pip install modelscope-hub",
            "network": "Check the connection, and start again.",
        }
        raise UploadError(
            f"{target.title} could not be created ({said}). {advice.get(str(answer['reason']), '')}".strip()
        )
