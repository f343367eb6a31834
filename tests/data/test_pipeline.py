"""The stream of batches: the same for any workers and processes, resumable, and robust to broken files."""

import dataclasses
import logging
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from tests.data import tiny_training
from vos_jax import errors
from vos_jax.data import augmentation, clips, datasets, paste, pipeline, transforms
from vos_jax.data import config as data_config

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("training")
    tiny_training.write_davis(root / "davis", sequences=5, frames=8)
    tiny_training.write_static(root / "static", photos=6)
    return root


def config(*sources: datasets.SourceConfig, **options) -> data_config.ClipDataConfig:
    defaults = {"crop": 32, "batch": 4, "max_objects": 2, "threads": 1}
    return data_config.ClipDataConfig(sources=tiny_training.drawn(*sources), **(defaults | options))


def davis(root, **options) -> datasets.SourceConfig:
    return datasets.SourceConfig(root=str(root), **options)


def static(root, **options) -> datasets.SourceConfig:
    return datasets.SourceConfig(root=str(root), **options)


def make_pipeline(settings: data_config.ClipDataConfig, **options) -> pipeline.BatchIterator:
    return pipeline.make_pipeline(settings, **{"dataset_names": ("default",), **options})


def take(settings: data_config.ClipDataConfig, count: int, **options) -> list[pipeline.Batch]:
    iterator = make_pipeline(settings, **options)
    batches = [next(iterator) for _ in range(count)]
    iterator.close()
    return batches


def assert_same(first: list[pipeline.Batch], second: list[pipeline.Batch]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def joined(parts: list[list[pipeline.Batch]]) -> list[pipeline.Batch]:
    """The global batches of several processes' parts."""
    return [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]


def test_batches_have_static_shapes_and_real_content(data):
    settings = config(davis(data / "davis"), static(data / "static"))
    for batch in take(settings, 4):
        assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
            "frames": ((4, 3, 32, 32, 3), "uint8"),
            "ids": ((4, 3, 32, 32), "uint8"),
            "object_valid": ((4, 2), "bool"),
            "frame_valid": ((4, 3), "bool"),
            "truth_valid": ((4, 3), "bool"),
            "frame_size": ((4, 2), "int32"),
            "dataset": ((4,), "int32"),
            "instances": ((4, 3, 32, 32), "uint8"),
            "instance_valid": ((4, 8), "bool"),
            "exhaustive": ((4,), "bool"),
            "origins": ((4, 3, 2, 2, 3), "float32"),
        }
        counts = batch["object_valid"].sum(1)
        assert counts.min() >= 1 and batch["frame_valid"].all() and batch["truth_valid"].all()
        for ids, count in zip(batch["ids"], counts, strict=True):
            assert set(np.unique(ids[0])) - {0} == set(range(1, count + 1))
            assert ids.max() <= count


def test_the_same_seed_gives_the_same_stream_and_another_seed_another(data):
    settings = config(davis(data / "davis"), static(data / "static"))
    first = take(settings, 3)
    assert_same(first, take(dataclasses.replace(settings, threads=3), 3))
    other = take(settings, 3, seed=1)
    assert any(np.any(a["frames"] != b["frames"]) for a, b in zip(first, other, strict=True))
    assert np.any(first[0]["frames"] != first[1]["frames"])


def test_two_workers_give_the_stream_of_none(data):
    settings = config(davis(data / "davis"), static(data / "static"))
    assert_same(take(settings, 5), take(dataclasses.replace(settings, workers=2), 5))


def test_processes_share_the_global_batch_in_order(data):
    settings = config(davis(data / "davis"), static(data / "static", weight=0.5))
    whole = take(settings, 4)
    assert_same(whole, joined([take(settings, 4, process_index=p, process_count=2) for p in range(2)]))


def test_one_clip_per_process_overflowed_the_length_of_the_stream(data):
    """2^63 - 1 batches, rounded up as a float, fit no index."""
    settings = config(davis(data / "davis"), batch=2)
    parts = [take(settings, 2, process_index=p, process_count=2) for p in range(2)]
    assert_same(take(settings, 2), joined(parts))
    (single,) = take(dataclasses.replace(settings, batch=1), 1)
    np.testing.assert_array_equal(single["frames"], parts[0][0]["frames"])


