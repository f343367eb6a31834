"""Measures time and memory of the alignment variants for N templates and P proposals of one frame.

python -m benchmarks.alignment
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from vos_jax.models import alignment

REPEATS = 5
GRID, CHANNELS = 14 * 14, 64
SIZES = ((1, 8), (1, 37), (5, 37), (16, 128))


def median_ms(function, *args) -> tuple[float, float]:
    """Returns median and interquartile range of several calls after compilation."""
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(1e3 * (time.perf_counter() - start))
    low, median, high = np.percentile(times, (25, 50, 75))
    return median, high - low


def main() -> None:
    device = jax.devices()[0].device_kind
    print(
        f"{device}: {GRID} locations x {CHANNELS} channels, median (interquartile range) of {REPEATS} calls"
    )
    print(
        f"{'variant':>10} {'N':>3} {'P':>4} {'forward ms':>15} {'with gradient ms':>17} {'MiB':>7} {'MiB':>7}"
    )
    rng = np.random.default_rng(0)
    for name in alignment.ALIGNMENTS:
        align = alignment.resolve(name)
        for num_objects, num_proposals in SIZES:
            templates, proposals = (
                jnp.asarray(rng.normal(size=(n, GRID, CHANNELS)), jnp.float32)
                for n in (num_objects, num_proposals)
            )
            weights = jnp.asarray(rng.random((num_objects, GRID)), jnp.float32)

            def scores(templates, weights, proposals, align=align):
                return alignment.score_all(align, templates, weights, proposals, 0.1)[0]

            def energy(*inputs, scores=scores):
                return jnp.sum(scores(*inputs) ** 2)

            columns, memory = [], []
            for function in (scores, jax.grad(energy, (0, 2))):
                if function is not scores and num_objects * num_proposals > 200:
                    columns.append("-")  # training has few objects
                    memory.append("-")
                    continue
                compiled = jax.jit(function).lower(templates, weights, proposals).compile()
                median, spread = median_ms(compiled, templates, weights, proposals)
                columns.append(f"{median:.1f} ({spread:.1f})")
                memory.append(f"{compiled.memory_analysis().temp_size_in_bytes / 2**20:.1f}")
            print(
                f"{name:>10} {num_objects:>3} {num_proposals:>4} {columns[0]:>15} {columns[1]:>17}"
                f" {memory[0]:>7} {memory[1]:>7}",
                flush=True,
            )


if __name__ == "__main__":
    main()
