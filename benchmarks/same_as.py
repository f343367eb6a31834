"""Compares the results of this tree with those of a git revision, bit for bit, on this machine.

    python -m benchmarks.same_as BASE [--jobs lite0,loss] [--keep results/same_as] [--tolerance 1e-6]
    python -m benchmarks.same_as BASE --data data/DAVIS --film film.mp4 first.png

BASE is checked out in a temporary git worktree. Each job runs in both trees, one after the other, with the
same Python and the same data; uncommitted changes of this tree are included. For each job the table has
"same", or the number of differing pixels (of masks) or other values and the size of the difference. The exit
status is 1 if anything differs or fails.

Most jobs are command lines with the settings of commit 4d321c0; `RENAMES` in a tree's
benchmarks/same_as_jobs.py maps them to the tree's own names. That file also has the jobs that need the Python
API. A BASE that is older than that file uses its first version.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks import outputs
from vos_jax import errors

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYTHON_JOBS = "benchmarks/same_as_jobs.py"

FIRST = "--config default --config.data.source=folders --data {data}/first"
MIDDLE = "--config default --config.data.source=folders --data {data}/middle"
SMALL = "--config.inference.min_size=256 --max-size 256"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A computation that both trees run.

    Args:
        program: the program in the root folder; None: a function of benchmarks/same_as_jobs.py.
        arguments: of the program, with the names of commit 4d321c0; {data}, {out} and {tree} are folders.
        approximate: whether --tolerance applies; else values are compared bit for bit.
    """

    program: str | None = None
    arguments: tuple[str, ...] = ()
    approximate: bool = False


def _job(line: str) -> Job:
    program, *arguments = line.split()
    return Job(program=program, arguments=tuple(arguments))


JOBS = {
    # The 24 frames of the rendered sample, three objects: masks, J and F.
    "lite0": _job("eval.py --config demo --config.eval.overlay=false --out {out}"),
    # The following jobs use its first six frames. "both" and "segment" use the compiled program of "lite0".
    # Test-time augmentation and direction do not depend on the model: the training-free one compiles fastest.
    "training_free": _job(f"eval.py {FIRST} --checkpoint none --out {{out}}"),
    "flip_scales": _job(f"eval.py {FIRST} --checkpoint none --flip --scales 0.75,1.0 {SMALL} --out {{out}}"),
    # Annotated in the fourth frame only.
    "both": _job(f"eval.py {MIDDLE} --direction both --out {{out}}"),
    "backward": _job(f"eval.py {MIDDLE} --checkpoint none --direction backward {SMALL} --out {{out}}"),
    "adapt": _job(
        f"eval.py {FIRST} --adapt 3 --config.inference.adaptation.crop=128 "
        "--config.inference.adaptation.batch=2 --out {out}"
    ),
    # A full memory, and soft masks: in steps of 1/255, they show differences that masks do not.
    "consolidate": _job(
        f"eval.py {FIRST} --config.memory.eviction=consolidate --config.memory.capacity=3 "
        f"--config.memory.every=1 --save-probabilities {SMALL} --out {{out}}"
    ),
    "segment": _job(
        "segment.py {data}/first/JPEGImages/rendered --masks {data}/first/Annotations/rendered/00000.png "
        "--no-overlay --cutout png --rle --out {out}"
    ),
    "rendered": Job(),
    "configs": Job(),
    "batches": Job(),
    # Of a tiny model, which compiles faster than lite0.
    "loss": Job(approximate=True),
}

SLOW = {"loss_lite0": Job(approximate=True)}
"""Run only if --jobs names them: compiling lite0's gradient takes 100 s of a CPU in each tree."""


def jobs_of(options: argparse.Namespace) -> dict[str, Job]:
    """Returns the jobs to run, by name.

    Raises:
        VosError: --jobs has an unknown name.
    """
    known = dict(JOBS)
    if options.data is not None:
        known["davis16"] = _job("eval.py --config davis16 --sequences dog,blackswan --adapt 0 --out {out}")
        data = str(options.data.resolve())
        known["davis16"] = dataclasses.replace(
            known["davis16"], arguments=(*known["davis16"].arguments, "--data", data)
        )
    if options.film is not None:
        film, mask = (str(pathlib.Path(path).resolve()) for path in options.film)
        arguments = (film, "--masks", mask, "--no-overlay", "--out", "{out}")
        known["film"] = Job(program="segment.py", arguments=arguments)
    if options.jobs is None:
        return known
    names = options.jobs.split(",")
    known |= SLOW
    if unknown := [name for name in names if name not in known]:
        raise errors.VosError(f"--jobs: no job {unknown[0]!r}; there are: {', '.join(known)}")
    return {name: known[name] for name in names}


