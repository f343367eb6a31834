"""A visitor's project: painting, segmenting, correcting, files."""

import io
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.inference import coloured
from vos_jax import errors
from vos_jax.inference import state_files
from vos_jax.visualize import overlay
from vos_jax.web import project as project_lib

SIZE = (64, 96)
FRAMES = 6


@pytest.fixture(scope="module")
def engine():
    return coloured.make_engine(coloured.make_model(6))


def squares():
    """A red and a green square on grey, moving apart; frames and their ids."""
    frames = np.full((FRAMES, *SIZE, 3), 90, np.uint8)
    ids = np.zeros((FRAMES, *SIZE), np.uint8)
    for t in range(FRAMES):
        for object_id, colour, top in ((1, (230, 20, 20), 0), (2, (20, 230, 20), 32)):
            left = 8 * (t if object_id == 1 else FRAMES - t)
            frames[t, top : top + 32, left : left + 32] = colour
            ids[t, top : top + 32, left : left + 32] = object_id
    return frames, ids


@pytest.fixture
def video(tmp_path):
    return overlay.write_video(tmp_path / "squares.mp4", squares()[0], fps=12)


@pytest.fixture
def project(engine, video, tmp_path):
    (tmp_path / "root").mkdir()
    with_model = project_lib.Project(engine, video, tmp_path / "root")
    yield with_model
    with_model.close()


def test_painted_objects_are_followed_and_the_files_hold_them(project):
    _, ids = squares()
    assert project.num_frames == FRAMES and project.media.size == SIZE
    for object_id in (1, 2):
        project.paint(0, object_id, ids[0] == object_id)
    assert np.array_equal(project.ids(0), ids[0]), "painted masks are seen before anything is segmented"
    assert list(project.run()) == list(range(FRAMES)) and project.done == FRAMES
    assert np.array_equal(project.ids(0), ids[0])
    assert set(np.unique(project.ids(FRAMES - 1))) == {0, 1, 2}
    with zipfile.ZipFile(project.save_masks()) as archive:
        assert len(archive.namelist()) == FRAMES
        with Image.open(io.BytesIO(archive.read("masks/00003.png"))) as picture:
            assert picture.mode == "P" and np.array_equal(np.asarray(picture), project.ids(3))
    film = cv2.VideoCapture(str(project.save_overlay()))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert list(project.run()) == [], "nothing is left to do"


def test_a_correction_goes_on_from_its_frame(project, monkeypatch):
    _, ids = squares()
    monkeypatch.setattr(state_files, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(state_files, "SAVE_SHARE", 1e9)
    project.paint(0, 1, ids[0] == 1)
    list(project.run())
    before = [project.ids(t) for t in range(FRAMES)]
    project.paint(3, 2, ids[3] == 2)
    assert project.done == 3
    assert next(iter(project.run())) == 3, "from the state kept last, not from the beginning"
    list(project.run())
    for t in range(3):
        assert np.array_equal(project.ids(t), before[t])
    assert np.array_equal(project.ids(3) == 2, ids[3] == 2) and (project.ids(FRAMES - 1) == 2).any()
    # Anew from the beginning gives the same.
    found = [project.ids(t) for t in range(FRAMES)]
    project._results.truncate(0)
    assert not list(project.folder.rglob("*.safetensors"))
    project.done = 0
    list(project.run())
    assert all(np.array_equal(project.ids(t), found[t]) for t in range(FRAMES))


def test_a_frame_that_is_lost_is_said_to_be(project):
    (project.folder / "frames" / "00002.jpg").unlink()
    with pytest.raises(errors.VosError, match="frame 2 cannot be read any more"):
        project.frame(2)


def test_an_object_may_appear_late(project):
    _, ids = squares()
    project.paint(3, 1, ids[3] == 1)
    assert list(project.run()) == list(range(FRAMES))
    assert not any(project.ids(t).any() for t in range(3))
    assert np.array_equal(project.ids(3) == 1, ids[3] == 1) and (project.ids(5) == 1).any()


def test_an_object_that_left_is_said_to_be_absent(project):
    _, ids = squares()
    project.paint(0, 1, ids[0] == 1)
    list(project.run())
    assert np.any(project.ids(4) == 1)
    project.absent(4, 1)
    assert project.done == 4 and not np.any(project.ids(4) == 1)
    list(project.run())
    assert project.done == project.num_frames and not np.any(project.ids(4) == 1)
    for mistake in (lambda: project.absent(0, 1), lambda: project.absent(4, 9), lambda: project.forget(0)):
        with pytest.raises(errors.VosError, match="(absent|no object)"):
            mistake()
    assert project.done == project.num_frames and list(project.prompts) == [0, 4]
    project.paint(4, 1, ids[4] == 1)
    assert not project.prompts[4].absent and np.array_equal(project.ids(4) == 1, ids[4] == 1)


def test_painting_while_it_runs_ends_the_run(project):
    _, ids = squares()
    project.paint(0, 1, ids[0] == 1)
    run = project.run()
    assert [next(run) for _ in range(4)] == [0, 1, 2, 3]
    project.paint(1, 2, ids[1] == 2)
    assert list(run) == [] and project.done == 1
    project.forget(1)
    list(project.run())
    assert project.done == FRAMES and not (project.ids(FRAMES - 1) == 2).any()


def test_mistakes_are_told(project, engine, video, tmp_path, monkeypatch):
    _, ids = squares()
    with pytest.raises(errors.VosError, match="paint at least one object"):
        list(project.run())
    with pytest.raises(errors.VosError, match="nothing is painted"):
        project.paint(0, 1, np.zeros(SIZE, bool))
    with pytest.raises(errors.VosError, match="objects are 1 to 254"):
        project.paint(0, 255, ids[0] == 1)
    with pytest.raises(errors.VosError, match="no frame 6: the video has 0 to 5"):
        project.paint(6, 1, ids[0] == 1)
    with pytest.raises(errors.VosError, match="0 of 6 frames"):
        project.save_masks()
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(errors.VosError, match=r"video\.mp4"):
        project_lib.Project(engine, tmp_path / "text.mp4", tmp_path / "root")
    monkeypatch.setattr(project_lib, "MAX_FRAMES", 5)
    with pytest.raises(errors.VosError, match="more than 5 frames"):
        project_lib.Project(engine, video, tmp_path / "root")
    assert [p.name for p in (tmp_path / "root").iterdir()] == [project.folder.name], "failures leave nothing"


def test_two_visitors_know_nothing_of_each_other(engine, video, tmp_path):
    _, ids = squares()
    one, two = (project_lib.Project(engine, video, tmp_path) for _ in range(2))
    one.paint(0, 1, ids[0] == 1)
    two.paint(0, 1, ids[0] == 2)
    runs = zip(one.run(), two.run(), strict=True)
    assert list(runs) == [(t, t) for t in range(FRAMES)]
    assert not ((one.ids(2) == 1) & (two.ids(2) == 1)).any()
    one.close()
    assert not one.folder.exists() and two.picture(5).shape == (*SIZE, 3)
    two.close()