def test_every_sequence_is_seen_once_per_epoch(data):
    settings = config(davis(data / "davis"), batch=5)
    for batch in take(settings, 6):
        # Blue is 10 × the number of the sequence, everywhere in a frame.
        assert sorted(np.rint(batch["frames"][:, 0, 0, 0, 2] / 10).astype(int)) == [0, 1, 2, 3, 4]


def test_a_sequence_that_comes_again_is_drawn_anew(data):
    settings = config(davis(data / "davis", sequences=("video0",)), batch=2)
    batches = take(settings, 3)
    clips_seen = {clip.tobytes() for batch in batches for clip in batch["frames"]}
    assert len(clips_seen) == 6


def test_held_back_sequences_never_appear(data):
    settings = config(davis(data / "davis", exclude=("video0", "video3")), batch=6)
    seen = {int(v) for b in take(settings, 4) for v in np.rint(b["frames"][..., 2] / 10).ravel()}
    assert seen == {1, 2, 4}


def test_mixture_follows_the_weights(data):
    names = ("default", "davis", "photos")
    settings = config(
        davis(data / "davis", weight=3.0, dataset_name="davis"),
        static(data / "static", weight=1.0, dataset_name="photos"),
    )
    batches = take(settings, 10, dataset_names=names)
    drawn = np.concatenate([batch["dataset"] for batch in batches])
    assert np.bincount(drawn, minlength=3).tolist() == [0, 30, 10]


def test_gap_follows_the_step_not_the_process(data):
    still = augmentation.Augmentation(temporal_flip=transforms.TemporalFlip(prob=0.0))
    settings = config(
        davis(data / "davis"),
        batch=6,
        augmentation=still,
        gap=clips.GapSchedule(start=0, end=2, begin_step=3, end_step=4),
    )
    for process in range(2):
        for step, batch in enumerate(take(settings, 8, process_index=process, process_count=2)):
            steps = np.diff(np.rint(batch["frames"][:, :, 0, 0, 1] / 10).astype(int))
            assert steps.max() == 1 if step <= 3 else steps.max() <= 3
            assert step <= 3 or steps.min() >= 1
    late = np.concatenate([b["frames"][:, :, 0, 0, 1] for b in take(settings, 10)[4:]])
    assert np.diff(np.rint(late / 10).astype(int)).max() == 3


def test_a_saved_position_continues_exactly_with_other_workers_and_processes(data, tmp_path):
    settings = config(davis(data / "davis"), static(data / "static"))
    whole = take(settings, 6)
    iterator = make_pipeline(settings)
    for _ in range(3):
        next(iterator)
    with ocp.training.Checkpointer(tmp_path / "run") as checkpointer:
        checkpointer.save_checkpointables(3, {"data": iterator})
    iterator.close()

    restored = make_pipeline(dataclasses.replace(settings, threads=2))
    with ocp.training.Checkpointer(tmp_path / "run") as checkpointer:
        checkpointer.load_checkpointables(3, {"data": restored})
    position = restored.get_state()
    assert position.items() >= {"step": 3, "drawn": 12, "unreadable": 0, "unusable": 0}.items()
    with pytest.raises(errors.VosError, match="position in the training data was altered"):
        restored.set_state(position | {"step": 2})
    assert restored.get_state() == position
    assert_same(whole[3:], [next(restored) for _ in range(3)])
    restored.set_state({"step": 1, "drawn": 4, "unreadable": 0, "unusable": 0})
    assert_same(whole[1:2], [next(restored)])
    restored.close()

    half = make_pipeline(settings, process_index=1, process_count=2)
    half.set_state({"step": 5, "drawn": 20, "unreadable": 0, "unusable": 0})
    np.testing.assert_array_equal(next(half)["frames"], whole[5]["frames"][2:])
    half.close()


