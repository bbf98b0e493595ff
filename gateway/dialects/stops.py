"""Cuts an answer at its stop texts, for engines that include them, or see only those that end with a token."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Looks for the first of several texts in a text that comes in pieces.

    What may be the beginning of one is held back until it is clear.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.is_found = False
        self._texts = [text for text in texts if text]
        self._held = ""

    def feed(self, piece: str) -> str:
        """The text that may be shown now; after a stop text was found, nothing more."""
        if self.is_found:
            return ""
        text = self._held + piece
        found = [place for stop in self._texts if (place := text.find(stop)) >= 0]
        if found:
            self.is_found, self._held = True, ""
            return text[: min(found)]
        held = self._begun(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, when the answer has ended without a stop text."""
        held, self._held = self._held, ""
        return held

    def _begun(self, text: str) -> int:
        """How many characters at the end of `text` may be the beginning of a stop text."""
        longest = max((len(stop) for stop in self._texts), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._texts):
                return length
        return 0
