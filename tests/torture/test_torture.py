"""A taste of `make torture`: each fault a few times, in a process that may fork."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "faults"),
    [("segment.py", "full"), ("eval.py", None), ("segment.py", None), ("train.py", None)],
)
def test_what_is_killed_starved_or_lied_to_goes_on_to_the_same_result(program, faults, tmp_path):
    command = [sys.executable, "-m", "tests.torture.run", "--part=0.01", "--program", program]
    command += ["--faults", faults] if faults else []
    environment = os.environ | {"PYTHONPATH": str(ROOT), "VOS_TORTURE": str(tmp_path / "torture")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = len(faults.split(",")) if faults else 2
    assert done.stdout.count(f"{program} ") >= rows and ", 0 file operations" not in done.stdout


def test_a_result_that_differs_is_seen(tmp_path):
    """The rack itself: a file that should not be there, one that is cut, a run that hangs or crashes."""
    code = """
import pathlib, sys
from tests.torture import children, programs
place = pathlib.Path(sys.argv[1])
def work():
    for name in "abc":
        (place / name).write_text(name)
    (place / "c").rename(place / "d")
def run_with(at):
    return children.Child(lambda: children.FileOperations(place, at) and work(), place / "log").wait()
assert run_with(lambda number: None) == 0
whole = programs.files(place)
assert set(whole) == {"a", "b", "d", "log"}
for name in whole:
    (place / name).unlink()
assert run_with(lambda number: number == 3 and children.crash()) == -9
assert set(programs.files(place)) == {"a", "b", "c", "log"}
(place / "a").write_text("cut")
assert programs.files(place)["a"] != whole["a"] and programs.files(place)["b"] == whole["b"]
assert children.Child(lambda: 1 / 0, place / "log").wait() == 1
children.SECONDS = 0.2
assert children.Child(lambda: __import__("time").sleep(60), place / "log").wait() == -9
assert "hung" in (place / "log").read_text()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_ctrl_c_in_a_garbage_collection_is_not_lost():
    """Found by torture: raised in JAX's callback of the collector, Python drops it and the run goes on."""
    code = """
import os, signal, sys, time
from vos_jax import errors
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
def _xla_gc_callback():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.001)
    return "went on"
@errors.entry_point
def main():
    assert _xla_gc_callback() == "went on"
    time.sleep(10)
code = main()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
sys.exit(code)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")