def test_a_checkpoint_of_two_processes_is_restored_by_one(data, tmp_path):
    settings = config(davis(data / "davis"))
    iterator = make_pipeline(settings)
    next(iterator)
    with ocp.training.Checkpointer(tmp_path / "run") as checkpointer:
        checkpointer.save_checkpointables(1, {"data": iterator})
        (saved,) = (tmp_path / "run").glob("**/process_0-of-1.json")
        saved.rename(saved.with_name("process_0-of-2.json"))
        fresh = make_pipeline(settings)
        checkpointer.load_checkpointables(1, {"data": fresh})
    np.testing.assert_array_equal(next(fresh)["frames"], next(iterator)["frames"])


def broken_davis(root: pathlib.Path, *, sequences: int, broken: tuple[int, ...]) -> pathlib.Path:
    tiny_training.write_davis(root, sequences=sequences, frames=4)
    for number in broken:
        for path in (root / "JPEGImages" / f"video{number}").iterdir():
            path.write_bytes(path.read_bytes()[:40])
    return root


def test_an_unreadable_item_gives_way_to_the_next_and_is_counted_and_named(tmp_path, caplog):
    settings = config(davis(broken_davis(tmp_path, sequences=5, broken=(2, 3))), batch=5, max_unreadable=1.0)
    iterator = make_pipeline(settings)
    with caplog.at_level(logging.WARNING):
        batches = [next(iterator) for _ in range(4)]
    seen = [sorted(np.rint(b["frames"][:, 0, 0, 0, 2] / 10).astype(int).tolist()) for b in batches]
    assert seen == [[0, 1, 4, 4, 4]] * 4
    assert (iterator.drawn, iterator.unreadable, iterator.unusable) == (20, 3 * 4, 0)
    assert "video2: " in caplog.text and ".png" in caplog.text and "truncated" in caplog.text
    iterator.close()
    assert_same(batches, take(settings, 4))


def test_more_than_one_percent_unreadable_stops_by_name(tmp_path):
    root = broken_davis(tmp_path, sequences=12, broken=(7,))
    iterator = make_pipeline(config(davis(root)))
    with pytest.raises(errors.VosError, match=r"3 of \d+ training items .* more than 1%; .*video7"):
        for _ in range(40):
            next(iterator)
    assert iterator.step > 3
    iterator.close()


def test_no_readable_item_at_all_is_an_error(tmp_path):
    iterator = make_pipeline(config(davis(broken_davis(tmp_path, sequences=2, broken=(0, 1)))))
    with pytest.raises(errors.VosError, match=r"no usable training item, last: video\d: .*00000.png"):
        next(iterator)
    iterator.close()


def test_sequences_without_objects_are_skipped_and_do_not_stop_a_run(tmp_path, caplog):
    tiny_training.write_davis(tmp_path, sequences=3)
    tiny_training.write_sequence(tmp_path, "video1", 1, holding=set())
    iterator = make_pipeline(config(davis(tmp_path), batch=3))
    batches = [next(iterator) for _ in range(5)]
    assert (iterator.unreadable, iterator.unusable) == (0, 5)
    assert "video1: no annotated frame" in caplog.text and caplog.text.count("video1") == 1
    assert all(batch["object_valid"].any(1).all() for batch in batches)
    iterator.close()


def test_video_frames_can_make_pseudo_clips(data):
    (batch,) = take(config(davis(data / "davis", pseudo=True)), 1)
    # One frame each: the colour that tells the time is the same in all three.
    times = np.rint(batch["frames"][:, :, 0, 0, 1] / 10)
    np.testing.assert_array_equal(times, times[:, :1].repeat(3, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": {}}, "nothing to train on"),
        ({"clip_length": 1}, "clip_length is 1; it must be at least 2"),
        ({"batch": 3}, "a batch of 3 clips does not divide among 2 processes"),
        ({"max_objects": 0}, "max_objects is 0"),
    ],
)
def test_impossible_values_are_refused(data, change, message):
    with pytest.raises(errors.VosError, match=message):
        make_pipeline(dataclasses.replace(config(davis(data / "davis")), **change), process_count=2)


def test_a_source_of_an_unknown_data_set_is_refused(data):
    with pytest.raises(errors.VosError, match="sources.0.dataset_name is 'default'; there are davis"):
        make_pipeline(config(davis(data / "davis")), dataset_names=("davis",))


