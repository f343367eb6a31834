"""Compilation for tests: what a test compiles it runs a few times."""

import contextlib

import jax


@contextlib.contextmanager
def compilation():
    """Compiles without optimisation."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
