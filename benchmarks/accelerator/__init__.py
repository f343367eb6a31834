"""A kit for a few minutes on an accelerator: see `python -m benchmarks.accelerator --help`."""
