"""Two programs on one output folder: the second one stops, whatever became of the first."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

import eval as eval_program
import segment as segment_program
import train as train_program
from tests.data import video_maker
from tests.inference import coloured
from vos_jax import errors, lock
from vos_jax.data import masks

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOLDER = """
import sys, time
from vos_jax import lock
lock.hold(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


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
    monkeypatch.setattr(train_program.distributed, "initialise", lambda *_: False)
    out, workdir = str(tmp_path / "out"), tmp_path / "out"
    assert eval_program.main(["--config", "demo", "--checkpoint", "none", "--out", out]) == 2
    assert refused(capsys)
    frames, ids = coloured.make_video()
    video_maker.write(tmp_path / "v.mp4", frames)
    masks.write_mask(tmp_path / "first.png", ids[0])
    arguments = [str(tmp_path / "v.mp4"), "--masks", str(tmp_path / "first.png"), "--out", out]
    assert segment_program.main([*arguments, "--checkpoint", "none"]) == 2
    assert refused(capsys)
    tiny = str(ROOT / "tests/train/tiny_train.py")
    assert train_program.main(["--config", tiny, "--workdir", str(workdir)]) == 2
    assert refused(capsys)
    assert not [path for path in workdir.rglob("*") if not path.name.endswith(".tmp")], "nothing is begun"


def test_a_killed_holder_holds_nothing(tmp_path, holder):
    with pytest.raises(errors.VosError, match="choose another --out"):
        lock.hold(tmp_path / "out")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock.hold(tmp_path / "out")
    errors.ending.close()


def test_the_lock_ends_with_main_and_leaves_nothing_behind(tmp_path):
    @errors.entry_point
    def main(fails: bool) -> None:
        lock.hold(tmp_path)
        if fails:
            raise errors.VosError("stopped")

    assert [main(True), main(False), main(False)] == [2, 0, 0]
    assert not os.listdir(tmp_path)


def test_a_file_system_without_locks_does_not_stop_a_run(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    lock.hold(tmp_path)
    errors.ending.close()
