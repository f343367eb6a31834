"""segment.py after a correction: it goes on before the first mask that changed, as a new run would."""

import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

import segment as program
from tests.inference.coloured import make_engine, make_model, make_video
from vos_jax.data import mask_files
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib
from vos_jax.inference import session_file, state_files
from vos_jax.models import weights

SIZE = (64, 96)
LENGTH = 12
ENGINE = make_engine(make_model(6))
FIRST = ("first.png",)
SECOND = ("first.png", "6:second.png")
THIRD = ("first.png", "6:second.png", "9:third.png")


@pytest.fixture(autouse=True)
def steps(tmp_path, monkeypatch):
    """A folder with frames and masks, a state after every frame, and the list of the frames segmented."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "load_model", lambda *_: (make_model(6), {}, "colours"))
    monkeypatch.setattr(engine_lib, "Engine", lambda *_, **__: ENGINE)
    monkeypatch.setattr(state_files, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(state_files, "SAVE_SHARE", 1e9)
    frames, ids = make_video(SIZE, LENGTH)
    os.mkdir("frames")
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(f"frames/{index:03d}.png")
    write("first", np.where(ids[0] == 3, 3, 0))
    write("second", np.roll(np.where(ids[6] == 3, 3, 0), 6, axis=0))
    write("third", np.roll(np.where(ids[9] == 3, 3, 0), 4, axis=0))
    write("other", np.where(ids[6] == 7, 7, 0))
    step, taken = session_lib.Session.dispatch, []

    def counted(self, *arguments, **settings):
        taken.append(self.index)
        return step(self, *arguments, **settings)

    monkeypatch.setattr(session_lib.Session, "dispatch", counted)
    return taken


def write(name, ids):
    mask_files.write_mask(f"{name}.png", ids.astype(np.uint8))


def run(masks, *arguments, out="out"):
    given = [word for mask in masks for word in ("--masks", mask)]
    return program.main(["frames", *given, "--out", out, "--no-overlay", *arguments])


def masks_of(out="out"):
    return {path.name: path.read_bytes() for path in sorted(pathlib.Path(out, "masks").iterdir())}


def times():
    return {path.name: path.stat().st_mtime_ns for path in pathlib.Path("out/masks").iterdir()}


def anew(masks):
    """Returns the masks of a run into an empty folder."""
    out = "-".join(["anew", *masks]).replace(":", "")
    if not os.path.exists(out):
        assert run(masks, out=out) == 0
    return masks_of(out)


def states(out="out"):
    return [int(path.stem[-8:]) for path in sorted(pathlib.Path(out, ".states").glob("*.safetensors"))]


def check_error(capsys, *words):
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and all(word in error for word in words), error


# ---------------------------------------------------------------- the same result
def test_a_later_correction_goes_on_from_its_frame(steps, capsys):
    assert run(FIRST, "--rle", "--cutout", "png") == 0
    before, then = masks_of(), times()
    steps.clear()
    assert run(SECOND, "--rle", "--cutout", "png") == 0
    assert steps == list(range(6, LENGTH))
    assert "changed from frame 6 on: going on at frame 6; the frames before" in capsys.readouterr().out
    now = times()
    assert all(then[f"{index:03d}.png"] == now[f"{index:03d}.png"] for index in range(6))
    assert masks_of() == anew(SECOND) != before
    assert run(SECOND, "--rle", "--cutout", "png", out="whole") == 0
    for name in ("masks.json", "cutout/003.png", "cutout/010.png"):
        assert pathlib.Path("out", name).read_bytes() == pathlib.Path("whole", name).read_bytes()
    summaries = [json.loads(pathlib.Path(out, "run.json").read_text())["videos"] for out in ("out", "whole")]
    assert summaries[0]["masks"]["summary"]["presence"] == summaries[1]["masks"]["summary"]["presence"]
    steps.clear()
    assert run(SECOND) == 0 and steps == [], "it is finished"


def test_the_newest_state_before_the_change_is_where_it_goes_on(steps, capsys):
    assert run(FIRST) == 0
    for index in (4, 5, 6):
        pathlib.Path(f"out/.states/masks-{index:08d}.safetensors").unlink()
    steps.clear()
    assert run(SECOND) == 0 and steps[0] == 3
    assert "going on at frame 3;" in capsys.readouterr().out
    assert masks_of() == anew(SECOND)


def test_a_correction_is_taken_back(steps):
    assert run(SECOND) == 0 and run(FIRST) == 0
    assert steps[LENGTH:] == list(range(6, LENGTH))
    assert masks_of() == anew(FIRST)


def test_one_correction_after_the_other(steps):
    for masks in (FIRST, SECOND, THIRD):
        assert run(masks) == 0
        assert masks_of() == anew(masks)
    steps.clear()
    write("second", np.roll(mask_files.read_mask("second.png"), 5, axis=1))
    assert run(THIRD) == 0 and steps == list(range(6, LENGTH))
    assert masks_of() != anew(THIRD) and run(THIRD, out="whole") == 0 and masks_of() == masks_of("whole")


def test_a_new_object_that_needs_more_room(steps):
    """A run that knew of it from the start could round differently: it makes room at the same frame."""
    masks = ("first.png", "6:other.png")
    assert run(FIRST) == 0 and run(masks) == 0
    assert steps[LENGTH:] == list(range(6, LENGTH))
    assert masks_of() == anew(masks)
    ids = mask_files.read_mask(pathlib.Path("out/masks/006.png"))
    assert set(np.unique(ids)) == {0, 3, 7}
    for index in range(1, LENGTH + 1):
        sessions = [session_file.load(f"{out}/.states/masks-{index:08d}.safetensors", ENGINE)
                    for out in ("out", "anew-first.png-6other.png")]  # fmt: skip
        rooms = [session.snapshot().states[0].object_valid.size for session in sessions]
        assert rooms == [1 if index <= 6 else 2] * 2


def test_without_an_earlier_state_every_frame_is_segmented_again(steps, capsys):
    assert run(FIRST) == 0
    for path in pathlib.Path("out/.states").iterdir():
        path.unlink()
    steps.clear()
    assert run(SECOND) == 0 and steps == list(range(LENGTH))
    assert "no earlier state was saved, so every frame is segmented again" in capsys.readouterr().out
    assert masks_of() == anew(SECOND)


def test_a_late_first_mask_is_corrected_later(steps):
    """Frames before the first mask are empty; there is a state there, too."""
    assert run(["4:first.png"]) == 0 and run(["4:first.png", "6:second.png"]) == 0
    assert steps[LENGTH:] == list(range(6, LENGTH))
    assert masks_of() == anew(["4:first.png", "6:second.png"])


# ---------------------------------------------------------------- what is refused
def test_another_first_mask_is_refused(steps, capsys):
    assert run(SECOND) == 0
    before = masks_of()
    write("first", np.roll(mask_files.read_mask("first.png"), 6, axis=0))
    assert run(SECOND) == 2
    check_error(capsys, "masks.0 has changed", "choose another --out, or --overwrite")
    assert run(["2:first.png", "6:second.png"]) == 2
    check_error(capsys, "masks.0", "masks.2", "--overwrite")
    assert masks_of() == before and run(SECOND, "--overwrite") == 0
    assert masks_of() == anew(SECOND)


def test_another_setting_besides_the_mask_is_refused(capsys):
    assert run(FIRST) == 0
    before = masks_of()
    assert run(SECOND, "--config.model.memory.every=3") == 2
    check_error(capsys, "masks.6", "model.memory.every", "--overwrite")
    assert run(FIRST, "--fps", "12") == 2
    check_error(capsys, "video.fps")
    assert masks_of() == before


@pytest.mark.parametrize(
    "masks", [None, [], {}, {"x": "1"}, {"-1": "a"}, {"6": "a", "99999999999": "b"}, {"99999999999": "b"}]
)
def test_a_damaged_record_of_masks_is_refused(capsys, masks):
    assert run(FIRST) == 0
    content = json.loads(pathlib.Path("out/run.json").read_text())
    (settings,) = content["settings"].values()
    first = settings["masks"]["0"]
    settings["masks"] = {"0": first, **masks} if masks else masks
    content["settings"] = {"damaged": settings}
    content["videos"]["masks"]["settings"] = "damaged"
    pathlib.Path("out/run.json").unlink()
    pathlib.Path("out/run.json").write_text(json.dumps(content))
    assert run(FIRST) == 2
    check_error(capsys, "out")


# ---------------------------------------------------------------- interruptions
def interrupted(monkeypatch, masks, at):
    """Runs until frame `at` is about to be segmented."""
    step = session_lib.Session.dispatch

    def stopped(self, *arguments, **settings):
        if self.index == at:
            raise KeyboardInterrupt
        return step(self, *arguments, **settings)

    with monkeypatch.context() as broken:
        broken.setattr(session_lib.Session, "dispatch", stopped)
        assert run(masks) == 130


@pytest.mark.parametrize("at", [6, 7, 11])
@pytest.mark.parametrize("then", [SECOND, FIRST, THIRD])
def test_an_interrupted_continuation_is_nobodys_result(steps, monkeypatch, at, then):
    """The same command goes on; the former one, and one with yet another mask, do not take it for theirs."""
    assert run(FIRST) == 0
    interrupted(monkeypatch, SECOND, at)
    assert list(masks_of()) == [f"{index:03d}.png" for index in range(at)], "none of the former"
    steps.clear()
    agreed = {SECOND: LENGTH, FIRST: 6, THIRD: 9}[then]
    assert run(then) == 0 and steps[0] == min(at, agreed)
    assert masks_of() == anew(then)


@pytest.mark.parametrize("at", [3, 8])
def test_an_interrupted_run_goes_on_with_another_mask(steps, monkeypatch, capsys, at):
    interrupted(monkeypatch, FIRST, at)
    steps.clear()
    assert run(SECOND) == 0 and steps[0] == min(at, 6)
    assert f"changed from frame 6 on: going on at frame {min(at, 6)};" in capsys.readouterr().out
    assert masks_of() == anew(SECOND)


@pytest.mark.parametrize("begun", ["masks", "states"])
def test_a_continuation_that_ended_before_it_was_noted(steps, monkeypatch, begun):
    """Killed between the removal of what is old and the note in run.json: it is the former run's still."""
    assert run(FIRST) == 0

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        if begun == "masks":
            broken.setattr(state_files.StateFiles, "forget", killed)
        else:
            broken.setattr(program.result_store.ResultStore, "_note", killed)
        assert run(SECOND) == 130
    assert len(masks_of()) == 6
    assert run(FIRST) == 0 and masks_of() == anew(FIRST)
    assert run(SECOND) == 0 and masks_of() == anew(SECOND)


