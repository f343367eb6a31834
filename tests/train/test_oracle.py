"""Oracle proposals: jittered truth and distractors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vos_jax.errors import VosError
from vos_jax.train import oracle

TRUTH = np.zeros((3, 16, 24), np.float32)  # object 2 is absent
TRUTH[0, 2:8, 3:9] = TRUTH[1, 6:12, 12:20] = 1
FRAME_SIZE = np.array([60, 90])


@jax.jit
def draw(seeds, jitter, object_valid):
    def one(seed):
        key = jax.random.key(seed)
        return oracle.oracle(jnp.asarray(TRUTH), object_valid, FRAME_SIZE, key, capacity=8, jitter=jitter)

    return jax.vmap(one)(seeds)


SEEDS, ALL, NONE = np.arange(20), np.ones(3, bool), np.zeros(3, bool)


def test_the_oracle_without_jitter_is_the_truth():
    out = jax.device_get(draw(SEEDS, 0.0, ALL))
    for place in range(20):
        assert out.valid[place].tolist() == [True, True, False] + [True] * 5
        np.testing.assert_allclose(out.masks[place, :3, :15], TRUTH[:, :15], atol=1e-6)
        np.testing.assert_allclose(out.boxes[place, :2], [[8, 12, 32, 36], [24, 48, 48, 80]])
        np.testing.assert_allclose(out.scores[place, :2], 1.0)


def test_the_oracle_jitters_and_distracts_within_the_frame():
    out, again = jax.device_get((draw(SEEDS, 0.1, ALL), draw(SEEDS, 0.1, ALL)))
    jax.tree.map(np.testing.assert_array_equal, out, again)
    assert len(np.unique(out.boxes[:, 0, 0])) > 10
    assert (out.scores[:, :2] > 0.5).all() and (out.scores[:, :2] < 1).any()
    assert (out.boxes >= 0).all() and (out.boxes[..., 2] <= 60).all() and (out.boxes[..., 3] <= 90).all()
    assert not out.masks[:, :, 15:].any() and not out.masks[:, :, :, 23:].any()
    # Distractors hold something, mostly not where an object is.
    assert (out.masks[:, 3:].max((2, 3)) > 0.5).mean() > 0.95
    assert out.scores[:, 3:].mean() < 0.4


def test_the_oracle_of_an_empty_frame_is_empty():
    out = jax.device_get(draw(SEEDS, 0.1, NONE))
    for leaf in jax.tree.leaves(out):
        np.testing.assert_array_equal(leaf, 0)


def test_more_objects_than_places_are_refused():
    with pytest.raises(VosError, match="3 objects do not fit 2"):
        oracle.oracle(TRUTH, ALL, FRAME_SIZE, jax.random.key(0), capacity=2)