def test_making_examples_initialises_no_jax_backend(data):
    program = f"""
from vos_jax.data import datasets, pipeline
from vos_jax.data import config as data_config
source = datasets.SourceConfig(root={str(data / "static")!r}, weight=1.0)
config = data_config.ClipDataConfig(sources={{"photos": source}}, crop=32, batch=2)
next(pipeline.make_pipeline(config, dataset_names=("default",)))
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_real_data_gives_full_batches(shared_data):
    settings = data_config.ClipDataConfig(
        sources=tiny_training.drawn(
            davis(shared_data / "davis2016-train-360p", exclude=("dog-agility", "swing")),
            static(shared_data / "static"),
        ),
        batch=8,
    )
    batches = take(settings, 3)
    for batch in batches:
        assert batch["frames"].shape == (8, 3, 352, 352, 3)
        assert batch["object_valid"].any(1).all() and batch["frame_valid"].all()
        assert (batch["frames"].std(axis=(1, 2, 3, 4)) > 5).all()
    assert max(batch["object_valid"].sum(1).max() for batch in batches) >= 2


PASTE = paste.Paste(prob=1.0, min_pixels=20, size=(0.3, 0.6), behind=0.0)


def test_pasted_objects_come_of_other_sequences_for_any_workers_and_position(data):
    settings = config(davis(data / "davis"), static(data / "static"), paste=PASTE, max_objects=4)
    batches = take(settings, 4)
    assert_same(batches, take(dataclasses.replace(settings, workers=2), 4))
    iterator = make_pipeline(settings)
    iterator.set_state({"step": 2, "drawn": 8, "unreadable": 0, "unusable": 0})
    assert_same(batches[2:], [next(iterator) for _ in range(2)])
    iterator.close()
    strange = 0
    for batch in batches:
        for frames, ids in zip(batch["frames"], batch["ids"], strict=True):
            # Blue is 10 × the number of the sequence; a photo and a video may share a number.
            sequence = np.median(frames[0][ids[0] == 0][:, 2])
            strange += np.any(np.abs(frames[0][ids[0] > 0][:, 2].astype(int) - sequence) > 4)
    assert strange >= 10
    plain = take(dataclasses.replace(settings, paste=paste.Paste()), 1)
    assert np.any(plain[0]["frames"] != batches[0]["frames"])


def test_clips_with_frames_that_lack_truth_are_not_pasted_over(tmp_path):
    tiny_training.write_davis(tmp_path, annotated={0, 3})
    source = davis(tmp_path, unannotated=True)
    for with_paste, without in zip(
        take(config(source, paste=PASTE), 3), take(config(source), 3), strict=True
    ):
        partly = ~with_paste["truth_valid"].all(1)
        assert partly.any()
        np.testing.assert_array_equal(with_paste["frames"][partly], without["frames"][partly])


def test_objects_that_are_dropped_remain_instances(tmp_path):
    tiny_training.write_davis(tmp_path, objects=2)
    objects = transforms.SelectObjects(drop=1.0, min_pixels=1)
    settings = config(davis(tmp_path), augmentation=augmentation.Augmentation(objects=objects), crop=48)
    for batch in take(settings, 3):
        # A crop may hold one of the two.
        assert (batch["object_valid"].sum(1) == 1).all() and 2 in batch["instance_valid"].sum(1)
        # The colours say what is an object: red is 40 × its id.
        shown = batch["frames"][..., 0] > 30
        wrong = {name: np.mean(shown != (batch[name] > 0)) for name in ("instances", "ids")}
        assert wrong["instances"] < min(0.06, wrong["ids"])
        assert batch["exhaustive"].all()


def test_sequences_whose_labels_are_partial_say_so(data):
    (batch,) = take(config(davis(data / "davis", partial=("video[13]",)), batch=5), 1)
    sequence = np.rint(batch["frames"][:, 0, 0, 0, 2] / 10)
    np.testing.assert_array_equal(batch["exhaustive"], (sequence != 1) & (sequence != 3))
    with pytest.raises(errors.VosError, match="no sequence matches 'vidoe"):
        make_pipeline(config(davis(data / "davis", partial=("vidoe*",))))
