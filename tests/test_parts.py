"""Files appear whole, and what killed runs leave goes with the next one."""

import json
import os
import pathlib

import numpy as np
import pytest

from vos_jax import parts
from vos_jax.data import masks
from vos_jax.inference import record


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "film.mp4"
    with parts.whole(path) as part:
        part.write_text("new")
        assert not path.exists() and part.suffix == ".mp4" and part.parent == tmp_path
    with pytest.raises(OSError, match="full"), parts.whole(path) as part:
        part.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_name_is_given_once_the_disk_holds_the_file(tmp_path, monkeypatch):
    """Otherwise a power cut may leave the name without the file; masks of frames are checked instead."""
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (done.append(name), real(*a)))
    record.write_json(tmp_path / "run.json", {})
    assert done == ["fsync", "replace"]
    masks.write_mask(tmp_path / "00000.png", np.zeros((4, 6), np.uint8))
    assert done == ["fsync", "replace", "replace"]

    def broken(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"), parts.whole(tmp_path / "run.json") as part:
        part.write_text("new")
    assert json.loads((tmp_path / "run.json").read_text()) == {} and len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_removed_does_not_hide_what_went_wrong(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    with pytest.raises(OSError, match="full"), parts.whole(tmp_path / "x.png") as part:
        part.write_text("half")
        monkeypatch.setattr(pathlib.Path, "unlink", read_only)
        raise OSError("disk full")


def test_leftovers_of_killed_runs_are_swept(tmp_path):
    """Found by torture: a film that was being drawn when the disk broke stayed in overlays/ for good."""
    (tmp_path / "overlays").mkdir()
    left = parts.beside(tmp_path / "overlays" / "a.dog.mp4"), parts.beside(tmp_path / "results")
    kept = [tmp_path / name for name in ("a.png", ".part", ".mine.part", "x.12-3.part", ".notes.part.txt")]
    for path in (*left, *kept):
        path.write_text("x")
    (tmp_path / ".folder.1-2.part").mkdir()
    link = tmp_path / ".link.1-2.part"
    link.symlink_to(tmp_path / "a.png")
    parts.sweep(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in (*kept, link, tmp_path / ".folder.1-2.part"))
