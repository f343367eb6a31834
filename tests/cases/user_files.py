"""Files that a user made, and checks of what became of them."""

import os
import pathlib

from PIL import Image

from tests.eval.conftest import copy_model, davis, pristine  # noqa: F401 - fixtures
from tests.inference.coloured import make_video

SIZE = (64, 96)
LENGTH = 6
MINE = b"the user's own work of a week"


def tree(folder="."):
    root = pathlib.Path(folder)
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def write(path, content=MINE):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_frames(folder, suffix):
    os.makedirs(folder)
    for index, frame in enumerate(make_video(SIZE, LENGTH)[0]):
        Image.fromarray(frame).save(f"{folder}/{index:03d}{suffix}")


def check_refused(capsys, *said):
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert all(word in error for word in said), error
