"""What is done to soft masks between the memory's grid and the frame."""

import jax.numpy as jnp
import numpy as np

from vos_jax.models import masks


def test_only_what_is_near_the_object_is_within_reach():
    prev = np.zeros((3, 64, 96), np.float32)  # 256 x 384 pixels, a grid of 16 x 24 cells
    prev[0, 20:24, 40:44] = 0.9  # cell (5, 10)
    prev[1, 20:24, 40:44] = 0.4  # too faint to be there
    near = np.asarray(masks.reachable(jnp.asarray(prev), (16, 24), 0.18))  # 3 of 16 cells
    expected = np.zeros((16, 24), bool)
    expected[2:9, 7:14] = True
    np.testing.assert_array_equal(near[0], expected)
    # Who was nowhere is looked for everywhere.
    assert near[1:].all()
    np.testing.assert_array_equal(masks.reachable(jnp.asarray(prev), (16, 24), 0.18, 0.3)[1], expected)


def test_the_border_repeats_into_the_padding():
    prob = jnp.arange(24.0).reshape(1, 4, 6) / 24
    # Of 50 x 70 pixels, 3 x 4 cells of 16 have their centre inside.
    repeated = np.asarray(masks.repeat_border(prob, jnp.array([50.0, 70.0]), 16))
    np.testing.assert_array_equal(repeated[0, :3, :4], np.asarray(prob)[0, :3, :4])
    np.testing.assert_array_equal(repeated[0, 3], repeated[0, 2])
    np.testing.assert_array_equal(repeated[0, :, 4:], repeated[0, :, 3:4] * np.ones(2))
    valid = np.asarray(masks.pixel_valid(jnp.array([50.0, 70.0]), (4, 6), 16))
    np.testing.assert_array_equal(np.argwhere(valid).max(0), [2, 3])


def test_one_hot_marks_objects_from_1_in_numpy_and_jax():
    ids = np.array([[0, 1, 3], [2, 1, 9]], np.uint8)
    for array in (ids, jnp.asarray(ids), jnp.asarray(ids, jnp.int32)):
        planes = masks.one_hot(array, 3)
        assert planes.dtype == bool and planes.shape == (3, 2, 3)
        np.testing.assert_array_equal(planes, [ids == 1, ids == 2, ids == 3])
