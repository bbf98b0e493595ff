"""Sizes as people read them."""


def megabytes(size_bytes: int) -> str:
    """A file's size in units of 1000, as hubs and disks count: `98.4 MB`, `15.5 GB`."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


def gibibytes(size_bytes: int) -> str:
    """Memory in units of 1024: `23.5 GiB`."""
    return f"{size_bytes / 2**30:.1f} GiB"
