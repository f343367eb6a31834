"""Pseudo-clips: smooth, growing motion that keeps masks on their objects, and pasted objects that occlude."""

import dataclasses

import numpy as np
import pytest

from tests.data import tiny_training
from vos_jax.data import augmentation, motion, pseudo_clips, transforms

KEYS = [transforms.Key((3, i)) for i in range(30)]
STILL = motion.Motion(turn=0, scale=0, shear=0, shift=0, warp=0)


def photo(objects: int = 1, size: tuple[int, int] = (96, 128), number: int = 0) -> transforms.View:
    frame, ids = tiny_training.frame_and_ids(number, 0, objects=objects, size=size)
    return transforms.make_view((frame,), (ids,))


def disk(red: int, size: tuple[int, int] = (64, 64)) -> transforms.View:
    """A photo that is one object all over, to be pasted."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[..., 0] = red
    return transforms.make_view((frame,), (np.ones(size, np.uint8),))


def test_thin_plate_goes_through_its_control_points_and_keeps_affine_maps():
    rng = np.random.default_rng(0)
    controls, points = rng.random((9, 2)), rng.random((40, 2))
    displacements = rng.normal(size=(9, 2))
    at_controls = motion.thin_plate(controls, controls) @ displacements
    np.testing.assert_allclose(at_controls, displacements, atol=1e-8)
    matrix, shift = rng.normal(size=(2, 2)), rng.normal(size=2)
    affine = motion.thin_plate(points, controls) @ (controls @ matrix + shift)
    np.testing.assert_allclose(affine, points @ matrix + shift, atol=1e-8)


def test_elastic_weights_are_shares_that_favour_the_nearest_control():
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), -1).reshape(-1, 2)
    points = rng.uniform(0, 3, (50, 2))
    weights = motion.elastic(points, grid)
    np.testing.assert_allclose(weights.sum(1), 1.0)
    assert weights.min() >= 0
    nearest = ((points[:, None] - grid[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(weights.argmax(1), nearest)


@pytest.mark.parametrize("size", [(48, 80), (50, 33), (352, 352)])
def test_dense_maps_are_exact_for_affine_coordinates(size):
    points, shape = motion.lattice(size)
    matrix, shift = np.array([[0.9, 0.2], [-0.3, 1.2]]), np.array([5.0, -7.0])
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    expected = np.stack([x, y], -1) @ matrix.T + shift
    coarse = points @ matrix.T + shift
    np.testing.assert_allclose(motion.dense(coarse, shape, size), expected, atol=2e-3)
    box = (slice(16, size[0]), slice(16, min(32, size[1])))
    np.testing.assert_allclose(motion.dense(coarse, shape, size, box), expected[box], atol=2e-3)


@pytest.mark.parametrize("limits", [pseudo_clips.PseudoClip().camera, pseudo_clips.PseudoClip().object])
def test_motion_starts_at_rest_grows_and_never_folds(limits):
    size = (96, 128)
    points, shape = motion.lattice(size)
    reach = np.zeros(5)
    for warp in motion.WARPS:
        for key in KEYS:
            path = dataclasses.replace(limits, warps=(warp,)).path(5, size, points, key.generator())
            np.testing.assert_allclose(path[0], points, atol=1e-9)
            reach += np.linalg.norm(path - points, axis=-1).mean(-1)
            field = path[-1].reshape(*shape, 2)
            along_x, along_y = np.diff(field, axis=1)[:-1], np.diff(field, axis=0)[:, :-1]
            area = along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]
            assert area.min() > 0
    assert (np.diff(reach) > 0).all()


def test_a_still_camera_shows_the_crop_in_every_frame():
    view = augmentation.Augmentation(crop=transforms.Crop(size=(64, 64))).place(photo(), KEYS[0])
    clip = pseudo_clips.PseudoClip(camera=STILL)(view, (), length=3, key=KEYS[1])
    plain = transforms.render(view)
    for frame, ids in zip(clip.frames, clip.ids, strict=True):
        assert np.abs(frame.astype(int) - plain.frames[0]).max() <= 2
        assert np.mean(ids != plain.ids[0]) < 0.002


def test_masks_stay_on_their_objects_and_every_frame_differs():
    for key in KEYS[:8]:
        clip = pseudo_clips.PseudoClip()(photo(objects=2), (), length=3, key=key)
        for frame, ids in zip(clip.frames, clip.ids, strict=True):
            # Red is 40 × id; between two objects and at edges a pixel is a mixture.
            assert np.mean(np.abs(frame[..., 0].astype(int) - 40 * ids) > 20) < 0.06
        for a, b in ((0, 1), (1, 2), (0, 2)):
            assert np.mean(clip.ids[a] != clip.ids[b]) > 0.005


def test_what_is_mirrored_at_the_border_keeps_its_label():
    """The camera leaves a photo that is one object all over: no frame may show unlabelled object."""
    shift = dataclasses.replace(STILL, shift=0.4)
    for key in KEYS[:5]:
        clip = pseudo_clips.PseudoClip(camera=shift)(disk(200), (), length=3, key=key)
        assert all((ids == 1).all() for ids in clip.ids) and all(
            (f[..., 0] == 200).all() for f in clip.frames
        )


def test_pasted_objects_hide_what_lies_below_and_move_on_their_own():
    maker = pseudo_clips.PseudoClip(camera=STILL, size=(0.3, 0.5))
    moved = 0
    for key in KEYS[:10]:
        clip = maker(photo(objects=1), (disk(120), disk(240)), length=3, key=key)
        present = set(np.unique(clip.ids[0])) - {0, 1}
        assert present <= {254, 255} and present
        for frame, ids in zip(clip.frames, clip.ids, strict=True):
            for number, red in ((255, 120), (254, 240)):
                inside = frame[..., 0][ids == number].astype(int)
                if inside.size > 50:
                    assert abs(np.median(inside) - red) <= 2
        covered = [np.stack([ids == n for n in sorted(present)]) for ids in clip.ids]
        moved += np.mean(covered[0] != covered[2]) > 0.01
    assert moved >= 8


def test_later_pasted_objects_occlude_earlier_ones():
    maker = pseudo_clips.PseudoClip(camera=STILL, object=STILL, size=(1.9, 2.0))
    clip = maker(photo(), (disk(120), disk(240)), length=2, key=KEYS[0])
    middle = clip.ids[0][40:56, 56:72]
    assert (middle == 254).all()


def test_the_number_of_pasted_objects_is_uniform_and_counts_the_photos_own():
    maker = pseudo_clips.PseudoClip(max_objects=4)
    keys = [transforms.Key((5, i)) for i in range(300)]
    extra = [maker.num_pasted(photo(objects=1), key) for key in keys]
    assert np.bincount(extra, minlength=4).min() > 45 and max(extra) == 3
    assert {maker.num_pasted(photo(objects=3), key) for key in keys} == {0, 1}


def test_sprites_are_cut_to_one_object_with_a_transparent_rim():
    sprite = pseudo_clips.cut_sprite(photo(objects=2), np.random.default_rng(0), min_pixels=50)
    opaque = sprite.pixels[..., 3] > 0
    assert len(set(sprite.pixels[..., 0][opaque].tolist())) == 1
    assert not opaque[:2].any() and not opaque[-2:].any() and not opaque[:, :2].any()
    assert opaque[2].any() and opaque[:, 2].any()
    assert pseudo_clips.cut_sprite(photo(), np.random.default_rng(0), min_pixels=9999) is None


def test_the_same_key_makes_the_same_clip_and_a_callable_may_be_the_warp():
    def half(points: np.ndarray, controls: np.ndarray) -> np.ndarray:
        return np.full((len(points), len(controls)), 0.5 / len(controls))

    maker = pseudo_clips.PseudoClip(camera=dataclasses.replace(STILL, warps=(half,), warp=0.3))
    first, again = (maker(photo(), (disk(200),), length=3, key=KEYS[0]) for _ in range(2))
    other = maker(photo(), (disk(200),), length=3, key=KEYS[1])
    np.testing.assert_array_equal(np.stack(first.frames), np.stack(again.frames))
    assert np.any(np.stack(first.frames) != np.stack(other.frames))
