"""Errors that training puts into written masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax import errors
from vos_jax.train import corruption

VALID = jnp.ones(3, bool)


def discs():
    """Two objects far apart in a 48x64 grid, and a third that has no pixel."""
    rows, columns = np.mgrid[:48, :64]
    masks = [np.hypot(rows - 24, columns - x) < 8 for x in (16, 48)] + [np.zeros((48, 64))]
    return jnp.asarray(np.stack(masks), jnp.float32)


def changed(key=0, prob=None, valid=VALID, **chances):
    prob = discs() if prob is None else prob
    out = corruption.corrupt(prob, valid, jax.random.key(key), corruption.CorruptionConfig(**chances))
    return np.asarray(out)


def test_nothing_changes_without_a_chance():
    np.testing.assert_array_equal(changed(), discs())
    assert not corruption.CorruptionConfig().enabled


@pytest.mark.parametrize(
    "chances", [{"take": 1.0}, {"lose": 1.0}, {"grow": 1.0}, dict(take=0.5, lose=0.5, grow=0.5)]
)
def test_cells_still_sum_to_at_most_one_and_absent_objects_stay_empty(chances):
    for key in range(5):
        out = changed(key, **chances)
        assert out.min() >= 0 and out.sum(axis=0).max() <= 1 + 1e-6
        assert not out[2].any()


def test_taking_moves_pixels_of_the_other_object():
    moved = 0
    for key in range(5):
        out = changed(key, take=1.0, valid=jnp.asarray([True, False, False]))
        np.testing.assert_array_less(out[1], np.asarray(discs()[1]) + 1e-6)
        moved += (np.asarray(discs()[1]) * out[0]).sum()
    assert moved > 50


def test_losing_only_removes_and_growing_only_adds():
    lost, grown = changed(lose=1.0), changed(grow=1.0)
    assert np.all(lost <= discs()) and lost[0].sum() < discs()[0].sum()
    assert np.all(grown.sum(axis=0) >= discs().sum(axis=0)) and grown[0].sum() > 1.5 * discs()[0].sum()


def test_an_object_alone_takes_background_near_it():
    alone = discs().at[1].set(0.0)
    out = changed(prob=alone, take=1.0)
    assert out[0].sum() > alone[0].sum()
    assert not out[0][:, 44:].any()


def test_a_probability_out_of_range_is_refused():
    with pytest.raises(errors.VosError, match="take is 1.5"):
        corruption.CorruptionConfig(take=1.5)
