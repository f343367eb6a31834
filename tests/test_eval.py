"""eval.py by its contract, run in-process on small rendered videos.

Most tests replace the model by one that copies masks, which takes milliseconds; one runs the real one.
"""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import eval as program
from vos_jax.data import masks, rendered
from vos_jax.inference import tracker

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIZE = (48, 70)
FRAMES = 5
CSV = ["global_results-val.csv", "per-sequence_results-val.csv"]


class CopyTracker:
    """Follows nothing: every frame gets what `answer` makes of the given masks."""

    followed: list[int] = []
    interrupt_after = None

    def __init__(self, model, params, **kwargs):
        self.seconds = {"compile": 0.0, "inference": 0.0}

    def bucket(self, num_objects):
        return num_objects

    @property
    def model(self):
        return self

    memory_config = type("", (), {"max_pins": 6})

    def track(self, frames, annotations):
        CopyTracker.followed.append(0)
        for index, frame in enumerate(frames):
            if CopyTracker.interrupt_after == (len(CopyTracker.followed), index):
                raise KeyboardInterrupt
            CopyTracker.followed[-1] += 1
            ids = annotations[0]
            assert frame.shape[:2] == ids.shape and frame.dtype == np.uint8
            yield tracker.TrackedFrame(ids=ids, presence={})


@pytest.fixture
def copy_model(monkeypatch):
    """Swaps the model for `CopyTracker`; gives the list of how many frames each track had."""
    monkeypatch.setattr(program.loading, "make_model", lambda config, checkpoint: (None, None, "copy"))
    monkeypatch.setattr(program.tracker, "Tracker", CopyTracker)
    monkeypatch.setattr(CopyTracker, "followed", [])
    monkeypatch.setattr(CopyTracker, "interrupt_after", None)
    return CopyTracker


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    return rendered.write_davis(
        tmp_path_factory.mktemp("data") / "DAVIS", sequences=("ant", "bee"), frames=FRAMES, size=SIZE
    )


@pytest.fixture
def davis(pristine, tmp_path):
    """A small DAVIS that a test may break."""
    return shutil.copytree(pristine, tmp_path / "DAVIS")


def _run(davis, out, *more, config="davis17"):
    return program.main(["--config", config, "--data", str(davis), "--out", str(out), *map(str, more)])


def _results(out):
    return json.loads((out / "results.json").read_text())


def _times(out):
    return {path: path.stat().st_mtime_ns for path in sorted(out.glob("*/*.png"))}


def test_outputs_follow_the_contract(davis, tmp_path, copy_model, capsys):
    out = tmp_path / "out"
    assert _run(davis, out) == 0
    results = _results(out)
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
    assert (results["dataset"], results["split"], results["frames"]) == ("davis2017", "val", 2 * FRAMES)
    assert set(results["J"]) == set(results["F"]) == {"mean", "recall", "decay"}
    assert set(results["seconds"]) == {"compile", "inference", "io", "score"}
    assert [(o["sequence"], o["object"]) for o in results["objects"]] == [
        (s, o) for s in ("ant", "bee") for o in (1, 2, 3)
    ]
    assert 0 < results["G"] < 1 and results["G"] == pytest.approx(
        (results["J"]["mean"] + results["F"]["mean"]) / 2
    )
    assert results["J"]["mean"] == pytest.approx(np.mean([o["J"] for o in results["objects"]]))
    assert results["fps"] > 0 and results["checkpoint"] == "copy" and results["device"]
    assert results["config"]["memory"]["every"] == 5
    printed = capsys.readouterr().out
    assert "ant " in printed and "bee " in printed and f"{results['G']:.3f}" in printed


def test_masks_are_indexed_pngs_named_like_the_frames(davis, tmp_path, copy_model):
    for path in (davis / "JPEGImages/480p/ant").iterdir():
        path.rename(path.with_stem(f"shot{path.stem}"))
    for path in (davis / "Annotations/480p/ant").iterdir():
        path.rename(path.with_stem(f"shot{path.stem}"))
    out = tmp_path / "out"
    assert _run(davis, out, "--sequences", "ant") == 0
    assert sorted(p.name for p in out.iterdir()) == ["ant", *CSV, "results.json", "run.json"]
    assert sorted(p.name for p in (out / "ant").iterdir()) == [f"shot{i:05d}.png" for i in range(FRAMES)]
    with Image.open(out / "ant" / "shot00003.png") as image:
        assert image.mode == "P" and image.size == SIZE[::-1]
        assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]