# ---------------------------------------------------------------- names
def rename(key: str, value: str | None, renames: Mapping[str, str]) -> tuple[str, str | None]:
    """Returns a setting's key and value by other names.

    Args:
        key: such as `memory.topk`, or an option such as `--adapt`.
        value: as text; None: no value.
        renames: key, section, option or `key=value` -> its other name.
    """
    if (pair := renames.get(f"{key}={value}")) is not None:
        key, _, value = pair.partition("=")
        return key, value
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if (new := renames.get(".".join(parts[:length]))) is not None:
            return ".".join([new, *parts[length:]]), value
    return key, value


def translate(arguments: Sequence[str], renames: Mapping[str, str]) -> list[str]:
    """Returns a command line with a tree's own names of options and settings."""
    translated = []
    for argument in arguments:
        prefix = "--config." if argument.startswith("--config.") else ""
        key, equals, value = argument.removeprefix(prefix).partition("=")
        if not prefix and not argument.startswith("--"):
            translated.append(argument)
            continue
        key, new = rename(key, value if equals else None, renames)
        translated.append(f"{prefix}{key}" if new is None else f"{prefix}{key}={new}")
    return translated


def original(found: Mapping[str, Any], renames: Mapping[str, str]) -> dict[str, Any]:
    """Returns flattened configs, CONFIG/KEY -> value, with the keys of commit 4d321c0."""
    inverse = {new: old for old, new in renames.items()}
    back = {}
    for name, value in found.items():
        config, _, key = name.partition("/")
        old_key, old_value = rename(key, str(value), inverse)
        back[f"{config}/{old_key}"] = value if old_value == str(value) else type(value)(old_value)
    return back


# ---------------------------------------------------------------- running
@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """A checkout of the project, whose outputs go to `outputs`, one folder per job."""

    root: pathlib.Path
    outputs: pathlib.Path
    renames: Mapping[str, str]

    def run(self, name: str, job: Job, data: pathlib.Path) -> float:
        """Runs a job, whose output goes to `outputs` / its name; returns the seconds it took.

        Raises:
            VosError: it failed; the message has the last line of its output.
        """
        out = self.outputs / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        places = {"data": data, "out": out / "results", "tree": self.root}
        arguments = [argument.format(**places) for argument in job.arguments]
        command = [job.program, *translate(arguments, self.renames)]
        if job.program is None:
            command = ["-m", "benchmarks.same_as_jobs", name, data, out]
        environment = os.environ | {"PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"}
        start = time.perf_counter()
        with (out / "log").open("w") as log:
            status = subprocess.run(
                [sys.executable, *map(str, command)],
                cwd=self.root,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            ).returncode
        if status:
            lines = [line for line in (out / "log").read_text().splitlines() if line.strip()]
            raise errors.VosError(f"failed in {self.root}: {lines[-1] if lines else f'status {status}'}")
        return time.perf_counter() - start


# ---------------------------------------------------------------- the program
def git(*words: str) -> str:
    """Returns the output of git; VosError if it fails."""
    result = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if result.returncode:
        raise errors.VosError(f"git {' '.join(words)}: {result.stderr.strip()}")
    return result.stdout.strip()


def jobs_file(commit: str) -> str:
    """Returns the text of same_as_jobs.py at a commit, or its first version if the commit is older."""
    if git("ls-tree", commit, "--", PYTHON_JOBS):
        return git("show", f"{commit}:{PYTHON_JOBS}") + "\n"
    added = git("log", "--diff-filter=A", "--format=%H", "HEAD", "--", PYTHON_JOBS).split()
    return git("show", f"{added[-1]}:{PYTHON_JOBS}") + "\n" if added else (ROOT / PYTHON_JOBS).read_text()


@contextlib.contextmanager
def checked_out(commit: str, jobs: str) -> Iterator[pathlib.Path]:
    """Yields a temporary checkout of a commit, with the text `jobs` as same_as_jobs.py."""
    with tempfile.TemporaryDirectory(prefix="same_as_") as folder:
        root = pathlib.Path(folder) / "base"
        git("worktree", "add", "--detach", str(root), commit)
        try:
            (root / PYTHON_JOBS).write_text(jobs)
            yield root
        finally:
            git("worktree", "remove", "--force", str(root))


def renames_of(text: str) -> Mapping[str, str]:
    """Returns the `RENAMES` in the text of a same_as_jobs.py."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "jobs.py"
        path.write_text(text)
        return runpy.run_path(str(path))["RENAMES"]


def machine() -> str:
    """Describes the machine and versions, on which kept outputs depend besides the commit."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "numpy")]
    return (
        f"{platform.node()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {', '.join(versions)}"
    )


