"""Counts of what a compiled program launches on an accelerator: `python -m benchmarks.launches --help`."""
