"""Measures the matching layers: time, memory, and the distance of their assignments from the optimum.

python -m benchmarks.matching             time and memory (under a minute)
python -m benchmarks.matching --regret    the tables of docs/lab/matching_regret.md (minutes on 2 cores)
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from vos_jax.models import matching

REPEATS = 15
CASES = 1000


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


def time_table() -> None:
    config = matching.MatchingConfig()
    print(f"{jax.devices()[0].device_kind}, null columns, median (interquartile range) of {REPEATS} calls")
    print(f"{'layer':>10} {'N':>3} {'P':>4} {'forward ms':>15} {'with gradient ms':>17} {'memory KiB':>11}")
    rng = np.random.default_rng(0)
    for name, layer in matching.MATCHINGS.items():
        for num_objects, num_proposals in ((1, 8), (5, 32), (16, 32), (16, 128)):
            costs = jnp.asarray(-rng.random((num_objects, num_proposals)), jnp.float32)
            null = jnp.full(num_objects, -0.3)
            valid = jnp.ones(num_objects, bool), jnp.ones(num_proposals, bool)

            def run(costs, null, layer=layer, valid=valid):
                return layer(costs, null, *valid, config=config)

            def energy(costs, null, run=run):
                return jnp.sum(run(costs, null) ** 2)

            forward = jax.jit(run).lower(costs, null).compile()
            plan = forward.memory_analysis()
            kib = (plan.temp_size_in_bytes + plan.output_size_in_bytes) / 1024
            time_ms, spread = median_ms(forward, costs, null)
            gradient = "-"
            if name in ("pgd", "sinkhorn"):
                both_ms, both_spread = median_ms(jax.jit(jax.grad(energy, (0, 1))), costs, null)
                gradient = f"{both_ms:.2f} ({both_spread:.2f})"
            print(
                f"{name:>10} {num_objects:>3} {num_proposals:>4} {f'{time_ms:.2f} ({spread:.2f})':>15}"
                f" {gradient:>17} {kib:>11.0f}",
                flush=True,
            )


def uniform_costs(rng: np.random.Generator, num_objects: int, num_proposals: int) -> np.ndarray:
    """Returns independent costs in [-1, 0]."""
    return -rng.random((CASES, num_objects, num_proposals))


def contested_costs(rng: np.random.Generator, num_objects: int, num_proposals: int) -> np.ndarray:
    """Returns costs of look-alikes: a proposal's cost is similar for all objects."""
    shared = rng.random((CASES, 1, num_proposals))
    own = rng.random((CASES, num_objects, num_proposals))
    return -(0.8 * shared + 0.2 * own)


def with_null(values: np.ndarray) -> np.ndarray:
    """Expands [..., N, P + 1] to [..., N, P + N]: a null column per object, infinite for others."""
    num_objects = values.shape[-2]
    own = np.where(np.eye(num_objects, dtype=bool), values[..., -1:], np.inf)
    return np.concatenate([values[..., :-1], own], -1)


def optimum(costs: np.ndarray) -> np.ndarray:
    """Returns each case's best columns."""
    return np.stack([optimize.linear_sum_assignment(case)[1] for case in costs])


def price(costs: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.take_along_axis(costs, columns[..., None], -1).sum((1, 2))


def regret_table(costs: np.ndarray, null_cost: float | None) -> None:
    """Prints the comparison of the layers with the optimum for one distribution."""
    _, num_objects, num_proposals = costs.shape
    null = null_cost is not None
    base = {"null": null}
    layers = {"greedy start of pgd": base, "greedy": base, "hungarian": base}
    for steps, cycles in ((10, 5), (400, 50)):
        for average in ("pre", "post"):
            name = f"pgd {average} {steps}/{cycles}"
            layers[name] = base | {"num_grad": steps, "num_proj": cycles, "average": average}
    for temperature, iterations in ((0.05, 50), (0.005, 2000)):
        name = f"sinkhorn {temperature} x {iterations}"
        layers[name] = base | {"sinkhorn_temperature": temperature, "sinkhorn_iterations": iterations}
    extended = (
        with_null(np.pad(costs, ((0, 0), (0, 0), (0, 1)), constant_values=null_cost)) if null else costs
    )
    best = optimum(extended)
    best_cost = price(extended, best)
    inputs = (
        jnp.full(num_objects, null_cost if null else 0.0),
        jnp.ones(num_objects, bool),
        jnp.ones(num_proposals, bool),
    )
    print("| layer | rows optimal | cases optimal | double use | regret | row sum | column sum | largest |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, fields in layers.items():
        config = matching.MatchingConfig(**fields)

        def run(case, name=name, config=config):
            if name == "greedy start of pgd":
                found = matching.initial_assignment(matching.extend(case, *inputs, config))
            else:
                found = matching.MATCHINGS[name.split()[0]](case, *inputs, config=config)
            return found[:, : num_proposals + config.null]

        found = np.asarray(jax.jit(jax.vmap(run))(jnp.asarray(costs, jnp.float32)), np.float64)
        choice = found.argmax(-1)
        if null:  # every object has its own null column
            choice = np.where(choice == num_proposals, num_proposals + np.arange(num_objects), choice)
        double = np.array([len(set(row)) < num_objects for row in choice])
        # A soft assignment is rounded to the hard one with the most mass.
        rounded = optimum(with_null(-found) if null else -found)
        regret = price(extended, rounded) - best_cost
        column_sum = found[..., :num_proposals].sum(-2).max(-1)
        print(
            f"| {name} | {(choice == best).mean():.3f} | {(choice == best).all(-1).mean():.3f}"
            f" | {double.mean():.3f} | {regret.mean():.4f} | {found.sum(-1).mean():.2f}"
            f" | {column_sum.mean():.2f} | {found.max():.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--regret", action="store_true", help="compare with the optimum instead of timing")
    if not parser.parse_args().regret:
        time_table()
        return
    for make_costs in (uniform_costs, contested_costs):
        for num_objects, num_proposals, null_cost in ((3, 33, None), (5, 10, None), (5, 10, -0.6)):
            rng = np.random.default_rng(0)
            title = f"{make_costs.__name__}, N = {num_objects}, P = {num_proposals}"
            print(f"\n**{title}, null cost {null_cost}, {CASES} cases**\n")
            regret_table(make_costs(rng, num_objects, num_proposals), null_cost)


if __name__ == "__main__":
    main()
