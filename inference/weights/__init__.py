"""Checkpoints on disk, read by byte ranges: which tensors there are and where, and new files made of their bytes."""