def kept_seconds(folder: pathlib.Path, stamp: Mapping[str, Any]) -> float | None:
    """Returns the seconds of a kept job; None if it does not exist or was another job."""
    try:
        noted = json.loads((folder / "same_as.json").read_text())
    except (OSError, ValueError):
        return None
    seconds = noted.pop("seconds", None)
    return seconds if noted == stamp else None


def run_base(
    names: Sequence[str], jobs: Mapping[str, Job], tree: Tree, stamps: Mapping[str, dict[str, Any]]
) -> None:
    """Runs jobs in the tree of BASE and writes their stamps to their folders."""
    for name in names:
        print(f"BASE: {name}", file=sys.stderr, flush=True)
        try:
            seconds = tree.run(name, jobs[name], tree.outputs / "data")
        except errors.VosError as error:
            if name == "data":
                raise
            (tree.outputs / name / "error").write_text(str(error))
            continue
        note = stamps[name] | {"seconds": seconds}
        (tree.outputs / name / "same_as.json").write_text(json.dumps(note) + "\n")


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base", metavar="BASE", help="a git revision")
    parser.add_argument(
        "--jobs", metavar="a,b", help=f"only these of {', '.join((*JOBS, *SLOW))}, davis16, film"
    )
    parser.add_argument("--keep", type=pathlib.Path, metavar="DIR", help="where BASE's outputs stay")
    parser.add_argument("--tolerance", type=float, default=0.0, help="of losses and gradients; 0: exact")
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="DAVIS 2016: adds the job davis16")
    parser.add_argument("--film", nargs=2, metavar=("FILE", "MASK"), help="a video and a mask: adds film")
    options = parser.parse_args(arguments)
    # Exits normally on SIGTERM, so that the worktree is removed and the current job is ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    chosen = jobs_of(options)
    commit = git("rev-parse", "--verify", f"{options.base}^{{commit}}")
    text = jobs_file(commit)
    jobs = {"data": Job(), **chosen}
    with contextlib.ExitStack() as stack:
        temporary = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="same_as_")))
        kept = (options.keep.resolve() if options.keep else temporary / "kept") / commit
        common = {"machine": machine(), "jobs_file": hashlib.sha256(text.encode()).hexdigest()}
        stamps = {
            name: common | {"program": job.program, "arguments": list(job.arguments)}
            for name, job in jobs.items()
        }
        missing = [name for name in jobs if kept_seconds(kept / name, stamps[name]) is None]
        if "data" in missing:
            missing = list(jobs)  # kept outputs were made of other data
        renames = renames_of(text)
        if missing:
            base = stack.enter_context(checked_out(commit, text))
            run_base(missing, jobs, Tree(root=base, outputs=kept, renames=renames), stamps)
        here = Tree(
            root=ROOT,
            outputs=temporary / "here",
            renames=renames_of((ROOT / PYTHON_JOBS).read_text()),
        )
        return compare_jobs(chosen, kept, renames, here, stamps, options.tolerance)


def compare_jobs(
    chosen: Mapping[str, Job],
    kept: pathlib.Path,
    renames: Mapping[str, str],
    here: Tree,
    stamps: Mapping[str, Mapping[str, Any]],
    tolerance: float,
) -> int:
    """Runs the jobs in this tree and prints the table; returns the exit status.

    Args:
        chosen: the jobs.
        kept: folder of the outputs of BASE.
        renames: the `RENAMES` of BASE's tree.
        here: this tree.
        stamps: descriptions of BASE's jobs, stored in their folders.
        tolerance: see `outputs.compare`; for approximate jobs only.
    """
    print(f"{'job':<14} {'BASE s':>7} {'here s':>7}  result", flush=True)
    different = 0
    for name, job in chosen.items():
        before, took = kept_seconds(kept / name, stamps[name]), None
        try:
            if before is None:
                raise errors.VosError(f"BASE: {(kept / name / 'error').read_text()}")
            took = here.run(name, job, kept / "data")
            base, new = outputs.read(kept / name), outputs.read(here.outputs / name)
            if name == "configs":
                base, new = original(base, renames), original(new, here.renames)
            found = outputs.compare(base, new, tolerance if job.approximate else 0.0)
            different += bool(found.example)
            result = str(found)
        except errors.VosError as error:
            different += 1
            result = str(error)
        seconds = " ".join(f"{'-' if x is None else f'{x:.1f}':>7}" for x in (before, took))
        print(f"{name:<14} {seconds}  {result}", flush=True)
    print(f"{different} of {len(chosen)} differ" if different else f"all {len(chosen)} are the same")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
