"""Origins of cells: in frame 0, the point that they name has the colour that the cell shows."""

import cv2
import numpy as np
import pytest

from vos_jax.data import (
    appearance,
    augmentation,
    clips,
    cutouts,
    motion,
    origins,
    paste,
    pseudo_clips,
    transforms,
)

KEYS = [transforms.Key((13, i)) for i in range(12)]
SIZE = (96, 128)
FAST = motion.Motion(shift=0.3)


def ramps(red: int, size: tuple[int, int] = SIZE) -> transforms.View:
    """A photo that is one object all over; green grows along x and blue along y."""
    y, x = np.mgrid[: size[0], : size[1]]
    frame = np.dstack([np.full(size, red), 250 * x / size[1], 250 * y / size[0]]).astype(np.uint8)
    return transforms.make_view((frame,), (np.ones(size, np.uint8),))


def make(key: transforms.Key, others: int = 2, length: int = 3) -> transforms.Clip:
    """A clip of a crop of a photo with other photos, of red 120 and 200, pasted on it."""
    change = augmentation.Augmentation(crop=transforms.Crop(size=(80, 96)))
    maker = pseudo_clips.PseudoClip(size=(0.4, 0.6))
    pictures = [ramps(120), ramps(200)][:others]
    return maker(change.place(ramps(20), key), pictures, length=length, key=key)