# ---------------------------------------------------------------- the user's files
def paint(index):
    path = pathlib.Path(f"out/masks/{index:03d}.png")
    ids = np.zeros(SIZE, np.uint8)
    ids[20:40, 30:60] = 3
    Image.fromarray(ids).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("index", [2, 5])
def test_a_mask_that_the_user_painted_stays_among_the_kept_frames(capsys, index):
    """Also where the frame is segmented again, because the last state is before it."""
    assert run(FIRST) == 0
    for state in (4, 5, 6):
        pathlib.Path(f"out/.states/masks-{state:08d}.safetensors").unlink()
    mine = paint(index)
    assert run(SECOND) == 0
    assert masks_of() == anew(SECOND) | {f"{index:03d}.png": mine}
    assert ("005.png is not as this program wrote it, and was kept" in capsys.readouterr().out) == (
        index == 5
    )


def test_a_mask_that_the_user_painted_in_a_frame_to_replace_is_refused(steps, capsys):
    assert run(FIRST, "--rle") == 0
    mine, before = paint(8), states()
    whole = masks_of()
    steps.clear()
    assert run(SECOND, "--rle") == 2
    check_error(capsys, "out/masks/008.png", "move it away")
    assert steps == [] and masks_of() == whole and states() == before and os.path.exists("out/masks.json")
    os.rename("out/masks/008.png", "mine.png")
    assert run(SECOND, "--rle") == 0 and masks_of() == anew(SECOND)
    assert pathlib.Path("mine.png").read_bytes() == mine


def test_files_beside_the_masks_stay(steps):
    assert run(FIRST) == 0
    pathlib.Path("out/masks/notes.txt").write_text("mine")
    pathlib.Path("out/.states/masks-00000007.txt").write_text("mine")
    pathlib.Path("out/.states/cow-00000009.safetensors").write_text("mine")
    assert run(SECOND) == 0
    assert pathlib.Path("out/masks/notes.txt").read_text() == "mine"
    assert pathlib.Path("out/.states/masks-00000007.txt").read_text() == "mine"
    assert pathlib.Path("out/.states/cow-00000009.safetensors").read_text() == "mine"


def test_a_state_that_the_user_changed_is_neither_used_nor_replaced(steps, capsys):
    assert run(FIRST) == 0
    path = pathlib.Path("out/.states/masks-00000008.safetensors")
    path.write_bytes(b"mine")
    assert run(SECOND) == 2
    check_error(capsys, "masks-00000008.safetensors: is there")
    assert path.read_bytes() == b"mine"
