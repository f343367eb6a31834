"""Cases B13 and B14: masks painted on a still fit turned and mirrored films."""

import numpy as np
import pytest
from PIL import Image

from tests.cases.user_files import check_refused
from tests.data import video_maker
from vos_jax.data import media
from vos_jax.tools import still

SIZE = (64, 96)
ONE = 1 << 16
# (a, b, c, d): a pixel (x, y) is shown at (a x + c y, b x + d y).
MATRICES = {
    "plain": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "half": (-1, 0, 0, -1),
    "quarter": (0, 1, -1, 0),
    "three quarters": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transposed back": (0, -1, -1, 0),
}


def shown(frame, matrix):
    """The frame as the matrix says, pixel by pixel."""
    a, b, c, d = matrix
    y, x = np.indices(frame.shape[:2])
    p, q = a * x + c * y, b * x + d * y
    p, q = p - p.min(), q - q.min()
    result = np.zeros((q.max() + 1, p.max() + 1, 3), frame.dtype)
    result[q, p] = frame[y, x]
    return result


def make(path, matrix, length=3):
    frames = np.full((length, *SIZE, 3), 60, np.uint8)
    for t in range(length):
        frames[t, 6:26, 10 + t : 34 + t] = 220, 40, 40
        frames[t, 40:60, 70:90] = 40, 40, 220
    video_maker.write(path, list(frames))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (ONE * value for value in matrix)
    for i, value in enumerate((a, b, 0, c, d, 0, 96 * ONE, 64 * ONE, 1 << 30)):
        data[at + 4 * i : at + 4 * i + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return frames


@pytest.mark.parametrize("name", MATRICES)
def test_b13_b14_frames_and_stills_are_turned_and_mirrored_as_players_show_them(tmp_path, name):
    frames = make(tmp_path / "film.mp4", MATRICES[name])
    wanted = shown(frames[1], MATRICES[name]).astype(int)
    film = media.open_media(tmp_path / "film.mp4")
    found = list(film.frames())[1]
    assert film.size == wanted.shape[:2] == found.shape[:2]
    assert np.abs(found - wanted).mean() < 4
    assert still.main([str(tmp_path / "film.mp4"), str(tmp_path / "frame.png"), "--frame", "1"]) == 0
    with Image.open(tmp_path / "frame.png") as image:
        np.testing.assert_array_equal(np.asarray(image), found)


def test_a_still_replaces_nothing_and_names_what_is_wrong(tmp_path, capsys):
    make(tmp_path / "film.mp4", MATRICES["plain"])
    film, out = str(tmp_path / "film.mp4"), tmp_path / "frame.png"
    for arguments, said in (
        ([film, str(out), "--frame", "9"], "no frame 9"),
        ([film, str(out), "--frame", "-1"], "counted from 0"),
        ([film, str(out.with_suffix(".jpg"))], "is a PNG"),
        ([str(tmp_path / "none.mp4"), str(out)], "none.mp4"),
        ([film, str(tmp_path / "no/such/folder.png")], "cannot write"),
    ):
        assert still.main(arguments) == 2 and not out.exists()
        check_refused(capsys, said)
    assert still.main([film, str(out)]) == 0
    capsys.readouterr()
    before = out.read_bytes()
    assert still.main([film, str(out)]) == 2 and out.read_bytes() == before
    check_refused(capsys, "is there already")
