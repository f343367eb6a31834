"""Measures RoIAlign as matrix products and as gathers: milliseconds for 33 boxes, with and without gradient.

python -m benchmarks.roi_align
"""

import functools
import time

import jax
import jax.numpy as jnp

from vos_jax.ops import roi_align

SHAPES = ((30, 54, 128, 16), (30, 54, 256, 16), (60, 108, 64, 8))
BOXES, SIZE, REPEATS = 33, 14, 15


def fastest_ms(function, *args) -> float:
    """Returns the milliseconds of the fastest of several calls, as the machine may be shared."""
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    print(f"{jax.devices()[0].device_kind}: {BOXES} boxes, {SIZE}x{SIZE}, 2x2 samples; fastest of {REPEATS}")
    print(f"{'features':>14} {'form':>8} {'forward ms':>11} {'with gradient ms':>17}")
    keys = jax.random.split(jax.random.key(0), 3)
    for height, width, channels, stride in SHAPES:
        features = jax.random.normal(keys[0], (height, width, channels))
        corner = jax.random.uniform(keys[1], (BOXES, 2)) * jnp.array([[height, width]]) * stride * 0.5
        extent = jax.random.uniform(keys[2], (BOXES, 2), minval=32.0, maxval=256.0)
        boxes = jnp.concatenate([corner, corner + extent], 1)
        for form in roi_align.FORMS:
            align = functools.partial(roi_align.roi_align, size=SIZE, stride=stride, form=form)
            forward = jax.jit(jax.vmap(align, (None, 0)))

            def energy(features, boxes, forward=forward):
                return jnp.square(forward(features, boxes)).sum()

            both = jax.jit(jax.value_and_grad(energy))
            row = f"{height}x{width}x{channels}"
            print(
                f"{row:>14} {form:>8} {fastest_ms(forward, features, boxes):11.2f} "
                f"{fastest_ms(both, features, boxes):17.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
