"""`python -m tests.fuzz.run`: 100,000 damaged files through every door; prints what became of them.

    python -m tests.fuzz.run --inputs 100000 --keep faults
    python -m tests.fuzz.run --door "mask PNG" --only 1234     # one input again, with its traceback

Each door runs in a process of its own, so that a crash of a decoder is seen. Acceptable: the file is read, or
refused by a VosError with a short message. Faults: any other exception, 10 s of computing, 2 GB of memory, a
file opened for writing outside the door's folder, a program started, a connection, a decoder that crashes.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings

from tests.fuzz import doors
from vos_jax import errors

SECONDS = 10
BYTES = 2 << 30
NOT_YET = b"\xff" * 8
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "os.fork")


class Hang(BaseException):
    """Ten seconds of computing for one input."""


class AuditHook:
    """Notes what an input made Python do outside a folder; one per process: audit hooks stay."""

    def __init__(self):
        self.folder: str | None = None
        self.found: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN:
            self.found.append(f"{event} {arguments}")
        writes = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link"):
            chosen = {"os.rename": slice(2), "os.symlink": slice(1, 2), "os.link": slice(1, 2)}
            for path in arguments[chosen.get(event, slice(1))]:
                named = isinstance(path, str | bytes | os.PathLike)
                if named and not os.path.abspath(os.fsdecode(path)).startswith((self.folder, os.devnull)):
                    self.found.append(f"{event} {os.fsdecode(path)}")


def make_input(door: doors.Door, seeds: list[bytes], seed: int, number: int) -> bytes:
    """Input `number` of a door; the whole files come first."""
    if number < len(seeds):
        return seeds[number]
    rng = random.Random(f"{seed} {number}")
    return door.damage(rng.choice(seeds), seeds, rng)


def try_input(door: doors.Door, data: bytes, folder: pathlib.Path, hook: AuditHook) -> str:
    """Returns the outcome of one input: "read", "refused" or the fault's traceback."""
    path = folder / f"input{door.suffix}"
    path.write_bytes(data)
    hook.found.clear()
    hook.folder = str(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            door.read(path)
        outcome = "read"
    except errors.VosError as error:
        outcome = "refused" if 10 < len(str(error)) < 5000 else f"message: {error!r}"
    except (Exception, Hang):
        outcome = traceback.format_exc()
    finally:
        hook.folder = None
    return f"forbidden: {hook.found}" if hook.found else outcome


def child(name: str, first: int, last: int, seed: int, keep: str) -> None:
    """Runs inputs of one door; prints the numbers as JSON; notes the number that it is at in fd 3."""
    door = doors.DOORS[name]
    hook = AuditHook()
    signal.signal(signal.SIGPROF, _hang)
    counts: dict[str, int] = collections.Counter()
    faults = {}
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place).resolve()
        (folder / "seeds").mkdir()
        os.chdir(folder)
        seeds = door.seeds(folder / "seeds")
        before = _used()
        resource.setrlimit(resource.RLIMIT_AS, (before + 2 * BYTES, resource.RLIM_INFINITY))
        for number in range(first, last):
            os.pwrite(3, number.to_bytes(8, "little"), 0)
            data = make_input(door, seeds, seed, number)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            outcome = try_input(door, data, folder, hook)
            signal.setitimer(signal.ITIMER_PROF, 0)
            counts[outcome if outcome in ("read", "refused") else "fault"] += 1
            if outcome not in ("read", "refused"):
                where = outcome.strip().splitlines()[-1][:200]
                if where not in faults:
                    faults[where] = number
                    _keep(keep, name, number, data, outcome)
        signal.setitimer(signal.ITIMER_PROF, 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"counts": counts, "faults": faults, "peak": peak}))


def _hang(*_) -> None:
    raise Hang


def _used() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _keep(keep: str, name: str, number: int, data: bytes, outcome: str) -> None:
    if keep:
        place = pathlib.Path(keep) / "".join(c if c.isalnum() else "_" for c in name)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.input").write_bytes(data)
        (place / f"{number}.txt").write_text(outcome)


def run_door(name: str, inputs: int, seed: int, keep: str) -> dict:
    """Runs a door's inputs in processes; a crash is a fault, and the next process goes on behind it."""
    total: dict = {"counts": collections.Counter(), "faults": {}, "peak": 0}
    first, start = 0, time.monotonic()
    with tempfile.TemporaryFile() as at:
        while first < inputs:
            command = [
                sys.executable,
                "-m",
                "tests.fuzz.run",
                f"--door={name}",
                "--seed",
                str(seed),
                "--keep",
                keep,
            ]
            os.dup2(at.fileno(), 3)
            os.pwrite(3, NOT_YET, 0)
            process = subprocess.run(
                [*command, "--child", str(first), str(inputs)], capture_output=True, pass_fds=(3,)
            )
            if os.pread(3, 8, 0) == NOT_YET:
                raise RuntimeError(f"{name}: died before its first input:\n{process.stderr.decode()[-2000:]}")
            if process.returncode == 0:
                found = json.loads(process.stdout.splitlines()[-1])
                first = inputs
            else:
                number = int.from_bytes(os.pread(at.fileno(), 8, 0), "little")
                found = {"counts": {"fault": 1}, "faults": {f"died: {process.returncode}": number}, "peak": 0}
                total["counts"]["before a crash"] += number - first
                first = number + 1
            total["counts"].update(found["counts"])
            total["faults"] |= found["faults"]
            total["peak"] = max(total["peak"], found["peak"])
    if total["peak"] > BYTES:
        total["faults"][f"{total['peak'] >> 20} MB of memory"] = -1
    return total | {"seconds": time.monotonic() - start}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="of all doors together")
    parser.add_argument("--door", choices=tuple(doors.DOORS), help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default="", metavar="DIR", help="where inputs that are faults are kept")
    parser.add_argument("--only", type=int, metavar="K", help="input K of --door alone, with its traceback")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.door, *options.child, options.seed, options.keep and os.path.abspath(options.keep))
        return 0
    if options.only is not None:
        with tempfile.TemporaryDirectory() as place:
            door, folder = doors.DOORS[options.door], pathlib.Path(place).resolve()
            (folder / "seeds").mkdir()
            data = make_input(door, door.seeds(folder / "seeds"), options.seed, options.only)
            print(try_input(door, data, folder, AuditHook()))
        return 0
    names = [options.door] if options.door else list(doors.DOORS)
    share = sum(doors.DOORS[name].share for name in names)
    print(f"{'door':24s}  inputs    read refused faults peak MB seconds")
    sums: dict[str, int] = collections.Counter()
    for name in names:
        inputs = -(-options.inputs * doors.DOORS[name].share // share)
        found = run_door(name, inputs, options.seed, options.keep and os.path.abspath(options.keep))
        counts = found["counts"]
        sums.update(counts, inputs=inputs, kinds=len(found["faults"]))
        print(
            f"{name:24s} {inputs:7d} {counts['read']:7d} {counts['refused']:7d} {counts['fault']:6d} "
            f"{found['peak'] >> 20:7d} {found['seconds']:7.1f}",
            flush=True,
        )
        for where, number in found["faults"].items():
            print(f"    input {number}: {where}", flush=True)
    print(f"{'all':24s} {sums['inputs']:7d} {sums['read']:7d} {sums['refused']:7d} {sums['fault']:6d}")
    return 1 if sums["kinds"] else 0


if __name__ == "__main__":
    sys.exit(main())
