"""benchmarks/cost.py counts what runs: XLA alone counts every loop's body once."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import cost

SIDE = 64
PRODUCT = 2 * SIDE**3


def product(x):
    return x @ x


def repeat(times, x):
    return jax.lax.fori_loop(0, times, lambda _, y: product(y), x)


@pytest.mark.parametrize(
    "function, products",
    [
        (product, 1),
        (lambda x: repeat(5, x), 5),
        (lambda x: jax.lax.scan(lambda y, _: (product(repeat(4, y)), None), x, None, length=3)[0], 15),
        (lambda x: jax.lax.map(product, jnp.stack([x] * 7)), 7),
        (lambda x: jax.lax.cond(x[0, 0] > 0, product, lambda y: y, x), 1),
        (
            lambda x: jax.lax.platform_dependent(
                x, **{jax.default_backend(): lambda y: repeat(4, y)}, default=lambda y: repeat(9, y)
            ),
            4,
        ),
    ],
)
def test_loops_count_as_often_as_they_run(function, products):
    found = cost.cost_of(jax.jit(function), jax.ShapeDtypeStruct((SIDE, SIDE), jnp.float32))
    assert found.flops / PRODUCT == pytest.approx(products, rel=0.02)
    assert found.bytes >= products * 2 * 4 * SIDE**2
