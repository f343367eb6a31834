"""Augmentation: what each transform promises, checked against independent arithmetic."""

import dataclasses

import cv2
import numpy as np
import pytest

from tests.data import tiny_training
from vos_jax.data import appearance, augmentation, transforms

KEYS = [transforms.Key((0, i)) for i in range(200)]


def smooth_view(frames: int = 3, size: tuple[int, int] = (90, 120)) -> transforms.View:
    """Frames that change slowly in space (so that interpolations agree) and objects at two places."""
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.stack([2 * y, x + y // 2, 255 - 2 * x], -1).astype(np.uint8)
    ids = np.zeros(size, np.uint8)
    ids[10:40, 15:50] = 3
    ids[60:85, 80:118] = 7
    return transforms.make_view((image,) * frames, (ids,) * frames)


def blob_view(box: tuple[int, int, int, int], size: tuple[int, int] = (100, 140)) -> transforms.View:
    ids = np.zeros(size, np.uint8)
    ids[box[0] : box[2], box[1] : box[3]] = 1
    return transforms.make_view((np.zeros((*size, 3), np.uint8),) * 2, (ids, ids))


def test_key_draws_the_same_numbers_and_folds_apart():
    key = transforms.Key((1, 2))
    assert key.generator().random() == transforms.Key((1, 2)).generator().random()
    draws = {k.generator().random() for k in (key, key.fold(0), key.fold(0).fold(0), key.fold("scale"))}
    assert len(draws) == 4


def test_untouched_view_renders_its_own_pixels():
    view = smooth_view()
    clip = transforms.render(view)
    np.testing.assert_array_equal(clip.frames[0], view.frames[0])
    np.testing.assert_array_equal(clip.ids[2], view.ids[2])


def test_horizontal_flip_mirrors_frames_and_masks():
    view = smooth_view()
    clip = transforms.render(transforms.HorizontalFlip(prob=1.0)(view, KEYS[0]))
    np.testing.assert_array_equal(clip.frames[1], view.frames[1][:, ::-1])
    np.testing.assert_array_equal(clip.ids[1], view.ids[1][:, ::-1])


def test_scale_flip_crop_equal_resizing_the_whole_frame_first():
    """One warp at crop size shows what resize, mirror, cut show one after another."""
    view = smooth_view()
    view = transforms.resize(view, 1.4)
    view = transforms.HorizontalFlip(prob=1.0)(view, KEYS[0])
    assert view.size == (126, 168)
    cut = view.compose(np.array([[1.0, 0, 30], [0, 1, 20], [0, 0, 1]]), (64, 96))
    clip = transforms.render(cut)
    whole = cv2.resize(smooth_view().frames[0], (168, 126), interpolation=cv2.INTER_LINEAR)[:, ::-1]
    ids = cv2.resize(smooth_view().ids[0], (168, 126), interpolation=cv2.INTER_NEAREST_EXACT)[:, ::-1]
    difference = np.abs(clip.frames[0].astype(int) - whole[20:84, 30:126].astype(int))
    assert difference.max() <= 2
    assert np.mean(clip.ids[0] != ids[20:84, 30:126]) < 0.005


def test_all_frames_share_one_geometry():
    view = smooth_view(frames=4)
    for key in KEYS[:20]:
        clip, _ = augmentation.Augmentation(crop=transforms.Crop(size=(64, 64)))(view, key)
        for frame, ids in zip(clip.frames, clip.ids, strict=True):
            np.testing.assert_array_equal(frame, clip.frames[0])
            np.testing.assert_array_equal(ids, clip.ids[0])


def test_scale_is_uniform_in_1_to_1_5_and_flips_are_fair():
    view = smooth_view()
    scales = [transforms.Scale()(view, key).size[0] / view.size[0] for key in KEYS]
    assert 1.0 <= min(scales) < 1.05 and 1.45 < max(scales) <= 1.5
    assert abs(np.mean(scales) - 1.25) < 0.04
    mirrored = sum(transforms.HorizontalFlip()(view, key).to_unit[0, 0] < 0 for key in KEYS)
    first, last = view.frames[0], 255 - view.frames[0]
    moving = dataclasses.replace(view, frames=(first, first, last))
    reversed_ = sum(transforms.TemporalFlip()(moving, key).frames[0] is last for key in KEYS)
    assert 70 < mirrored < 130 and 70 < reversed_ < 130


@pytest.mark.parametrize("last", [None, "blank"])
def test_temporal_flip_never_puts_a_frame_without_objects_first(last):
    view = smooth_view()
    empty = None if last is None else np.zeros_like(view.ids[0])
    view = dataclasses.replace(view, ids=(view.ids[0], view.ids[1], empty))
    for key in KEYS[:20]:
        assert transforms.holds_object(transforms.TemporalFlip(prob=1.0)(view, key).ids[0])


@pytest.mark.parametrize("box", [(0, 0, 6, 6), (94, 130, 100, 140), (40, 60, 60, 80), (5, 5, 95, 135)])
def test_crop_keeps_the_share_of_an_object(box):
    view = blob_view(box)
    area = (box[2] - box[0]) * (box[3] - box[1])
    crop = transforms.Crop(size=(40, 40), keep=0.5)
    for key in KEYS[:60]:
        placed = crop.place(view, key)
        kept = np.count_nonzero(transforms.render(placed).ids[0])
        assert kept >= 0.5 * min(area, 40 * 40) - 1
        corners = placed.to_unit @ np.array([[0, 40], [0, 40], [1, 1]])
        assert corners.min() > -1e-9 and corners.max() < 1 + 1e-9


def test_crop_without_keep_is_uniform_over_the_frame():
    view = blob_view((0, 0, 100, 140))
    crop = transforms.Crop(size=(40, 40), keep=0.0)
    starts = np.array([crop.place(view, key).to_unit[:, 2] * (140, 100) for key in KEYS])
    assert starts.min() < 5 and starts[:, 0].max() > 94 and starts[:, 1].max() > 54
    np.testing.assert_allclose(starts.mean(0), [50, 30], atol=6)


def test_crop_of_a_frame_without_objects_is_unusable():
    with pytest.raises(transforms.UnusableClip, match="no object"):
        transforms.Crop(size=(8, 8))(blob_view((0, 0, 0, 0)), KEYS[0])


def test_small_frames_are_enlarged_or_padded():
    view = blob_view((5, 5, 30, 30), size=(40, 60))
    still = transforms.Scale(low=1.0, high=1.0)
    settings = augmentation.Augmentation(scale=still, crop=transforms.Crop(size=(50, 50)))
    clip, _ = settings(view, KEYS[1])
    assert clip.size == (50, 50) and clip.frames[0].shape == (50, 50, 3)
    clip, _ = dataclasses.replace(settings, upscale=False)(view, KEYS[1])
    assert clip.size == (40, 50) and clip.frames[0].shape == (50, 50, 3)
    assert not clip.ids[0][40:].any() and not clip.frames[0][40:].any()


def test_a_mask_of_higher_resolution_than_its_reduced_frame_stays_aligned():
    frame, ids = tiny_training.frame_and_ids(0, 0, objects=1, size=(96, 128))
    small = cv2.resize(frame, (64, 48), interpolation=cv2.INTER_AREA)
    view = transforms.make_view((small,), (ids,))
    settings = augmentation.Augmentation(
        crop=transforms.Crop(size=(48, 48)), objects=transforms.SelectObjects(min_pixels=1)
    )
    for key in KEYS[:10]:
        clip, _ = settings(view, key)
        assert np.mean((clip.frames[0][..., 0] > 20) != (clip.ids[0] > 0)) < 0.04


def test_objects_are_numbered_from_one_and_late_ones_are_background():
    first = np.zeros((20, 20), np.uint8)
    first[:10, :10], first[12:, 12:] = 9, 4
    second = first.copy()
    second[0:8, 12:20] = 5  # appears later
    frame = np.zeros((20, 20, 3), np.uint8)
    clip = transforms.Clip((frame, frame, frame), (first, second, None), (20, 20))
    out, count = transforms.SelectObjects()(clip, KEYS[0])
    assert count == 2 and out.ids[2] is None
    assert (out.ids[1][:10, :10] == 2).all() and (out.ids[1][12:, 12:] == 1).all()
    assert set(np.unique(out.ids[1])) == {0, 1, 2} and not out.ids[1][0:8, 12:20].any()


def test_at_most_max_objects_are_drawn_and_all_get_their_turn():
    ids = np.repeat(np.arange(6, dtype=np.uint8), 8)[None, :].repeat(10, 0)
    frame = np.zeros((*ids.shape, 3), np.uint8)
    clip = transforms.Clip((frame,), (ids,), ids.shape)
    kept = set()
    for key in KEYS[:40]:
        out, count = transforms.SelectObjects(max_objects=2)(clip, key)
        assert count == 2 and set(np.unique(out.ids[0])) == {0, 1, 2}
        kept |= set(ids[out.ids[0] > 0])
    assert kept == {1, 2, 3, 4, 5}


def test_drop_and_merge_leave_at_least_one_object():
    ids = np.repeat(np.arange(3, dtype=np.uint8), 8)[None, :].repeat(10, 0)
    clip = transforms.Clip((np.zeros((*ids.shape, 3), np.uint8),), (ids,), ids.shape)
    dropped, count = transforms.SelectObjects(drop=1.0)(clip, KEYS[0])
    assert count == 1 and np.count_nonzero(dropped.ids[0]) == 80
    merged, count = transforms.SelectObjects(merge=1.0)(clip, KEYS[0])
    assert count == 1 and np.count_nonzero(merged.ids[0]) == 160
    both, count = transforms.SelectObjects(drop=1.0, merge=1.0)(clip, KEYS[0])
    assert count == 1 and np.count_nonzero(both.ids[0]) == 80


def test_an_object_below_min_pixels_is_none():
    clip = transforms.render(blob_view((0, 0, 5, 6)))
    assert transforms.SelectObjects(min_pixels=30)(clip, KEYS[0])[1] == 1
    with pytest.raises(transforms.UnusableClip):
        transforms.SelectObjects(min_pixels=31)(clip, KEYS[0])


def padded_clip() -> transforms.Clip:
    return transforms.pad(transforms.render(smooth_view(size=(60, 80))), (64, 96))


def test_colour_jitter_changes_frames_only_and_leaves_padding_black():
    clip = padded_clip()
    out = appearance.ColourJitter(prob=1.0)(clip, KEYS[3])
    assert np.abs(out.frames[0].astype(int) - clip.frames[0]).mean() > 1
    assert not out.frames[0][60:].any() and not out.frames[0][:, 80:].any()
    assert out.ids is clip.ids and out.frames[0].shape == clip.frames[0].shape
    none = appearance.ColourJitter(prob=1.0, brightness=0, contrast=0, saturation=0, hue=0)(clip, KEYS[3])
    np.testing.assert_array_equal(none.frames[0], clip.frames[0])
    assert appearance.ColourJitter()(clip, KEYS[3]) is clip


def test_hue_and_saturation_keep_grey_grey():
    grey = np.full((8, 8, 3), 100, np.uint8)
    clip = transforms.Clip((grey,), (None,), (8, 8))
    jitter = appearance.ColourJitter(prob=1.0, brightness=0, contrast=0, saturation=0.9, hue=90)
    assert np.abs(jitter(clip, KEYS[0]).frames[0].astype(int) - 100).max() <= 1


def test_jpeg_quality_compresses_and_leaves_padding_black():
    clip = padded_clip()
    rough = appearance.JpegQuality(prob=1.0, low=5, high=5)(clip, KEYS[0])
    fine = appearance.JpegQuality(prob=1.0, low=98, high=98)(clip, KEYS[0])
    errors = [np.abs(c.frames[0].astype(int) - clip.frames[0]).mean() for c in (rough, fine)]
    assert errors[0] > 2 * errors[1] > 0 and errors[1] < 3
    assert not rough.frames[0][60:].any() and not rough.frames[0][:, 80:].any()
    assert appearance.JpegQuality()(clip, KEYS[0]) is clip


def test_switching_one_transform_on_does_not_move_the_draws_of_another():
    view = smooth_view()
    plain = augmentation.Augmentation(crop=transforms.Crop(size=(64, 64)))
    coloured = dataclasses.replace(plain, colour=appearance.ColourJitter(prob=1.0))
    for key in KEYS[:5]:
        np.testing.assert_array_equal(plain(view, key)[0].ids[0], coloured(view, key)[0].ids[0])