def test_scores_are_those_of_the_truth(davis, tmp_path, copy_model, monkeypatch):
    """A sequence that stands still is followed perfectly by copying its first mask."""
    truth = davis / "Annotations/480p/ant"
    for path in truth.iterdir():
        shutil.copy(truth / "00000.png", path) if path.name != "00000.png" else None
    out = tmp_path / "out"
    assert _run(davis, out, "--sequences", "ant") == 0
    results = _results(out)
    assert results["G"] == 1.0 and results["J"] == results["F"] == {"mean": 1.0, "recall": 1.0, "decay": 0.0}


def test_davis16_merges_the_objects(davis, tmp_path, copy_model):
    (davis / "ImageSets/2016").mkdir()
    shutil.copy(davis / "ImageSets/2017/val.txt", davis / "ImageSets/2016/val.txt")
    assert _run(davis, tmp_path / "out", config="davis16") == 0
    assert [(o["sequence"], o["object"]) for o in _results(tmp_path / "out")["objects"]] == [
        ("ant", 1),
        ("bee", 1),
    ]
    assert set(np.unique(masks.read_mask(tmp_path / "out/ant/00000.png"))) == {0, 1}


def test_finished_sequences_are_kept_and_scored(davis, tmp_path, copy_model, capsys):
    out = tmp_path / "out"
    assert _run(davis, out) == 0
    first, before = _results(out), _times(out)
    assert copy_model.followed == [FRAMES, FRAMES]
    (out / "bee" / "00002.png").unlink()
    assert _run(davis, out) == 0
    assert copy_model.followed == [FRAMES] * 3
    after = _times(out)
    assert all(before[path] == after[path] for path in before if path.parent.name == "ant")
    assert _results(out)["objects"] == first["objects"]
    assert _run(davis, out, "--overwrite") == 0
    assert copy_model.followed == [FRAMES] * 5


def test_interrupted_run_goes_on(davis, tmp_path, copy_model):
    out = tmp_path / "out"
    copy_model.interrupt_after = (2, 2)
    assert _run(davis, out) == 130
    assert not (out / "results.json").exists()
    assert _run(davis, out) == 0
    assert copy_model.followed == [FRAMES, 2, FRAMES]
    assert _results(out)["frames"] == 2 * FRAMES


def test_interrupted_overwrite_leaves_no_mixture(davis, tmp_path, copy_model):
    out = tmp_path / "out"
    assert _run(davis, out, "--sequences", "ant") == 0
    copy_model.interrupt_after = (2, 2)
    assert _run(davis, out, "--sequences", "ant", "--overwrite") == 130
    assert _run(davis, out, "--sequences", "ant") == 0
    assert copy_model.followed == [FRAMES, 2, FRAMES]


def test_masks_of_other_settings_are_not_mixed_in(davis, tmp_path, copy_model, capsys):
    out = tmp_path / "out"
    assert _run(davis, out, "--sequences", "ant") == 0
    before = _times(out)
    assert _run(davis, out, "--config.memory.every=3") == 2
    assert "memory.every: 5, now 3" in capsys.readouterr().err
    assert _times(out) == before
    # Where data lies, which sequences are wanted and how it is drawn decide nothing.
    assert _run(davis, out, "--overlay", "--config.eval.workers=1") == 0
    assert _run(davis, out, "--config.memory.every=3", "--overwrite") == 0
    assert _run(davis, out, "--config.memory.every=3") == 0
    assert copy_model.followed == [FRAMES] * 4


def test_masks_of_other_weights_are_not_mixed_in(davis, tmp_path, copy_model, capsys, monkeypatch):
    """It is what the file holds that counts, not its name."""
    weights = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for path in weights:
        path.write_bytes(b"same")
    monkeypatch.setattr(program.loading, "make_model", lambda config, checkpoint: (None, None, checkpoint))
    for path in weights:
        assert _run(davis, tmp_path / "out", "--sequences", "ant", "--checkpoint", path) == 0
    assert copy_model.followed == [FRAMES]
    weights[0].write_bytes(b"trained further")
    assert _run(davis, tmp_path / "out", "--sequences", "ant", "--checkpoint", weights[0]) == 2
    _check_message(capsys, "checkpoint")


def test_masks_of_somebody_else_are_not_mixed_in(davis, tmp_path, copy_model, capsys):
    out = shutil.copytree(davis / "Annotations/480p", tmp_path / "out")
    assert _run(davis, out) == 2
    assert "did not record" in capsys.readouterr().err and not (out / "results.json").exists()


