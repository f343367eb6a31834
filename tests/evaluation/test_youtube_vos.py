"""The YouTube-VOS table and which frames of an object count."""

import numpy as np
import pytest

from tests import layouts
from vos_jax.data import mask_files
from vos_jax.evaluation import scoring
from vos_jax.evaluation import youtube_vos as table


def scored(sequence, object_id, j, f):
    return {"sequence": sequence, "object": object_id, "J": j, "F": f}


def test_g_is_the_mean_of_the_four_by_hand():
    objects = [scored("a", 1, 0.8, 0.9), scored("a", 2, 0.4, 0.5), scored("b", 1, 0.6, 0.7)]
    found = table.summarise(objects, {("a", 1): True, ("a", 2): False, ("b", 1): True})
    assert found == pytest.approx(
        {"G": (0.7 + 0.4 + 0.8 + 0.5) / 4, "J_seen": 0.7, "J_unseen": 0.4, "F_seen": 0.8, "F_unseen": 0.5}
    )
    only_seen = table.summarise(objects[:1], {("a", 1): True})
    assert only_seen["G"] == pytest.approx(0.85) and only_seen["J_unseen"] is None
    assert set(table.summarise([], {}).values()) == {None}


def test_objects_count_after_their_first_frame_in_the_frames_required_of_them(tmp_path):
    root = layouts.youtube_vos(tmp_path, truth=True)
    every = str(root / "valid_all_frames")
    dataset = layouts.open_as("youtube_vos", root, split="valid", all_frames=every)
    for name in dataset.names:
        truth = {
            path.stem: mask_files.read_mask(path) for path in (root / "valid/Annotations" / name).iterdir()
        }
        # Wrong where it does not count: each object's first frame, and 7 before it is required.
        truth["00000"] = np.full_like(truth["00000"], 7)
        truth["00010"] = layouts.only(truth["00010"], 3)
        if name == "duck":
            truth["00025"] = layouts.only(truth["00025"], 7)
        layouts.write_masks(tmp_path / "results" / name, truth)
    scores = scoring.score_sequence(dataset["duck"], tmp_path / "results")
    assert {s.object_id: s.J.tolist() for s in scores} == {3: [1, 1, 1, 1, 0], 7: [1, 1, 1]}, (
        "unlike in DAVIS the last frame counts"
    )
    summary = scoring.score_folder(dataset, tmp_path / "results")
    assert (summary["J_seen"], summary["J_unseen"]) == (1.0, pytest.approx((1 + 0.8 + 1) / 3))
    assert summary["G"] == pytest.approx(
        np.mean([summary[k] for k in ("J_seen", "J_unseen", "F_seen", "F_unseen")])
    )
