"""Prototypes: who is chosen, by hand."""

import jax.numpy as jnp
import numpy as np

from vos_jax.models import prototypes


def test_a_slots_attention_is_shared_between_objects_and_the_background():
    prob = jnp.asarray([[1.0, 0, 0, 0, 0.0], [0, 0.5, 0.5, 0, 1.0]])
    known, valid = jnp.asarray([True, True]), jnp.asarray([True] * 4 + [False])
    background = np.array([0, 0.5, 0.5, 1, 0]) / 2
    expected = (np.array([1.0, 0, 0, 0, 0]) + [0, 0.5, 0.5, 0, 0] + background) / 3
    np.testing.assert_allclose(prototypes.usage_per_pixel(prob, known, valid), expected, atol=1e-6)
    alone = prototypes.usage_per_pixel(prob, jnp.asarray([True, False]), valid)
    np.testing.assert_allclose(alone, (np.array([1.0, 0, 0, 0, 0]) + np.array([0, 1, 1, 1, 0]) / 3) / 2)
    assert not np.any(prototypes.usage_per_pixel(prob, known, jnp.zeros(5, bool)))


def test_usage_counts_times_the_distance_to_what_is_more_used():
    key = jnp.asarray([[0.0], [1.0], [1.1], [5.0], [9.0]])
    usage = jnp.asarray([1.0, 0.9, 0.8, 0.1, 0.5])
    valid = jnp.asarray([True, True, True, True, False])
    # 0: the farthest distance 16 times 1; 1: 1 * 0.9; 2: 0.01 * 0.8; 3: 3.9^2 * 0.1; 4 is not there.
    assert list(np.asarray(prototypes.select(key, usage, valid, 5))) == [0, 3, 1, 2, 4]


def test_of_equals_one_is_worth_nothing():
    key = jnp.asarray([[0.0], [0.0], [2.0], [2.0]])
    chosen = prototypes.select(key, jnp.ones(4), jnp.ones(4, bool), 2)
    assert sorted(np.asarray(key)[np.asarray(chosen), 0].tolist()) == [0.0, 2.0]
