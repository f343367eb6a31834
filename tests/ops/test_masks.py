"""Operations on soft masks between the memory's grid and the frame."""

import jax.numpy as jnp
import numpy as np

from vos_jax.ops import masks


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
