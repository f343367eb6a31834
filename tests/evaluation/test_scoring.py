"""Scoring: which frames and objects count, means over objects, and results that must be refused."""

import dataclasses
import json

import numpy as np
import pytest

from tests import layouts
from vos_jax import errors
from vos_jax.data import datasets, mask_files
from vos_jax.data import video as video_lib
from vos_jax.evaluation import scoring

SIZE = (12, 16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskVideo(video_lib.Video):
    """A video in memory: `truth[i]` is frame i's mask, or None."""

    truth: list[np.ndarray | None]
    size: tuple[int, int] = SIZE

    def frame(self, index):
        raise AssertionError("no frame is needed")

    def mask(self, index):
        return self.truth[index]


def make_video(truth, name="cat", prompt_rule="first_frame", **options):
    return MaskVideo(
        name=name,
        frame_names=tuple(f"{i:05d}" for i in range(len(truth))),
        annotated=tuple(i for i, ids in enumerate(truth) if ids is not None),
        prompt_rule=prompt_rule,
        truth=truth,
        **options,
    )


def make_dataset(*videos):
    named = {video.name: video for video in videos}
    return datasets.VideoDataset(
        name="lists", split="all", names=tuple(named), open_video=named.__getitem__, listing="lists"
    )


def plane(**columns):
    """ids with object `oK` in the columns of slice `columns['oK']`."""
    ids = np.zeros(SIZE, np.uint8)
    for name, columns_of in columns.items():
        ids[:, columns_of] = int(name[1:])
    return ids


A = plane(o1=slice(0, 4), o3=slice(8, 12))
ONLY_1, ONLY_3, NONE = plane(o1=slice(0, 4)), plane(o3=slice(8, 12)), plane()


def in_memory(planes):
    return {f"{i:05d}": ids for i, ids in enumerate(planes)}


def write_results(folder, planes, name="cat"):
    (folder / name).mkdir(parents=True)
    for frame_name, ids in in_memory(planes).items():
        mask_files.write_mask(folder / name / f"{frame_name}.png", ids)
    return folder


def message_of(call):
    with pytest.raises(errors.VosError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_ids_present_are_scored_and_first_and_last_frame_are_not():
    # Object 3 is lost in frame 2; frames 0 and 4 are wrong but do not count.
    scores = scoring.score_sequence(make_video([A] * 5), in_memory([NONE, A, ONLY_1, A, NONE]))
    assert [(s.sequence, s.object_id) for s in scores] == [("cat", 1), ("cat", 3)]
    assert scores[0].J.tolist() == [1, 1, 1] and scores[0].F.tolist() == [1, 1, 1]
    assert scores[1].J.tolist() == [1, 0, 1] and scores[1].F.tolist() == [1, 0, 1]


def test_an_object_that_is_gone_counts_as_right_if_nothing_is_predicted():
    scores = scoring.score_sequence(make_video([A, ONLY_1, ONLY_1, A]), in_memory([A, ONLY_1, A, A]))
    assert scores[1].J.tolist() == [1, 0] and scores[1].F.tolist() == [1, 0]


def test_objects_that_come_late_are_scored_after_their_first_frame():
    video = make_video([ONLY_1, A, A, A, A], prompt_rule="first")
    scores = scoring.score_sequence(video, in_memory([ONLY_1, ONLY_1, A, A, A]))
    assert [len(s.J) for s in scores] == [3, 2] and scores[1].J.tolist() == [1, 1]


def test_frames_without_annotation_are_not_scored():
    scores = scoring.score_sequence(make_video([A, None, A, None, A]), in_memory([A] * 5))
    assert [len(s.J) for s in scores] == [1, 1]


def test_merged_objects_take_any_id():
    truth = (A > 0).astype(np.uint8)
    video = make_video([truth] * 3, merge_objects=True)
    (score,) = scoring.score_sequence(video, in_memory([A * 9] * 3))
    assert (score.object_id, score.J.tolist()) == (1, [1])


def test_results_on_disk_score_as_in_memory(tmp_path):
    planes = [A, ONLY_1, np.roll(A, 1, 1), A, ONLY_3]
    video = make_video([A] * 5)
    folder = write_results(tmp_path, planes)
    for a, b in zip(
        scoring.score_sequence(video, folder), scoring.score_sequence(video, in_memory(planes)), strict=True
    ):
        np.testing.assert_array_equal(a.J, b.J)
        np.testing.assert_array_equal(a.F, b.F)


def test_the_mean_is_over_objects_not_sequences():
    two = scoring.score_sequence(make_video([A] * 4), in_memory([A] * 4))
    one = scoring.score_sequence(make_video([ONLY_1] * 4, name="dog"), in_memory([NONE] * 4))
    table = scoring.summarise([*two, *one])
    assert table["J"] == {"mean": pytest.approx(2 / 3), "recall": pytest.approx(2 / 3), "decay": 0}
    assert table["F"]["mean"] == pytest.approx(2 / 3) and table["G"] == pytest.approx(2 / 3)
    assert table["objects"] == [
        {"sequence": "cat", "object": 1, "J": 1, "F": 1},
        {"sequence": "cat", "object": 3, "J": 1, "F": 1},
        {"sequence": "dog", "object": 1, "J": 0, "F": 0},
    ]
    json.dumps(table, allow_nan=False)


@pytest.mark.parametrize("length", [1, 2])
def test_videos_too_short_to_score(length):
    short = scoring.score_sequence(make_video([A] * length), in_memory([A] * length))
    assert [s.J.size for s in short] == [0, 0]
    nothing = scoring.summarise(short)
    assert nothing["G"] is None and nothing["objects"] == []
    assert nothing["J"] == nothing["F"] == {"mean": None, "recall": None, "decay": None}
    json.dumps(nothing, allow_nan=False)
    long = scoring.score_sequence(make_video([A] * 3, name="dog"), in_memory([A] * 3))
    assert scoring.summarise([*short, *long])["G"] == 1


@pytest.mark.parametrize("index", [1, 2, 3])
def test_surplus_ids_are_refused_by_file(tmp_path, index):
    planes = [A] * 5
    planes[index] = plane(o1=slice(0, 4), o2=slice(5, 6), o7=slice(8, 12))
    folder = write_results(tmp_path, planes)
    message = message_of(lambda: scoring.score_sequence(make_video([A] * 5), folder))
    assert f"cat/{index:05d}.png: object id(s) 2, 7" in message and "'cat' has 1, 3" in message


def test_missing_results_in_memory_are_refused():
    message = message_of(lambda: scoring.score_sequence(make_video([A] * 3), in_memory([A])))
    assert "cat/00001" in message
    message = message_of(lambda: scoring.score_sequence(make_video([A] * 3), in_memory([A[:-1]] * 3)))
    assert "cat/00001" in message and "(11, 16)" in message


def test_score_folder(tmp_path):
    write_results(tmp_path, [A, A, ONLY_1, A], "cat")
    write_results(tmp_path, [A] * 3, "dog")
    source = make_dataset(make_video([A] * 4, "cat"), make_video([A] * 3, "dog"))
    seen = []
    table = scoring.score_folder(
        source, tmp_path, on_sequence=lambda name, scores: seen.append((name, len(scores)))
    )
    assert seen == [("cat", 2), ("dog", 2)]
    assert [(o["sequence"], o["object"], o["J"]) for o in table["objects"]] == [
        ("cat", 1, 1.0),
        ("cat", 3, 0.5),
        ("dog", 1, 1.0),
        ("dog", 3, 1.0),
    ]


def refused_before_scoring(tmp_path, monkeypatch, videos):
    def score(*_):
        raise AssertionError("scoring began")

    monkeypatch.setattr(scoring, "score_sequence", score)
    return message_of(lambda: scoring.score_folder(make_dataset(*videos), tmp_path))


@pytest.mark.parametrize("index", [1, 2])
def test_missing_frames_are_named_before_scoring(tmp_path, monkeypatch, index):
    for name in ("cat", "dog"):
        write_results(tmp_path, [A] * 4, name)
    (tmp_path / f"dog/{index:05d}.png").unlink()
    message = refused_before_scoring(tmp_path, monkeypatch, [make_video([A] * 4, n) for n in ("cat", "dog")])
    assert f"dog/{index:05d}.png: missing; 1 of the 2 scored frames of 'dog'" in message


def test_missing_sequence_is_named_before_scoring(tmp_path, monkeypatch):
    write_results(tmp_path, [A] * 4, "cat")
    message = refused_before_scoring(tmp_path, monkeypatch, [make_video([A] * 4, n) for n in ("cat", "dog")])
    assert "no results for sequence 'dog'" in message and "has cat" in message


def test_wrong_size_and_truncated_results_are_named_before_scoring(tmp_path, monkeypatch):
    write_results(tmp_path, [A, A[:-1], A], "cat")
    message = refused_before_scoring(tmp_path, monkeypatch, [make_video([A] * 3)])
    assert "cat/00001.png" in message and "16x11" in message and "16x12" in message
    path = tmp_path / "cat/00001.png"
    path.write_bytes(path.read_bytes()[:-8])
    message = refused_before_scoring(tmp_path, monkeypatch, [make_video([A] * 3)])
    assert "00001.png" in message and "truncated" in message


def test_no_results_folder(tmp_path):
    assert "no such folder" in message_of(lambda: scoring.score_folder(make_dataset(), tmp_path / "none"))


def test_pool_keeps_the_order_of_submission_and_passes_errors_on():
    with scoring.ScorePool(2) as pool:
        for name in ("cat", "dog", "cow"):
            future = pool.submit(make_video([A] * 4, name), in_memory([A] * 4))
        assert [s.sequence for s in pool.scores()] == ["cat", "cat", "dog", "dog", "cow", "cow"]
        assert [s.object_id for s in future.result()] == [1, 3]
        assert pool.seconds > 0
        pool.submit(make_video([A] * 4, "bad"), in_memory([]))
        assert "bad/00001" in message_of(pool.scores)


def test_pool_without_workers_is_refused():
    assert "workers" in message_of(lambda: scoring.ScorePool(0))


def test_truth_as_result_scores_1_on_real_data(shared_data):
    source = layouts.open_as("davis", shared_data / "DAVIS", year=2016, sequences=("blackswan",))
    table = scoring.score_folder(source, shared_data / "DAVIS/Annotations/480p")
    assert table["G"] == 1 and table["J"]["decay"] == 0 and len(table["objects"]) == 1