def test_overlay_draws_a_video_and_a_contact_sheet(davis, tmp_path, copy_model, capsys):
    out = tmp_path / "out"
    assert _run(davis, out, "--sequences", "bee", "--overlay") == 0
    assert sorted(p.name for p in (out / "overlays").iterdir()) == ["bee.mp4", "bee.png"]
    with Image.open(out / "overlays/bee.png") as sheet:
        assert sheet.width > 500
    assert str(out / "overlays" / "bee.png") in capsys.readouterr().out


def test_without_truth_masks_are_written_and_nothing_is_scored(davis, tmp_path, copy_model, capsys):
    for path in (davis / "Annotations/480p").glob("*/*.png"):
        if path.stem != "00000":
            path.unlink()
    out = tmp_path / "out"
    assert _run(davis, out) == 0
    assert len(_times(out)) == 2 * FRAMES
    results = _results(out)
    assert results["G"] is None and results["objects"] == [] and results["fps"] > 0
    assert "nothing to score" in capsys.readouterr().out


def test_score_only_scores_what_is_there(davis, tmp_path, capsys):
    results_dir = shutil.copytree(davis / "Annotations/480p", tmp_path / "theirs")
    assert program.main(["--config", "davis17", "--data", str(davis), "--score_only", str(results_dir)]) == 0
    results = _results(results_dir)
    assert results["G"] == 1.0 and results["fps"] is None and len(results["objects"]) == 6
    assert "1.000" in capsys.readouterr().out


def test_score_only_agrees_with_the_run_and_keeps_its_results(davis, tmp_path, copy_model, capsys):
    out = tmp_path / "out"
    assert _run(davis, out) == 0
    before = (out / "results.json").read_bytes()
    assert program.main(["--config", "davis17", "--data", str(davis), "--score_only", str(out)]) == 0
    assert (out / "results.json").read_bytes() == before
    assert _run(davis, tmp_path / "again", "--score_only", out) == 0
    again = _results(tmp_path / "again")
    assert {key: again[key] for key in "GJF"} == {key: json.loads(before)[key] for key in "GJF"}
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == [*CSV, "results.json"]


def _drop_frame(davis):
    (davis / "JPEGImages/480p/bee/00002.jpg").unlink()
    return "JPEGImages/480p/bee/00002"


def _truncate_frame(davis):
    path = davis / "JPEGImages/480p/bee/00002.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    return "bee/00002.jpg"


def _resize_mask(davis):
    masks.write_mask(davis / "Annotations/480p/bee/00000.png", np.ones((24, 35), np.uint8))
    return "bee/00000.png"


def _empty_mask(davis):
    masks.write_mask(davis / "Annotations/480p/bee/00000.png", np.zeros(SIZE, np.uint8))
    return "bee/00000.png"


def _wide_ids(davis):
    ids = np.zeros(SIZE, np.uint16)
    ids[5:20, 5:20] = 300
    Image.fromarray(ids).save(davis / "Annotations/480p/bee/00000.png")
    return "bee/00000.png"


def _many_objects(davis):
    ids = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 201
    masks.write_mask(davis / "Annotations/480p/bee/00000.png", ids.astype(np.uint8))
    return "200 objects"


def _no_data(davis):
    shutil.rmtree(davis)
    return "davischallenge.org"


@pytest.mark.parametrize(
    "breakage",
    [_drop_frame, _truncate_frame, _resize_mask, _empty_mask, _wide_ids, _many_objects, _no_data],
    ids=lambda breakage: breakage.__name__,
)
def test_broken_data_is_named_before_anything_is_written(davis, tmp_path, copy_model, capsys, breakage):
    named = breakage(davis)
    assert _run(davis, tmp_path / "out") == 2
    _check_message(capsys, named, lines=3 if breakage is _no_data else 1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--sequences", "ant,bea"], "bee"),
        (["--sequences", ","], "--sequences"),
        (["--config.memory.evry=3"], "memory.every"),
        (["--config.memory.every=x"], "memory.every"),
        (["--config", "davis18"], "davis17"),
        (["--dtype", "float8"], "float8"),
        (["--surprise"], "--surprise"),
        (["--config.data.year=2016"], "ImageSets/2016"),
        (["--config.data.source=web"], "davis, ytvos, folders, rendered"),
        (["--config.eval.workers=0"], "eval.workers"),
    ],
)
def test_wrong_arguments_are_named(davis, tmp_path, copy_model, capsys, arguments, named):
    assert _run(davis, tmp_path / "out", *arguments) == 2
    _check_message(capsys, named, lines=None)
    assert not (tmp_path / "out").exists()


