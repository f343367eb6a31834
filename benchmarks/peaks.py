"""Measures the peak rates of this device, which give a lower bound of every stage's time."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Spread(NamedTuple):
    """Median and interquartile range, in milliseconds."""

    median: float
    iqr: float


class Peaks(NamedTuple):
    """Operations and bytes per second."""

    flops: float
    bytes: float

    def floor(self, flops: float) -> float:
        """Returns the lower bound in milliseconds for this number of operations."""
        return 1e3 * flops / self.flops


def measure(f: Callable[[], object], repeats: int = 15) -> Spread:
    """Measures the time of `f`, after one warm-up call."""
    jax.block_until_ready(f())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(f())
        times.append(1e3 * (time.perf_counter() - start))
    low, _, high = statistics.quantiles(times, n=4)
    return Spread(statistics.median(times), high - low)


def measured(side: int = 2048, megabytes: int = 256) -> Peaks:
    """Returns the rates of a large matrix product and a large copy in float32."""
    return Peaks(product(side), copy(megabytes))


def product(side: int, dtype: str = "float32", precision: str | None = None) -> float:
    """Returns the operations per second of the product of two random matrices, the fastest of seven.

    Args:
      side: rows and columns of each.
      dtype: of both and of the result.
      precision: as in `jnp.matmul`: "highest" for full float32, "high" for TF32 on GPUs.
    """
    # Random numbers, because a GPU needs less power for constants and reaches an unrealistic clock rate.
    square = jax.random.normal(jax.random.key(0), (side, side), dtype)
    return 2.0 * side**3 / fastest(jax.jit(lambda x: jnp.matmul(x, x, precision=precision)), square)


def copy(megabytes: int) -> float:
    """Returns the bytes per second read and written by adding 1 to a float32 vector, fastest of seven."""
    vector = jnp.ones((megabytes * 2**18,), jnp.float32)
    return 2.0 * vector.nbytes / fastest(jax.jit(lambda x: x + 1.0), vector)


def fastest(f: Callable, x: jax.Array) -> float:
    """Returns the seconds of the fastest of seven calls, after one warm-up call."""
    jax.block_until_ready(f(x))
    times = []
    for _ in range(7):
        start = time.perf_counter()
        jax.block_until_ready(f(x))
        times.append(time.perf_counter() - start)
    return min(times)
