"""The rendered videos: deterministic, exact, and as eventful as they claim."""

import numpy as np
import pytest
from PIL import Image

from vos_jax.data import mask_files
from vos_jax.data.datasets import rendered, sprites
from vos_jax.errors import VosError

SMALL = {"size": (48, 70), "frames": 5, "objects": 3}


def _video(**changes):
    return rendered.make_video(**{**SMALL, **changes})


def test_same_arguments_same_pixels_in_any_order():
    first, second = _video(), _video()
    backwards = [second.frame(index) for index in reversed(range(5))][::-1]
    for index in range(5):
        np.testing.assert_array_equal(first.frame(index), backwards[index])
        np.testing.assert_array_equal(first.mask(index), second.mask(index))
    longer = _video(frames=9)
    np.testing.assert_array_equal(first.frame(4), longer.frame(4))


def test_seed_and_name_change_the_video():
    first, second = (rendered.make_video(name, **SMALL) for name in ("a", "b"))
    assert (first.frame(0) != second.frame(0)).any()
    assert (_video().frame(0) != _video(seed=1).frame(0)).any()


@pytest.mark.parametrize("seed", range(4))
def test_sample_shows_what_it_promises(seed):
    """Frame 0 shows all objects; within the demo's length all move, scale and turn, some are occluded."""
    video = _video(frames=24, size=(120, 214), seed=seed)
    all_ids = np.stack([video.mask(index) for index in range(24)])
    assert set(np.unique(all_ids[0])) == {0, 1, 2, 3}
    areas = np.stack([(all_ids == object_id).sum((1, 2)) for object_id in (1, 2, 3)])
    assert areas.min() >= 0 and (areas[:, 0] > 0.01 * 120 * 214).all()
    assert ((areas.max(1) - areas.min(1)) > 0.1 * areas[:, 0]).all()
    for object_id in (1, 2, 3):
        start, end = (np.argwhere(all_ids[index] == object_id).mean(0) for index in (0, 12))
        assert np.hypot(*(end - start)) > 5
    # Alone on the canvas an object covers more than is seen of it: something lies over it.
    hidden = 0
    for sprite in video._sprites[:-1]:
        alone = np.stack(
            [
                sprites.down(sprite.placed(index, np.ascontiguousarray(sprite.image[..., 3])), video.size)
                >= 0.5
                for index in range(24)
            ]
        )
        hidden = max(hidden, (alone.sum((1, 2)) - (all_ids == sprite.object_id).sum((1, 2))).max())
    assert hidden > 0.1 * areas[:, 0].min()


def test_truth_lies_where_the_object_was_painted():
    """An object's own colours differ from the ground's at its mask and nowhere else (but its shadow)."""
    with_object, ids = (
        _video(objects=1, size=(96, 140)).frame(2),
        _video(objects=1, size=(96, 140)).mask(2),
    )
    video = _video(objects=1, size=(96, 140))
    video._sprites.clear()
    changed = np.abs(with_object.astype(int) - video.frame(2).astype(int)).sum(-1)
    assert (changed[ids == 1] > 0).mean() > 0.99
    brighter = (with_object.astype(int) - video.frame(2).astype(int)).max(-1) > 20
    assert (ids[brighter] == 1).mean() > 0.95


def test_inputs_are_the_first_annotations_only():
    video = _video(frames=12)
    assert set(video.first_frames) == {1, 2, 3} and list(video.first_frames) == sorted(video.first_frames)
    inputs = video.prompts()
    for object_id, index in video.first_frames.items():
        assert (inputs[index] == object_id).any()
        assert all(not (ids == object_id).any() for other, ids in inputs.items() if other != index)


def test_object_that_starts_hidden_appears_later(monkeypatch):
    video = _video(frames=3)
    ids = [video.mask(index) for index in range(3)]
    ids[0] = np.where(ids[0] == 2, 0, ids[0]).astype(np.uint8)
    monkeypatch.setattr(type(video), "mask", lambda _, index: ids[index])
    assert video.first_frames == {1: 0, 2: 1, 3: 0}
    assert set(np.unique(video.prompts()[0])) == {0, 1, 3} and set(np.unique(video.prompts()[1])) == {0, 2}


def test_merged_objects_are_one():
    merged, apart = _video(merge_objects=True), _video()
    np.testing.assert_array_equal(merged.mask(2), apart.mask(2) > 0)
    assert merged.first_frames == {1: 0} and (merged.prompts()[0] == merged.mask(0)).all()


@pytest.mark.parametrize("objects", [1, 9])
def test_other_counts(objects):
    ids = _video(objects=objects, size=(96, 140)).mask(0)
    assert ids.max() <= objects and len(np.unique(ids)) > objects / 2


@pytest.mark.parametrize("wrong", [{"objects": 0}, {"objects": 65}, {"frames": 0}, {"size": (8, 99)}])
def test_impossible_videos_are_refused(wrong):
    with pytest.raises(VosError):
        rendered.make_video(**{**SMALL, **wrong})


def test_objects_leave_the_frame_and_come_back():
    away = ((40, 60), (110, 112))
    video, stays = (_video(frames=140, objects=2, away=gone) for gone in (away, ()))
    shown = [set(np.unique(video.mask(index))) - {0} for index in range(140)]
    for start, end in away:
        assert not any(shown[start:end])
        np.testing.assert_array_equal(video.frame(start), _empty(video).frame(start), "nor a shadow")
        for index in (start - sprites.SLIDE, end - 1 + sprites.SLIDE):
            np.testing.assert_array_equal(video.frame(index), stays.frame(index), "on its path again")
    assert shown[0] == shown[80] == {1, 2}
    assert any(shown[60 : 60 + sprites.SLIDE // 2]), "back in view on the way"


def _empty(video):
    other = _video(frames=len(video))
    other._sprites.clear()
    return other


def test_look_alikes_are_seen_and_are_background():
    alone, among = (_video(size=(96, 140), objects=1, look_alikes=n) for n in (0, 2))
    ids = among.mask(2)
    np.testing.assert_array_equal(ids, alone.mask(2), "they lie below and have no id")
    changed = np.abs(alone.frame(2).astype(int) - among.frame(2).astype(int)).sum(-1) > 60
    assert changed[ids == 0].mean() > 0.03 and not changed[ids == 1].mean() > 0.05
    merged = _video(size=(96, 140), objects=2, look_alikes=2, merge_objects=True)
    assert set(np.unique(merged.mask(2))) == {0, 1}


def test_davis_layout(tmp_path):
    root = rendered.write_davis(tmp_path / "DAVIS", sequences=("a", "b"), frames=2, size=(32, 45), objects=2)
    assert (root / "ImageSets/2017/val.txt").read_text().split() == ["a", "b"]
    video = rendered.make_video("b", frames=2, size=(32, 45), objects=2)
    path = root / "Annotations/480p/b/00001.png"
    np.testing.assert_array_equal(mask_files.read_mask(path), video.mask(1))
    with Image.open(root / "JPEGImages/480p/b/00001.jpg") as image:
        error = np.abs(np.asarray(image).astype(int) - video.frame(1).astype(int))
    assert image.size == (45, 32) and error.mean() < 8
