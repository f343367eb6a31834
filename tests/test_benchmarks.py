"""eval.py on a mini data set in each benchmark's layout, with a tiny model that really follows."""

import json
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

import eval as program
from tests import layouts
from tests.inference import coloured
from vos_jax.data import mask_files
from vos_jax.inference import probabilities, segment_video
from vos_jax.models import weights
from vos_jax.tools import check_submission, merge

SPACED = [f"{5 * index:05d}" for index in range(6)]


@pytest.fixture
def followed(monkeypatch):
    """Swaps the model for the tiny one; gives the list of videos that were segmented."""
    videos = []
    run = segment_video.segment_video

    def noted(engine, video, *args, **kwargs):
        videos.append(video.name)
        return run(engine, video, *args, **kwargs)

    monkeypatch.setattr(
        weights, "load_model", lambda config, checkpoint: (coloured.make_model(6), {}, "colours")
    )
    monkeypatch.setattr(segment_video, "segment_video", noted)
    return videos


def run(config, data, out, *more):
    return program.main(["--config", config, "--data", str(data), "--out", str(out), *map(str, more)])


def results_of(out):
    return json.loads((out / "results.json").read_text())


def masks_in(folder):
    return {path.stem: mask_files.read_mask(path) for path in sorted(folder.glob("*.png"))}


def iou(a, b):
    return np.sum(a & b) / np.sum(a | b)


def test_youtube_vos_from_all_frames_to_the_archive(tmp_path, followed, capsys):
    root, out = layouts.youtube_vos(tmp_path / "data"), tmp_path / "out"
    every = f"--config.data.all_frames={root / 'valid_all_frames'}"
    assert run("ytvos19", root, out, every, "--zip") == 0
    _, truth = coloured.make_video()
    for name in ("cow", "duck"):
        found = masks_in(out / name)
        assert list(found) == SPACED, "required frames and no others"
        for index, ids in enumerate(found.values()):
            for object_id in (3, 7) if index >= layouts.LATE else (3,):
                assert iou(ids == object_id, truth[index] == object_id) > 0.7, (name, index, object_id)
            assert index >= layouts.LATE or not np.any(ids == 7)
    results = results_of(out)
    assert (results["dataset"], results["G"], results["frames"]) == ("ytvos2019", None, 52)
    assert results["fps_inference"] >= results["fps"] > 0 and results["peak_memory_mb"] > 1
    assert not list(out.glob("*.csv"))
    presence = results["presence"]["duck"]
    assert presence["3"][0] == 1.0 and len(presence["3"]) == 6 and min(presence["3"]) > 0.5
    assert presence["7"][:3] == [None, None, 1.0] and min(presence["7"][3:]) > 0.5
    assert "[1.0, " in (out / "results.json").read_text(), "numbers on one line"
    archive = out / "submission.zip"
    assert check_submission.main([str(archive), "--config", "ytvos19", "--data", str(root)]) == 0
    assert "valid for ytvos2019 valid: 2 sequence(s), 12 masks, 4 object(s)" in capsys.readouterr().out
    path = out / "cow" / f"{SPACED[3]}.png"
    with Image.open(path) as image:
        assert image.mode == "P" and set(np.unique(image)) == {0, 3, 7}
        np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], mask_files.PALETTE[np.asarray(image)])
    followed.clear()
    assert run("ytvos19", root, out, every) == 0
    assert followed == [] and results_of(out)["presence"] == results["presence"], "kept, with who is there"


def test_youtube_vos_with_truth_at_hand(tmp_path, followed, capsys):
    root, out = layouts.youtube_vos(tmp_path / "data", truth=True, size=(70, 50)), tmp_path / "out"
    assert run("ytvos18", root, out, "--max-size", 40, "--flip", "--overlay") == 0
    results = results_of(out)
    four = [results[key] for key in ("J_seen", "J_unseen", "F_seen", "F_unseen")]
    assert results["G"] == pytest.approx(np.mean(four)) and min(four) > 0.7
    assert "J unseen" in capsys.readouterr().out
    assert (out / "per-sequence_results-valid.csv").read_text().splitlines()[1].startswith("cow_3,0.")
    assert (out / "overlays/cow.mp4").is_file()
    assert run("ytvos18", root, out) == 2, "made at another size"
    assert "inference.flip: True, now False" in capsys.readouterr().err
    assert run("ytvos18", root, tmp_path / "again", "--score-only", out, "--zip") == 0
    assert results_of(tmp_path / "again")["G"] == results["G"]
    assert (tmp_path / "again/submission.zip").is_file()


def test_davis_test_dev(tmp_path, followed):
    root, out = layouts.davis(tmp_path / "data"), tmp_path / "out"
    assert run("davis17_testdev", root, out, "--zip") == 0
    assert results_of(out)["G"] is None
    with zipfile.ZipFile(out / "submission.zip") as packed:
        assert packed.namelist() == [f"cow/{index:05d}.png" for index in range(5)]


