"""Model repositories on hubs. This version knows where they are, and says so; it cannot fetch them."""

from __future__ import annotations

from inference.catalogue import HubSource, Model
from inference.errors import SourceError
from inference.sizes import megabytes


def check_fetchable(model: Model) -> None:
    """Raises SourceError when the model is on hubs only."""
    hubs = [source for source in model.sources if isinstance(source, HubSource)]
    if len(hubs) < len(model.sources):
        return
    raise SourceError(
        f"This version cannot fetch {model.name} yet ({megabytes(model.size_bytes)} in its original form; it is at "
        f"{', '.join(source.url for source in hubs)}). What works today is a GGUF file of it: "
        f"MODEL=/path/to/{model.name}.gguf"
    )
