"""Atomic writes, leftovers of killed runs, and the lock on an output folder."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

import eval as eval_program
import segment as segment_program
import train as train_program
from tests.data import video_maker
from tests.inference import coloured
from vos_jax import errors, files, processes
from vos_jax.data import mask_files

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOLDER = """
import sys, time
from vos_jax import files
files.lock_folder(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "film.mp4"
    with files.atomic(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.suffix == ".mp4" and temporary.parent == tmp_path
    with pytest.raises(OSError, match="full"), files.atomic(path) as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_name_is_given_once_the_disk_holds_the_file(tmp_path, monkeypatch):
    """Otherwise a power cut may leave the name without the file; masks of frames are checked instead."""
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (done.append(name), real(*a)))
    files.write_json(tmp_path / "run.json", {})
    assert done == ["fsync", "replace"]
    mask_files.write_mask(tmp_path / "00000.png", np.zeros((4, 6), np.uint8))
    assert done == ["fsync", "replace", "replace"]

    def broken(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"), files.atomic(tmp_path / "run.json") as temporary:
        temporary.write_text("new")
    assert json.loads((tmp_path / "run.json").read_text()) == {} and len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_removed_does_not_hide_what_went_wrong(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    with pytest.raises(OSError, match="full"), files.atomic(tmp_path / "x.png") as temporary:
        temporary.write_text("half")
        monkeypatch.setattr(pathlib.Path, "unlink", read_only)
        raise OSError("disk full")


def test_a_folder_is_made_and_found_writable_without_a_trace(tmp_path):
    files.check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.VosError, match="cannot write to .*; name another folder with --workdir"):
        files.check_writable(tmp_path / "file", "--workdir")


def test_leftovers_of_killed_runs_are_swept(tmp_path):
    """Found by torture: a film that was being drawn when the disk broke stayed in overlays/ for good."""
    (tmp_path / "overlays").mkdir()
    left = (
        files.temporary_name(tmp_path / "overlays" / "a.dog.mp4"),
        files.temporary_name(tmp_path / "results"),
    )
    other = f"{'0' * 12}-7"
    names = ("a.png", ".part", ".mine.part", f"x.{other}.part", ".notes.part.txt", ".a.2024-11.part.mp4")
    kept = [tmp_path / name for name in (*names, f".a.{other}.part.png")]
    for path in (*left, *kept):
        path.write_text("x")
    folder, link = tmp_path / f".folder.{files.TOKEN}-2.part", tmp_path / f".link.{files.TOKEN}-2.part"
    folder.mkdir()
    link.symlink_to(tmp_path / "a.png")
    files.remove_leftovers(tmp_path, {files.TOKEN})
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in (*kept, link, folder))
    files.remove_leftovers_of(tmp_path / "b.png")
    assert kept[-1].exists()
    files.remove_leftovers_of(tmp_path / "a.png")
    assert not kept[-1].exists() and all(path.exists() for path in (*kept[:-1], link, folder))


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/out."""
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def refused(capsys) -> bool:
    error = capsys.readouterr().err
    return "another run is writing there" in error and len(error.strip().splitlines()) == 1


def test_a_second_eval_segment_or_train_on_one_folder_stops(tmp_path, holder, capsys, monkeypatch):
    """Two evals on one folder mixed their masks and overwrote each other's record."""
    # In this process JAX is at work already, and may not look for others any more.
    monkeypatch.setattr(processes, "join", lambda *_, **__: processes.ProcessGroup())
    out, workdir = str(tmp_path / "out"), tmp_path / "out"
    assert eval_program.main(["--config", "demo", "--checkpoint", "none", "--out", out]) == 2
    assert refused(capsys)
    frames, ids = coloured.make_video()
    video_maker.write(tmp_path / "v.mp4", frames)
    mask_files.write_mask(tmp_path / "first.png", ids[0])
    arguments = [str(tmp_path / "v.mp4"), "--masks", str(tmp_path / "first.png"), "--out", out]
    assert segment_program.main([*arguments, "--checkpoint", "none"]) == 2
    assert refused(capsys)
    tiny = str(ROOT / "tests/train/tiny_train.py")
    assert train_program.main(["--config", tiny, "--workdir", str(workdir)]) == 2
    assert refused(capsys)
    assert not [path for path in workdir.rglob("*") if not path.name.endswith(".tmp")], "nothing is begun"


def test_a_killed_holder_holds_nothing(tmp_path, holder):
    with pytest.raises(errors.VosError, match="choose another --out"):
        files.lock_folder(tmp_path / "out")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    files.lock_folder(tmp_path / "out")
    errors.ending.close()


def test_the_lock_ends_with_main_and_leaves_nothing_behind(tmp_path):
    @errors.entry_point
    def main(fails: bool) -> None:
        files.lock_folder(tmp_path)
        if fails:
            raise errors.VosError("stopped")

    assert [main(True), main(False), main(False)] == [2, 0, 0]
    assert not os.listdir(tmp_path)


def test_a_file_system_without_locks_does_not_stop_a_run(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    files.lock_folder(tmp_path)
    errors.ending.close()