@pytest.mark.parametrize("config", ["lvos", "mose", "long_video"])
def test_folders_of_videos(tmp_path, followed, config):
    """One layout, three benchmarks: late objects, and gaps in annotation that truth or the user left."""
    root, truth = layouts.folders(tmp_path / "data", {0: (3,), 2: (3, 7), 4: (3, 7)}, size=(45, 61))
    assert run(config, root, tmp_path / "out") == 0
    results = results_of(tmp_path / "out")
    assert {o["object"]: o["J"] > 0.7 for o in results["objects"]} == {3: True, 7: True}
    if config != "lvos":
        return
    assert run(config, root, tmp_path / "all", "--config.data.prompts=all") == 0
    found = list(masks_in(tmp_path / "all/cow").values())
    np.testing.assert_array_equal(found[4], truth[4], err_msg="a later mask is given, to the pixel")
    assert results_of(tmp_path / "all")["G"] is None, "what is given is not scored"


def test_from_a_middle_frame_to_both_ends_of_a_portrait_video(tmp_path, followed):
    root, truth = layouts.folders(tmp_path / "data", {3: (3, 7)}, size=(71, 51))
    assert run("lvos", root, tmp_path / "out", "--direction", "both") == 0
    for index, ids in enumerate(masks_in(tmp_path / "out/cow").values()):
        for object_id in (3, 7) if index >= layouts.LATE else (3,):
            assert iou(ids == object_id, truth[index] == object_id) > 0.7
    presence = results_of(tmp_path / "out")["presence"]["cow"]
    assert len(presence["3"]) == 6 and None not in presence["3"]


def test_a_single_grey_frame(tmp_path, followed):
    root, truth = layouts.folders(tmp_path / "data", {0: (3,)}, length=1)
    (path,) = (root / "JPEGImages/cow").iterdir()
    with Image.open(path) as image:
        image.convert("L").save(path.with_suffix(".jpg"))
    path.unlink()
    assert run("mose", root, tmp_path / "out", "--zip", "--save-probabilities") == 0
    np.testing.assert_array_equal(masks_in(tmp_path / "out/cow")["00000001"], truth[0])


def test_a_wide_mask_of_a_late_object_is_refused_before_work(tmp_path, followed, capsys):
    root = layouts.youtube_vos(tmp_path / "data")
    path = root / "valid/Annotations/duck" / f"{SPACED[layouts.LATE]}.png"
    Image.fromarray(mask_files.read_mask(path).astype(np.uint16)).save(path)
    assert run("ytvos19", root, tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "duck/00010.png: 16-bit PNG" in message and message.count("\n") == 1
    assert followed == [] and not (tmp_path / "out").exists()


def test_runs_merge_on_their_probabilities(tmp_path, followed, capsys):
    root, _ = layouts.folders(tmp_path / "data", {0: (3,), 2: (7,)}, size=(45, 61))
    a, b = tmp_path / "a", tmp_path / "b"
    assert run("lvos", root, a) == 0 and len(followed) == 1
    assert run("lvos", root, a, "--save-probabilities") == 0 and len(followed) == 2, "they were not there yet"
    assert run("lvos", root, a, "--save-probabilities") == 0 and len(followed) == 2
    assert run("lvos", root, b, "--save-probabilities", "--scales", "0.75,1.25") == 0
    assert merge.main([str(a), "--out", str(tmp_path / "same")]) == 0
    for name, ids in masks_in(a / "cow").items():
        np.testing.assert_array_equal(masks_in(tmp_path / "same/cow")[name], ids)
        soft = probabilities.read(probabilities.path_of(a, "cow", name))
        assert soft.levels.shape[1:] == (45, 61) and np.all(np.abs(soft.levels.sum(0, dtype=int) - 255) < 3)
    assert merge.main([str(a), str(b), "--out", str(tmp_path / "ab"), "--weights", "1", "3"]) == 0
    name = "00000005"
    planes = [probabilities.read(probabilities.path_of(run_, "cow", name)).levels for run_ in (a, b)]
    mean = planes[0].astype(int) + 3 * planes[1].astype(int)
    clear = np.sort(mean, axis=0)[-1] - np.sort(mean, axis=0)[-2] > 4
    best = np.array([0, 3, 7])[np.argmax(mean, axis=0)]
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(masks_in(tmp_path / "ab/cow")[name][clear], best[clear])
    capsys.readouterr()
    probabilities.path_of(b, "cow", name).unlink()
    assert merge.main([str(a), str(b), "--out", str(tmp_path / "c")]) == 2
    assert f"b/probabilities/cow/{name}.npz: missing" in capsys.readouterr().err
    probabilities.path_of(b, "cow", name).write_bytes(b"PK")
    assert merge.main([str(a), str(b), "--out", str(tmp_path / "c")]) == 2
    assert "not probabilities" in capsys.readouterr().err
    assert merge.main([str(a), "--out", str(a)]) == 2
    assert "already contains masks" in capsys.readouterr().err


def test_several_devices_share_the_videos(tmp_path, followed, monkeypatch):
    """Two threads on one device: the same files as one thread's, scores in the order of the source."""
    videos = ("cow", "duck", "eel")
    root = layouts.youtube_vos(tmp_path / "data", videos=videos, truth=True)
    assert run("ytvos19", root, tmp_path / "one") == 0
    device = program.devices.local()[:1]
    monkeypatch.setattr(program.devices, "local", lambda: device * 2)
    assert run("ytvos19", root, tmp_path / "two") == 0
    for path in (tmp_path / "one").glob("*/*.png"):
        assert (tmp_path / "two" / path.parent.name / path.name).read_bytes() == path.read_bytes()
    one, two = results_of(tmp_path / "one"), results_of(tmp_path / "two")
    assert one["objects"] == two["objects"] and one["presence"] == two["presence"]
    assert two["device"].startswith("2 x")
