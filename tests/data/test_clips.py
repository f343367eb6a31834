"""Clips drawn from folders: which may be drawn, which are left out, and the message about those."""

import json
import logging
import shutil

import cv2
import numpy as np
import pytest

from tests.data import tiny_training
from vos_jax import errors
from vos_jax.data import augmentation, clips, datasets, transforms
from vos_jax.data import video as video_lib

KEYS = [transforms.Key((7, i)) for i in range(60)]


def videos(root, **options) -> tuple[video_lib.Video, ...]:
    return datasets.open_training_videos(datasets.SourceConfig(root=str(root), **options))


def names(root, **options) -> tuple[str, ...]:
    return tuple(video.name for video in videos(root, **options))


def times_of(view: transforms.View) -> list[int]:
    """The frames' numbers, read from their colour."""
    return [int(frame[0, 0, 1]) // 10 for frame in view.frames]


def load(opened, key, *, index=0, length=3, max_gap=0, unannotated=False) -> transforms.View:
    return clips.load_clip(opened[index], length=length, max_gap=max_gap, unannotated=unannotated, key=key)


def test_gap_grows_linearly_between_its_steps():
    gap = clips.GapSchedule(start=0, end=25, begin_step=100, end_step=1100)
    assert [gap(s) for s in (0, 100, 300, 600, 1100, 99_999)] == [0, 0, 5, 12, 25, 25]
    assert clips.GapSchedule(start=5, end=5, begin_step=0, end_step=0)(0) == 5


@pytest.mark.parametrize(("frames", "length", "max_gap"), [(30, 3, 4), (5, 3, 25), (3, 3, 9), (40, 5, 0)])
def test_chosen_frames_ascend_within_the_gap_and_use_all_of_it(frames, length, max_gap):
    seen = set()
    for key in KEYS:
        chosen = clips.choose_frames(
            frames, np.arange(frames), lambda n: True, length=length, max_gap=max_gap, rng=key.generator()
        )
        steps = np.diff(chosen)
        assert len(chosen) == length and steps.min() >= 1 and steps.max() <= max_gap + 1
        assert chosen[0] >= 0 and chosen[-1] < frames
        seen |= set(steps.tolist())
    reach = min(max_gap + 1, (frames - 1) // (length - 1))
    assert seen == set(range(1, reach + 1))


def test_a_clip_starts_where_an_object_shows(tmp_path):
    tiny_training.write_sequence(tmp_path, "late", 0, frames=12, holding={7, 8})
    source = videos(tmp_path)
    starts = {times_of(load(source, key, max_gap=3))[0] for key in KEYS[:20]}
    assert starts == {7, 8}


def test_an_object_in_the_last_frames_only_gives_a_shorter_clip(tmp_path):
    tiny_training.write_sequence(tmp_path, "late", 0, frames=6, holding={4, 5})
    view = load(videos(tmp_path), KEYS[0], max_gap=9)
    assert times_of(view) == [4, 5]


@pytest.mark.parametrize("holding", [set(), {5}])
def test_a_sequence_that_shows_no_object_to_start_with_is_unusable(tmp_path, holding):
    tiny_training.write_sequence(tmp_path, "empty", 0, frames=6, holding=holding)
    with pytest.raises(transforms.UnusableClip, match="no annotated frame"):
        load(videos(tmp_path), KEYS[0])


def test_objects_may_vanish_behind_the_first_frame(tmp_path):
    tiny_training.write_sequence(tmp_path, "gone", 0, frames=4, holding={0})
    view = load(videos(tmp_path), KEYS[0])
    assert times_of(view)[0] == 0
    settings = augmentation.Augmentation(crop=transforms.Crop(size=(32, 32)))
    clip, count = settings(view, KEYS[0])
    example = clips.to_arrays(clip, num_objects=count, length=3, max_objects=2, dataset=0)
    assert example["object_valid"].tolist() == [True, False]
    assert example["truth_valid"].all() and not example["ids"][1:].any() and example["ids"][0].any()


def test_missing_masks_are_not_drawn_or_marked(tmp_path):
    tiny_training.write_sequence(tmp_path, "sparse", 0, frames=9, annotated={0, 3, 6})
    source = videos(tmp_path)
    assert times_of(load(source, KEYS[0])) == [0, 3, 6]
    seen = set()
    for key in KEYS[:20]:
        view = load(source, key, unannotated=True)
        seen |= set(times_of(view))
        truth = [time in (0, 3, 6) for time in times_of(view)]
        assert [ids is not None for ids in view.ids] == truth and truth[0]
        clip = transforms.render(view)
        example = clips.to_arrays(clip, num_objects=1, length=3, max_objects=1, dataset=0)
        assert example["truth_valid"].tolist() == truth and example["frame_valid"].all()
    assert {1, 2, 4} <= seen


def test_sequences_without_a_second_frame_or_masks_are_left_out_by_name(tmp_path, caplog):
    tiny_training.write_davis(tmp_path, sequences=2)
    tiny_training.write_sequence(tmp_path, "still", 8, frames=1)
    tiny_training.write_sequence(tmp_path, "once", 8, annotated={2})
    tiny_training.write_sequence(tmp_path, "unlabelled", 8, annotated=set())
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path) == ("video0", "video1")
    for said in ("still (a single frame)", "once (a single annotated frame)", "unlabelled (no masks)"):
        assert said in caplog.text
    assert "once" in names(tmp_path, unannotated=True)


def test_nothing_to_train_on_is_an_error(tmp_path):
    tiny_training.write_sequence(tmp_path / "a", "still", 0, frames=1)
    with pytest.raises(errors.VosError, match=r"no sequence to train on; left out: still \(a single frame\)"):
        videos(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for kind in datasets.DATASETS:
        with pytest.raises(errors.VosError, match="b"):
            videos(tmp_path / "b", kind=kind)
    with pytest.raises(errors.VosError, match="no such folder"):
        videos(tmp_path / "absent")
    with pytest.raises(errors.VosError, match="kind is 'zip'; there are: auto, davis"):
        videos(tmp_path, kind="zip")


def test_sequences_are_taken_and_held_back_by_name_or_pattern(tmp_path):
    tiny_training.write_davis(tmp_path)
    assert names(tmp_path, exclude=("video1", "video[34]")) == ("video0", "video2")
    assert names(tmp_path, sequences=("video2", "video[0-2]"), exclude=("video0",)) == ("video1", "video2")
    with pytest.raises(errors.VosError, match="no sequence matches 'vidoe1'; did you mean video1"):
        videos(tmp_path, exclude=("vidoe1",))
    with pytest.raises(errors.VosError, match="no sequence to train on"):
        videos(tmp_path, exclude=("*",))


def test_davis_split_and_resolution_are_followed(tmp_path):
    tiny_training.write_davis(tmp_path)
    for folder in ("JPEGImages", "Annotations"):
        shutil.move(tmp_path / folder, tmp_path / "480p")
        (tmp_path / folder).mkdir()
        shutil.move(tmp_path / "480p", tmp_path / folder / "480p")
    (tmp_path / "ImageSets" / "2017").mkdir(parents=True)
    (tmp_path / "ImageSets" / "2017" / "train.txt").write_text("video3\nvideo1\n")
    assert names(tmp_path) == ("video3", "video1")


def test_objects_merge_where_asked_and_binary_masks_are_one_object(tmp_path):
    tiny_training.write_sequence(tmp_path, "two", 0, objects=2)
    assert set(np.unique(videos(tmp_path)[0].mask(0))) == {0, 1, 2}
    assert set(np.unique(videos(tmp_path, merge_objects=True)[0].mask(0))) == {0, 1}
    mask = tmp_path / "Annotations" / "two" / "00000.png"
    cv2.imwrite(str(mask), np.minimum(cv2.imread(str(mask), -1), 1) * 255)
    assert set(np.unique(videos(tmp_path)[0].mask(0))) == {0, 1}


def write_ytvos(root) -> None:
    frames = {"video0": ["00005"], "video1": ["00000", "00005", "00010"], "video2": ["00000", "00005"]}
    for number, (name, shown) in enumerate(frames.items()):
        for time in (0, 5, 10, 15):
            frame, ids = tiny_training.frame_and_ids(number, time)
            tiny_training.write(root / "train" / "JPEGImages" / name / f"{time:05d}.png", frame)
            ids = ids if f"{time:05d}" in shown else ids * 0
            tiny_training.write(root / "train" / "Annotations" / name / f"{time:05d}.png", ids)
    meta = {n: {"objects": {"1": {"category": "cat", "frames": f}}} for n, f in frames.items()}
    (root / "train" / "meta.json").write_text(json.dumps({"videos": meta}))


def test_youtube_vos_starts_clips_where_meta_says_an_object_is(tmp_path):
    write_ytvos(tmp_path)
    source = videos(tmp_path, exclude=("video2",))
    assert names(tmp_path, exclude=("video2",)) == ("video0", "video1")
    assert [video.with_objects for video in source] == [(1,), (0, 1, 2)]
    assert times_of(load(source, KEYS[0], max_gap=2))[0] == 5
    assert times_of(clips.load_photo(source[0], key=KEYS[0])) == [5]


@pytest.mark.parametrize("text", ["{", '{"videos": 3}', '{"videos": {"a": {}}}', "[]"])
def test_a_broken_meta_json_is_named(tmp_path, text):
    write_ytvos(tmp_path)
    (tmp_path / "train" / "meta.json").write_text(text)
    with pytest.raises(errors.VosError, match="meta.json: not a YouTube-VOS meta.json"):
        videos(tmp_path)


def test_photos_are_found_in_one_set_or_in_many(tmp_path, caplog):
    tiny_training.write_static(tmp_path / "horses", photos=2)
    tiny_training.write_static(tmp_path / "people", photos=3)
    (tmp_path / "people" / "masks" / "photo2.png").unlink()
    assert names(tmp_path / "horses") == ("photo0", "photo1")
    found = names(tmp_path, exclude=("horses/*1",))
    assert found == ("horses/photo0", "people/photo0", "people/photo1")
    assert "people/photo2 (no masks)" in caplog.text
    shutil.copy(tmp_path / "horses/images/photo0.png", tmp_path / "horses/images/photo0.webp")
    with pytest.raises(errors.VosError, match=r"photo0.webp: two photos are named 'horses/photo0'"):
        videos(tmp_path)


def test_wrong_sizes_are_named(tmp_path):
    tiny_training.write_davis(tmp_path, sequences=1, frames=2)
    mask = tmp_path / "Annotations" / "video0" / "00000.png"
    good = mask.read_bytes()
    tiny_training.write(mask, np.ones((24, 32), np.uint8))
    with pytest.raises(errors.VosError, match=r"video0: the mask of frame 0 is 32x24, its frame 64x48"):
        load(videos(tmp_path), KEYS[0])
    mask.write_bytes(good)
    tiny_training.write(tmp_path / "JPEGImages" / "video0" / "00001.png", np.zeros((50, 64, 3), np.uint8))
    with pytest.raises(errors.VosError, match="video0: frame 1 is 64x50, frame 0 64x48"):
        load(videos(tmp_path), KEYS[0])


@pytest.mark.parametrize("short_side", [48, 40, 24, 20])
def test_reduced_decoding_shrinks_the_frame_and_keeps_the_mask_aligned(tmp_path, short_side):
    tiny_training.write_davis(tmp_path, sequences=1, frames=2, suffix=".jpg", size=(96, 128))
    source = videos(tmp_path, short_side=short_side)
    view = load(source, KEYS[0])
    assert min(view.frames[0].shape[:2]) == short_side == min(view.size)
    clip = transforms.render(view)
    assert np.mean((clip.frames[0][..., 0] > 20) != (clip.ids[0] > 0)) < 0.06


def test_a_short_clip_has_invalid_frames():
    frame, ids = tiny_training.frame_and_ids(0, 0)
    clip = transforms.make_view((frame, frame + 1), (ids, None))
    example = clips.to_arrays(transforms.render(clip), num_objects=1, length=4, max_objects=3, dataset=2)
    assert {k: (v.shape, v.dtype.name) for k, v in example.items()} == {
        "frames": ((4, 48, 64, 3), "uint8"),
        "ids": ((4, 48, 64), "uint8"),
        "object_valid": ((3,), "bool"),
        "frame_valid": ((4,), "bool"),
        "truth_valid": ((4,), "bool"),
        "frame_size": ((2,), "int32"),
        "dataset": ((), "int32"),
        "instances": ((4, 48, 64), "uint8"),
        "instance_valid": ((8,), "bool"),
        "exhaustive": ((), "bool"),
        "origins": ((4, 3, 4, 3), "float32"),
    }
    np.testing.assert_array_equal(example["instances"], example["ids"])
    assert example["instance_valid"].sum() == 1
    assert example["frame_valid"].tolist() == [True, True, False, False]
    assert example["truth_valid"].tolist() == [True, False, False, False]
    np.testing.assert_array_equal(example["frames"][3], frame + 1)
    assert example["dataset"] == 2 and example["frame_size"].tolist() == [48, 64]


def test_all_instances_are_numbered_those_followed_first_and_those_beyond_capacity_are_ignored():
    labelled = [np.zeros((4, 10), np.uint8) for _ in range(2)]
    labelled[0][0, :9] = 9  # the largest
    labelled[0][1, :2] = 5  # followed
    labelled[0][2, :4] = 7
    labelled[1][3, :3] = 2  # enters late
    followed = [np.where(ids == 5, 1, 0).astype(np.uint8) for ids in labelled]
    (first, second, none), count = clips.number_instances([*labelled, None], [*followed, None], capacity=3)
    assert count == 3 and none is None
    assert {int(i): set(first[labelled[0] == i].tolist()) for i in (0, 5, 7, 9)} == {
        0: {0}, 5: {1}, 7: {3}, 9: {2}
    }  # fmt: skip
    assert set(second[3, :3].tolist()) == {clips.IGNORE}
    (first, second, _), count = clips.number_instances([*labelled, None], [*followed, None], capacity=8)
    assert count == 4 and set(second[3, :3].tolist()) == {4}
    assert clips.number_instances([None], [None], capacity=2) == ([None], 0)
