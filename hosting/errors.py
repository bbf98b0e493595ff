"""The one error of this package."""


class CannotStart(Exception):
    """One sentence: what is wrong and what to do."""
