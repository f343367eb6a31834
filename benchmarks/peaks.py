"""What this device can do at best, measured: a floor under every stage's time."""

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
        """The fewest milliseconds that this much arithmetic can take."""
        return 1e3 * flops / self.flops


def measure(f: Callable[[], object], repeats: int = 15) -> Spread:
    """How long `f` takes, after one call that does not count."""
    jax.block_until_ready(f())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(f())
        times.append(1e3 * (time.perf_counter() - start))
    low, _, high = statistics.quantiles(times, n=4)
    return Spread(statistics.median(times), high - low)


def measured(side: int = 2048, megabytes: int = 256) -> Peaks:
    """A large matrix product and a large copy in float32, the fastest of each."""
    square = jnp.ones((side, side), jnp.float32)
    vector = jnp.ones((megabytes * 2**18,), jnp.float32)
    product, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + 1.0)

    def fastest(f: Callable, x: jax.Array) -> float:
        jax.block_until_ready(f(x))
        times = []
        for _ in range(7):
            start = time.perf_counter()
            jax.block_until_ready(f(x))
            times.append(time.perf_counter() - start)
        return min(times)

    return Peaks(2.0 * side**3 / fastest(product, square), 2.0 * vector.nbytes / fastest(copy, vector))
