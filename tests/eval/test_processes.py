"""eval.py as several processes on one machine: one process's files, bit for bit, put together by one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

from tests import layouts

ROOT = pathlib.Path(__file__).resolve().parents[2]
VIDEOS = ("cow", "duck", "eel")


def start(data, out, *more):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.eval.process_worker"]
    broken = more[:2] if more[:1] == ("--break",) else ()
    rest = ["--config", "ytvos19", "--data", str(data), "--out", str(out), *map(str, more[len(broken) :])]
    return subprocess.Popen(
        [*command, *broken, *rest],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(data, out, *more):
    """Runs two processes to their ends and returns (exit code, output, errors) of each."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    group = ["--coordinator", f"localhost:{port}", "--num-processes", 2, "--process-id"]
    running = [start(data, out, *more, *group, index) for index in range(2)]
    ended = [process.communicate(timeout=500) for process in running]
    return [(process.returncode, *texts) for process, texts in zip(running, ended, strict=True)]


def test_two_processes_write_what_one_writes_and_go_on_after_a_failure(tmp_path):
    data = layouts.youtube_vos(tmp_path / "data", videos=VIDEOS, truth=True)
    one, two = tmp_path / "one", tmp_path / "two"
    alone = start(data, one)
    _, complaints = alone.communicate(timeout=500)
    assert alone.returncode == 0, complaints

    failed = together(data, two, "--break", "duck")
    assert failed[0][0] == 2 and 2 in [code for code, *_ in failed], failed
    assert sum("duck: broken on purpose" in complaints for *_, complaints in failed) == 1
    assert not (two / "results.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in two.glob("cow/*.png")}
    assert kept, "the other videos were finished"

    found = together(data, two)
    assert [code for code, *_ in found] == [0, 0], found
    assert "process 0 of 2" in found[0][1] and "process 1 of 2" in found[1][1]
    assert {path: path.stat().st_mtime_ns for path in two.glob("cow/*.png")} == kept, "not done again"
    masks = sorted(path.relative_to(one) for path in one.glob("*/*.png"))
    assert masks == sorted(path.relative_to(two) for path in two.glob("*/*.png"))
    for path in masks:
        assert (two / path).read_bytes() == (one / path).read_bytes(), path
    first, second = (json.loads((out / "results.json").read_text()) for out in (one, two))
    for key in ("G", "objects", "presence", "frames"):
        assert first[key] == second[key], key
    assert second["device"] == "2 x cpu"
    assert {kind for kind, spent in second["seconds"].items() if spent == 0} == {"adaptation"}
    (table,) = one.glob("per-sequence*.csv")
    assert (two / table.name).read_bytes() == table.read_bytes()
    assert sorted(path.name for path in two.glob("run*.json")) == ["run.json"], "one record of all"
    assert set(json.loads((two / "run.json").read_text())["videos"]) == set(VIDEOS)
