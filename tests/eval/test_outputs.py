"""The files that eval.py writes and the lines that it prints."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.eval import runs
from vos_jax.data import mask_files
from vos_jax.data.datasets import rendered


def test_outputs_follow_the_contract(davis, tmp_path, copy_model, capsys):
    out = tmp_path / "out"
    assert runs.run(davis, out) == 0
    results = runs.results_of(out)
    assert list(results) == [
        *(
            "dataset",
            "split",
            "G",
            "J",
            "F",
            "objects",
            "frames",
            "fps",
            "fps_inference",
            "peak_memory_mb",
            "seconds",
            "device",
            "checkpoint",
            "config",
            "presence",
        )
    ]
    assert (results["dataset"], results["split"], results["frames"]) == ("davis2017", "val", 2 * runs.FRAMES)
    assert set(results["J"]) == set(results["F"]) == {"mean", "recall", "decay"}
    assert set(results["seconds"]) == {"compile", "adaptation", "inference", "other", "score"}
    assert [(o["sequence"], o["object"]) for o in results["objects"]] == [
        (s, o) for s in ("ant", "bee") for o in (1, 2, 3)
    ]
    assert 0 < results["G"] < 1 and results["G"] == pytest.approx(
        (results["J"]["mean"] + results["F"]["mean"]) / 2
    )
    assert results["J"]["mean"] == pytest.approx(np.mean([o["J"] for o in results["objects"]]))
    assert results["fps"] > 0 and results["checkpoint"] == "copy" and results["device"]
    assert results["config"]["model.memory.every"] == 5
    printed = capsys.readouterr().out
    assert "ant " in printed and "bee " in printed and f"{results['G']:.3f}" in printed


def test_masks_are_indexed_pngs_named_like_the_frames(davis, tmp_path, copy_model):
    for path in (davis / "JPEGImages/480p/ant").iterdir():
        path.rename(path.with_stem(f"shot{path.stem}"))
    for path in (davis / "Annotations/480p/ant").iterdir():
        path.rename(path.with_stem(f"shot{path.stem}"))
    out = tmp_path / "out"
    assert runs.run(davis, out, "--sequences", "ant") == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "ant",
        "files.jsonl",
        *runs.CSV,
        "results.json",
        "run.json",
    ]
    assert sorted(p.name for p in (out / "ant").iterdir()) == [f"shot{i:05d}.png" for i in range(runs.FRAMES)]
    with Image.open(out / "ant" / "shot00003.png") as image:
        assert image.mode == "P" and image.size == runs.SIZE[::-1]
        assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]


def test_scores_are_those_of_the_truth(davis, tmp_path, copy_model, monkeypatch):
    """A sequence that stands still is followed perfectly by copying its first mask."""
    truth = davis / "Annotations/480p/ant"
    for path in truth.iterdir():
        shutil.copy(truth / "00000.png", path) if path.name != "00000.png" else None
    out = tmp_path / "out"
    assert runs.run(davis, out, "--sequences", "ant") == 0
    results = runs.results_of(out)
    assert results["G"] == 1.0 and results["J"] == results["F"] == {"mean": 1.0, "recall": 1.0, "decay": 0.0}


def test_davis16_merges_the_objects(davis, tmp_path, copy_model):
    (davis / "ImageSets/2016").mkdir()
    shutil.copy(davis / "ImageSets/2017/val.txt", davis / "ImageSets/2016/val.txt")
    assert runs.run(davis, tmp_path / "out", config="davis16") == 0
    assert [(o["sequence"], o["object"]) for o in runs.results_of(tmp_path / "out")["objects"]] == [
        ("ant", 1),
        ("bee", 1),
    ]
    assert set(np.unique(mask_files.read_mask(tmp_path / "out/ant/00000.png"))) == {0, 1}


def test_overlay_draws_a_video_and_a_contact_sheet(davis, tmp_path, copy_model, capsys):
    out = tmp_path / "out"
    assert runs.run(davis, out, "--sequences", "bee", "--overlay") == 0
    assert sorted(p.name for p in (out / "overlays").iterdir()) == ["bee.mp4", "bee.png"]
    with Image.open(out / "overlays/bee.png") as sheet:
        assert sheet.width > 500
    assert str(out / "overlays" / "bee.png") in capsys.readouterr().out


def test_without_truth_masks_are_written_and_nothing_is_scored(davis, tmp_path, copy_model, capsys):
    for path in (davis / "Annotations/480p").glob("*/*.png"):
        if path.stem != "00000":
            path.unlink()
    out = tmp_path / "out"
    assert runs.run(davis, out) == 0
    assert len(runs.times(out)) == 2 * runs.FRAMES
    results = runs.results_of(out)
    assert results["G"] is None and results["objects"] == [] and results["fps"] > 0
    assert "nothing to score" in capsys.readouterr().out


def test_training_free_model_follows_the_rendered_objects(tmp_path):
    """The real model, end to end: far better than standing still, and one compilation serves both videos."""
    davis = rendered.write_davis(
        tmp_path / "DAVIS", sequences=("ant", "bee"), frames=14, size=(160, 288), objects=2
    )
    out = tmp_path / "out"
    # These objects are small; enlarging the frames would do as well, and take longer.
    finer = "--config.model.training_free.stride=8", "--config.inference.min_size=0"
    assert runs.run(davis, out, "--checkpoint", "none", "--device", "cpu", *finer) == 0
    results = runs.results_of(out)
    still = []
    for name in ("ant", "bee"):
        truth = [mask_files.read_mask(path) for path in sorted((davis / "Annotations/480p" / name).iterdir())]
        for object_id in (1, 2):
            first = truth[0] == object_id
            still += [
                np.mean(first & (ids == object_id)) / np.mean(first | (ids == object_id))
                for ids in truth[1:-1]
            ]
    assert results["J"]["mean"] > max(0.6, np.mean(still) + 0.2)
    assert results["checkpoint"].startswith("none") and results["device"] == "cpu"
    noted = json.loads((out / "run.json").read_text())["videos"]
    compiled = {name: noted[name]["summary"]["seconds"]["compile"] for name in ("ant", "bee")}
    assert compiled["ant"] > 0 and compiled["bee"] == 0


@pytest.mark.parametrize("option", ["--batch-videos", "--batch_videos"])
def test_videos_that_are_segmented_together_are_all_written(davis, tmp_path, copy_model, option, capsys):
    out = tmp_path / "out"
    assert runs.run(davis, out, option, 2) == 0
    assert len(copy_model.segmented) == 2 and sum(copy_model.segmented) == 2 * runs.FRAMES
    assert runs.results_of(out)["frames"] == 2 * runs.FRAMES
    assert runs.run(davis, out, option, 0) == 2
    assert "--batch-videos" in capsys.readouterr().err
