"""Measurements and training in a few minutes on an accelerator: `python -m benchmarks.accelerator --help`."""