def at(array: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Samples an array at points (x, y), of which pixel i covers [i, i + 1]."""
    maps = (points - 0.5).astype(np.float32)[None]
    return cv2.remap(array, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def centres(size: tuple[int, int]) -> np.ndarray:
    """Centres (x, y) of all cells, [h, w, 2]."""
    y, x = (np.arange(n) * 16 + 8.0 for n in origins.grid(size))
    return np.stack(np.meshgrid(x, y), -1)


def solid(ids: np.ndarray, number: int) -> np.ndarray:
    """Returns 255 where everything within 3 pixels is of one object, else 0; frame edges do not count."""
    return cv2.erode((ids == number).astype(np.uint8) * 255, np.ones((7, 7), np.uint8))


def test_an_origin_names_the_point_of_frame_0_that_the_cell_shows():
    compared = np.zeros(3, int)
    for key in KEYS:
        clip = make(key)
        assert clip.origins is not None
        for frame, ids, found in zip(clip.frames, clip.ids, clip.origins, strict=True):
            for layer, number in enumerate((1, 255, 254)):
                points = found[..., 1:].reshape(-1, 2)
                cells = centres(clip.size).reshape(-1, 2)
                # The same layer, well inside, in both frames.
                counts = (found[..., 0].ravel() == layer) & (at(solid(ids, number), cells) == 255)
                counts &= at(solid(clip.ids[0], number), points) == 255
                counts &= np.all((points > 2) & (points < np.array(clip.size[::-1]) - 2), axis=1)
                shown, named = at(frame, cells).astype(int), at(clip.frames[0], points)
                assert np.abs(shown - named)[counts].max(initial=0) <= 3
                compared[layer] += counts.sum()
    assert compared.min() > 100


def test_frame_0_lies_at_rest_and_every_cell_of_a_layer_says_so():
    for key in KEYS[:4]:
        clip = make(key)
        known = clip.origins[0, ..., 0] >= 0
        assert known.all()
        np.testing.assert_allclose(clip.origins[0, ..., 1:], centres(clip.size), atol=1e-3)


def test_a_layer_is_the_one_whose_pixels_the_cell_shows():
    for key in KEYS[:6]:
        clip = make(key)
        table = {0: 1, 1: 255, 2: 254}
        for ids, found in zip(clip.ids, clip.origins, strict=True):
            shown = ids[8::16, 8::16]
            for layer, number in table.items():
                np.testing.assert_array_equal(
                    shown[found[..., 0] == layer], np.full((found[..., 0] == layer).sum(), number)
                )
            # Beyond the photo its mirror image is shown, whose origin is not where it seems to be.
            assert np.isin(shown[found[..., 0] == origins.UNKNOWN], (1,)).all()


def test_what_is_mirrored_beyond_the_photo_is_unknown():
    unknown = 0
    for key in KEYS[:6]:
        maker = pseudo_clips.PseudoClip(camera=FAST)
        clip = maker(ramps(20), (), length=2, key=key)
        x, y = clip.origins[1, ..., 1], clip.origins[1, ..., 2]
        known = clip.origins[1, ..., 0] == 0
        assert np.all((x[known] >= 0) & (x[known] <= 128) & (y[known] >= 0) & (y[known] <= 96))
        assert np.all(clip.origins[1][~known] == origins.UNKNOWN)
        unknown += np.count_nonzero(~known)
    assert unknown > 10


def test_a_temporal_flip_reverses_origins_with_their_frames():
    clip = make(KEYS[0])
    flipped = transforms.TemporalFlip(prob=1.0)(clip, KEYS[1])
    np.testing.assert_array_equal(flipped.frames[0], clip.frames[2])
    np.testing.assert_array_equal(flipped.origins, clip.origins[::-1])


def test_objects_laid_over_a_clip_hide_the_origins_below():
    circle = np.zeros((40, 40), np.uint8)
    cv2.circle(circle, (20, 20), 16, 255, -1)
    sprite = np.dstack([np.full((40, 40, 3), 90, np.uint8), circle])
    cut = cutouts.Cutout((sprite,) * 3, np.full((3, 2), 20.0), 1)
    hidden = 0
    for key in KEYS:
        clip = make(key, others=1)
        before = clip.origins.copy()
        pasted = paste.Paste(size=(0.3, 0.5), min_pixels=50)(clip, (cut,), max_gap=5, key=key)
        first_id = 1 + max(int(ids.max()) for ids in pseudo_clips.compact(clip.ids))
        laid = np.stack([ids[8::16, 8::16] for ids in pasted.ids]) >= first_id
        assert np.all(pasted.origins[laid] == origins.UNKNOWN)
        np.testing.assert_array_equal(pasted.origins[~laid], before[~laid])
        np.testing.assert_array_equal(clip.origins, before)
        hidden += np.count_nonzero(laid)
    assert hidden > 20


def test_no_choice_of_objects_and_no_colours_change_an_origin():
    clip = make(KEYS[0])
    change = augmentation.Augmentation(
        crop=transforms.Crop(size=(96, 96)),
        objects=transforms.SelectObjects(max_objects=1, drop=1.0),
        colour=appearance.ColourJitter(prob=1.0),
        jpeg=appearance.JpegQuality(prob=1.0),
    )
    finished, _ = change.finish(clip, KEYS[1])
    np.testing.assert_array_equal(finished.origins[:, :5], clip.origins)
    assert finished.origins.shape == (3, 6, 6, 3) and np.all(finished.origins[:, 5:] == origins.UNKNOWN)


@pytest.mark.parametrize("known", [True, False])
def test_packed_frames_without_a_cell_to_show_are_unknown(known):
    """Padding in time and space, and clips of real videos."""
    clip = make(KEYS[0], length=2)
    if not known:
        clip = transforms.Clip(clip.frames, clip.ids, clip.size)
    example = clips.to_arrays(
        transforms.pad(clip, (96, 96)), num_objects=1, length=4, max_objects=2, dataset=0
    )["origins"]
    assert example.shape == (4, 6, 6, 3) and example.dtype == np.float32
    expected = np.full_like(example, origins.UNKNOWN)
    if known:
        expected[:2, :5] = clip.origins
    np.testing.assert_array_equal(example, expected)


@pytest.mark.parametrize("size", [(50, 33), (24, 40), (7, 16)])
def test_cells_whose_centre_lies_beyond_the_frame_are_unknown(size):
    clip = pseudo_clips.PseudoClip()(ramps(20, size), (), length=2, key=KEYS[0])
    assert clip.origins.shape == (2, *origins.grid(size), 3)
    inside = np.all(centres(size) < size[::-1], axis=-1)
    np.testing.assert_array_equal(clip.origins[0, ..., 0] == 0, inside)
