"""benchmarks.same_as compares to the bit, by names that may have changed, and leaves nothing out."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import outputs, same_as, same_as_jobs

RENAMES = {
    "memory": "model.memory",
    "memory.topk": "model.read.topk",
    "model.read=shared": "model.read.weight=none",
    "--adapt": "--steps",
}


def test_masks_differ_by_pixels():
    mask = np.zeros((4, 5), np.uint8)
    other = mask.copy()
    other[1, 2:4] = 7
    assert str(outputs.compare({"a.png": mask}, {"a.png": mask.copy()})) == "same"
    found = outputs.compare({"a.png": mask, "b.png": mask}, {"a.png": mask, "b.png": other}, tolerance=1.0)
    assert (found.pixels, found.values, found.example) == (2, 0, "b.png")
    assert str(found) == "2 pixels differ, first b.png"
    colours = np.zeros((4, 5, 3), np.uint8)
    colours[0, 0] = 1
    assert outputs.compare({"a.png": colours}, {"a.png": colours * 0}).pixels == 1
    assert outputs.compare({"a.png": mask}, {"a.png": mask[:3]}).pixels == 20, "another size"


def test_what_is_missing_differs():
    mask = np.zeros((4, 5), np.uint8)
    for base, here in (({"a.png": mask, "x": 1}, {"x": 1}), ({"x": 1}, {"x": 1, "y": 2.0}), ({}, {})):
        for found in (outputs.compare(base, here, 1.0), outputs.compare(here, base, 1.0)):
            assert found.pixels + found.values > 0 and found.example


def test_numbers_differ_by_a_share_of_their_group():
    base = {"gradient 0/a": np.array([100.0, 1.0], np.float32), "gradient 0/b": np.array([0.5], np.float32)}
    here = {**base, "gradient 0/b": np.array([0.5001], np.float32)}
    found = outputs.compare(base, here)
    assert found.values == 1 and found.largest == pytest.approx(1e-6, rel=0.01)
    assert str(found) == "1 values differ by up to 1.0e-06, first gradient 0/b"
    assert str(outputs.compare(base, here, 1e-5)) == "same to 1.0e-06"
    assert outputs.compare({"J": 0.5}, {"J": np.nextafter(0.5, 1)}).values == 1
    assert outputs.compare({"J": float("nan")}, {"J": float("nan")}).example == ""
    for value in (float("nan"), float("inf"), None, 1, "0.5"):
        assert outputs.compare({"J": 0.5}, {"J": value}, 1e-3).values == 1, value
    narrow = {name: array.astype(np.float16) for name, array in base.items()}
    assert outputs.compare(base, narrow).values, "another type"


def test_settings_have_the_names_of_each_tree():
    line = ["--config", "demo", "--adapt", "3", "--config.memory.topk=5", "--config.memory.every=1", "memory"]
    assert same_as.translate(line, RENAMES) == [
        *("--config", "demo", "--steps", "3"),
        *("--config.model.read.topk=5", "--config.model.memory.every=1", "memory"),
    ]
    assert same_as.translate(["--config.model.read=shared"], RENAMES) == ["--config.model.read.weight=none"]
    assert same_as.translate(["--config.model.read=topk", "--adapt=3"], {}) == [
        "--config.model.read=topk",
        "--adapt=3",
    ]


def test_flattened_configs_get_their_first_names_back():
    found = {"demo/model.memory.every": 5, "demo/model.read.topk": 32, "demo/model.read.weight": "none"}
    assert same_as.original(found, RENAMES) == {
        "demo/memory.every": 5,
        "demo/memory.topk": 32,
        "demo/model.read": "shared",
    }
    assert same_as.original(found, {}) == found


def test_outputs_are_read_without_times_and_places(tmp_path):
    (tmp_path / "results/dog").mkdir(parents=True)
    Image.fromarray(np.full((2, 3), 5, np.uint8)).save(tmp_path / "results/dog/00000.png")
    results = {"J": {"mean": 0.5}, "objects": [{"J": 1.0}], "fps": 3.0, "config": {"seed": 0}}
    (tmp_path / "results/results.json").write_text(json.dumps(results))
    np.savez(tmp_path / "found.npz", gradient=np.ones(2, np.float32))
    (tmp_path / "found.json").write_text('{"loss 0": 1.5}')
    (tmp_path / "log").write_text("never the same")
    found = outputs.read(tmp_path)
    np.testing.assert_array_equal(found.pop("results/dog/00000.png"), np.full((2, 3), 5))
    np.testing.assert_array_equal(found.pop("gradient"), np.ones(2))
    assert found == {
        "results/results.json/J/mean": 0.5,
        "results/results.json/objects/0/J": 1.0,
        "loss 0": 1.5,
    }


def test_kept_outputs_are_those_of_the_same_job(tmp_path):
    (tmp_path / "same_as.json").write_text('{"program": "eval.py", "seconds": 2.5}')
    assert same_as.kept_seconds(tmp_path, {"program": "eval.py"}) == 2.5
    assert same_as.kept_seconds(tmp_path, {"program": "train.py"}) is None
    assert same_as.kept_seconds(tmp_path / "none", {}) is None


def test_unknown_jobs_are_refused(capsys):
    assert same_as.main(["HEAD", "--jobs", "lite0,lite1"]) == 2
    assert "no job 'lite1'; there are: lite0, " in capsys.readouterr().err


def test_jobs_without_a_program_are_functions():
    own = {name for name, job in (same_as.JOBS | same_as.SLOW).items() if job.program is None}
    assert own == set(same_as_jobs.JOBS)
    first, second = (same_as_jobs.checksum(np.zeros(shape, np.uint8)) for shape in ((2, 3), (3, 2)))
    assert first != second