def test_rendered_source_takes_no_data(tmp_path, copy_model, capsys):
    assert _run(tmp_path, tmp_path / "out", config="demo") == 2
    _check_message(capsys, "--data")


def test_unwritable_out(davis, tmp_path, copy_model, capsys):
    (tmp_path / "file").write_text("")
    assert _run(davis, tmp_path / "file" / "out") == 2
    _check_message(capsys, "--out")


def test_broken_record(davis, tmp_path, copy_model, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/run.json").write_text("{")
    assert _run(davis, tmp_path / "out") == 2
    _check_message(capsys, "run.json")


def _missing_result(folder):
    (folder / "bee/00003.png").unlink()
    return "bee/00003.png"


def _missing_sequence(folder):
    shutil.rmtree(folder / "bee")
    return "bee"


def _surplus_id(folder):
    ids = masks.read_mask(folder / "bee/00003.png")
    ids[0, 0] = 9
    masks.write_mask(folder / "bee/00003.png", ids)
    return "bee/00003.png"


def _no_folder(folder):
    shutil.rmtree(folder)
    return str(folder)


@pytest.mark.parametrize(
    "breakage",
    [_missing_result, _missing_sequence, _surplus_id, _no_folder],
    ids=lambda breakage: breakage.__name__,
)
def test_incomplete_results_are_named(davis, tmp_path, capsys, breakage):
    results_dir = shutil.copytree(davis / "Annotations/480p", tmp_path / "theirs")
    named = breakage(results_dir)
    assert _run(davis, tmp_path / "out", "--score_only", results_dir) == 2
    _check_message(capsys, named)
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--config.model.variant=vgg"], "lite0"),
        (["--checkpoint", "/nowhere/weights.safetensors"], "/nowhere/weights.safetensors"),
        (["--checkpoint", str(ROOT / "README.md")], "README.md"),
        (
            ["--checkpoint", str(ROOT / "vos_jax/weights/efficientnet_lite0.safetensors")],
            "efficientnet_lite0",
        ),
    ],
)
def test_weights_of_another_model_are_named(davis, tmp_path, capsys, arguments, named):
    assert _run(davis, tmp_path / "out", *arguments) == 2
    _check_message(capsys, named)
    assert not (tmp_path / "out").exists()


def test_absent_device_is_named(davis, tmp_path, capsys):
    if jax.default_backend() != "cpu":
        pytest.skip(f"needs a machine without accelerators; JAX uses {jax.default_backend()} here")
    assert _run(davis, tmp_path / "out", "--device", "gpu") == 2
    _check_message(capsys, "gpu")


def test_a_user_sees_no_traceback():
    """The program itself, as it is typed."""
    command = [sys.executable, "eval.py", "--config", "davis17", "--data", "/nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 3 and "--config demo" in done.stderr


def test_training_free_model_follows_the_rendered_objects(tmp_path):
    """The real model, end to end: far better than standing still, and one compilation serves both videos."""
    davis = rendered.write_davis(
        tmp_path / "DAVIS", sequences=("ant", "bee"), frames=14, size=(160, 288), objects=2
    )
    out = tmp_path / "out"
    finer = "--config.training_free.stride=8"  # These objects are small.
    assert _run(davis, out, "--checkpoint", "none", "--device", "cpu", finer) == 0
    results = _results(out)
    still = []
    for name in ("ant", "bee"):
        truth = [masks.read_mask(path) for path in sorted((davis / "Annotations/480p" / name).iterdir())]
        for object_id in (1, 2):
            first = truth[0] == object_id
            still += [
                np.mean(first & (ids == object_id)) / np.mean(first | (ids == object_id))
                for ids in truth[1:-1]
            ]
    assert results["J"]["mean"] > max(0.6, np.mean(still) + 0.2)
    assert results["checkpoint"].startswith("none") and results["device"] == "cpu"
    seconds = json.loads((out / "run.json").read_text())["sequences"]
    assert seconds["ant"]["seconds"]["compile"] > 0 and seconds["bee"]["seconds"]["compile"] == 0


def _check_message(capsys, named: str, lines: int | None = 1):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error, error
    assert lines is None or len(error.strip().splitlines()) == lines, error
