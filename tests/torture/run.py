"""`make torture`: eval.py, segment.py and train.py killed, starved and lied to; prints what became of them.

    python -m tests.torture.run                  # some ten minutes
    python -m tests.torture.run --part 0.05      # a taste of each fault, as in the tests

After each fault the same command is run again, undisturbed, and must end with exactly the result of a run
that nothing happened to. A fault that is no kill must end in an exit code that says so and at most one line
of error, never in a traceback. Exit code 1 where any of this did not hold; what was printed is kept.
"""

import argparse
import collections
import errno
import functools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator

# Before JAX is imported: all children share what was compiled once, and compile the rest quickly.
PLACE = pathlib.Path(os.environ.get("VOS_TORTURE") or tempfile.mkdtemp(prefix="torture-"))
os.environ |= {
    "VOS_TORTURE": str(PLACE),
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(PLACE / "cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
}

import vos_jax  # noqa: E402
from tests.torture import children, programs  # noqa: E402

DAY = 86_400.0
ERRORS = {"disk full": errno.ENOSPC, "disk read-only": errno.EROFS, "disk broken": errno.EIO}


class Rack:
    """One program, the result it should have, and the faults it is given.

    Args:
      name: in `programs.PROGRAMS`.
      part: what share of the usual number of trials is made, at least one of each.
      rng: chooses moments and places.
    """

    def __init__(self, name: str, part: float, rng: random.Random):
        self.name, self.part, self.rng = name, part, rng
        self.program = programs.PROGRAMS[name]
        self.folder = PLACE / name.removesuffix(".py")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.number = 0
        for count in (False, True):  # the first compiles
            out = self.folder / "whole"
            shutil.rmtree(out, ignore_errors=True)
            start = time.monotonic()
            code = self.start(out, at=(lambda number: None) if count else None, count=count).wait()
            self.seconds = time.monotonic() - start
            if code:
                raise RuntimeError(f"{name} alone ended with {code}:\n{self.log(out).read_text()}")
        self.whole = self.results(out)
        self.operations = int((self.folder / "operations").read_text())

    def log(self, out: pathlib.Path) -> pathlib.Path:
        return self.folder / f"{out.name}.log"

    def results(self, out: pathlib.Path) -> dict:
        return children.ask(functools.partial(self.program.results, out), self.folder)

    def start(
        self,
        out: pathlib.Path,
        at: Callable[[int], None] | None = None,
        *,
        count: bool = False,
        before: Callable[[], None] = lambda: None,
        place: pathlib.Path = PLACE,
    ) -> children.Child:
        """Starts the program; `at` is called before each file operation below OUT."""

        def run() -> int:
            programs.often()
            before()
            operations = children.FileOperations(out, at) if at else None
            code = self.program.main(self.program.arguments(place, out))
            if count and operations:
                (self.folder / "operations").write_text(str(operations.count))
            return code

        return children.Child(run, self.log(out))

    def new(self) -> pathlib.Path:
        self.number += 1
        return self.folder / f"out{self.number}"

    def times(self, usual: int) -> int:
        return max(1, round(self.part * self.program.part * usual))

    def points(self, usual: int) -> list[int]:
        """Numbers of file operations, all of them or some evenly spread."""
        wanted = min(self.operations, self.times(usual))
        return [round((i + 0.5) * self.operations / wanted - 0.5) for i in range(wanted)]

    def told(self, out: pathlib.Path, code: int) -> str:
        """Returns the fault in how a disturbed run ended; empty if there is none."""
        printed = self.log(out).read_text()
        if "Traceback" in printed:
            return "traceback"
        said = [line for line in printed.splitlines() if line.startswith("error: ")]
        if code == 2 and len(said) == 1 or code in (0, *self.program.stopped):
            return ""
        return f"exit code {code} with {len(said)} lines of error"

    def recovers(self, out: pathlib.Path) -> str:
        """Runs the program to its end; what is wrong with its result."""
        self.log(out).rename(self.folder / f"{out.name}.before.log")
        if code := self.start(out).wait():
            return f"does not go on: exit code {code}"
        if "Traceback" in self.log(out).read_text():
            return "goes on with a traceback"
        try:
            found = self.results(out)
        except RuntimeError as error:
            return f"result cannot be read: {str(error).strip().splitlines()[-1]}"
        if found == self.whole:
            shutil.rmtree(out)
            return ""
        names = [key for key in sorted({*found, *self.whole}) if found.get(key) != self.whole.get(key)]
        return f"other result: {', '.join(names[:5])}"

    # ------------------------------------------------------------ faults: each yields what is wrong, or ""

    def kills(self) -> Iterator[str]:
        """kill -9 at random moments"""
        for _ in range(max(1, round(self.part * 10))):
            out = self.new()
            self.start(out).send(signal.SIGKILL, self.rng.uniform(0, self.seconds))
            yield self.recovers(out)

    def crashes(self) -> Iterator[str]:
        """crash before a file operation"""
        for point in self.points(24):
            out = self.new()
            self.start(out, lambda number, point=point: number == point and children.crash()).wait()
            yield (problem := self.recovers(out)) and f"operation {point}: {problem}"

    def _errors(self, name: str) -> Iterator[str]:
        def fail(number: int, point: int) -> None:
            if number >= point:
                raise OSError(ERRORS[name], os.strerror(ERRORS[name]))

        for point in self.points(4):
            out = self.new()
            code = self.start(out, functools.partial(fail, point=point)).wait()
            yield (problem := self.told(out, code) or self.recovers(out)) and f"operation {point}: {problem}"

    def full(self) -> Iterator[str]:
        """disk full from some file operation on"""
        yield from self._errors("disk full")

    def read_only(self) -> Iterator[str]:
        """disk read-only from some file operation on"""
        yield from self._errors("disk read-only")

    def broken(self) -> Iterator[str]:
        """disk broken from some file operation on"""
        yield from self._errors("disk broken")

    def small_disk(self) -> Iterator[str]:
        """a file system that is really full"""
        used = sum(p.stat().st_blocks * 512 for p in (self.folder / "whole").rglob("*"))
        for _ in range(self.times(3)):
            out = self.new()
            out.mkdir()
            size = int(used * self.rng.uniform(0.2, 0.9))
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "torture", str(out)]
            if subprocess.run(mount, capture_output=True).returncode:
                return
            try:
                problem = self.told(out, self.start(out).wait())
                more = ["mount", "-o", f"remount,size={4 * used}", str(out)]
                subprocess.run(more, check=True, capture_output=True)
                kept = shutil.copytree(out, self.folder / f"{out.name}-kept")
            finally:
                subprocess.run(["umount", str(out)], check=True)
            out.rmdir()
            kept.rename(out)
            yield problem or self.recovers(out)

    def signals(self) -> Iterator[str]:
        """SIGINT, SIGTERM at random moments"""
        for number in range(self.times(8)):
            out = self.new()
            kind = (signal.SIGINT, signal.SIGTERM)[number % 2]
            code = self.start(out).send(kind, self.rng.uniform(0, self.seconds))
            yield (problem := self.told(out, code) or self.recovers(out)) and f"{kind.name}: {problem}"

    def clocks(self) -> Iterator[str]:
        """a clock that jumps by days, back and forth"""

        def jump() -> None:
            now, jumps = time.time, [0.0]

            def jumping() -> float:
                if random.random() < 0.05:
                    jumps.append(random.uniform(-2 * DAY, 2 * DAY))
                return now() + jumps[-1]

            time.time = jumping

        for _ in range(self.times(2)):
            out = self.new()
            code = self.start(out, before=jump).wait()
            yield self.told(out, code) or self.recovers(out)

    def vanished(self) -> Iterator[str]:
        """input that vanishes in mid-run, and is there again"""
        for point in self.points(5):
            out, place = self.new(), self.folder / "input"
            for name in ("data", "film.mp4", "first.png", "second.png", "tiny.safetensors"):
                copy = shutil.copytree if (PLACE / name).is_dir() else shutil.copy
                place.mkdir(exist_ok=True)
                copy(PLACE / name, place / name)

            def vanish(number: int, point: int = point, place: pathlib.Path = place) -> None:
                if number == point:
                    shutil.rmtree(place)

            problem = self.told(out, self.start(out, vanish, place=place).wait())
            shutil.rmtree(place, ignore_errors=True)
            yield (problem := problem or self.recovers(out)) and f"operation {point}: {problem}"

    def checkpoints(self) -> Iterator[str]:
        """the newest checkpoint cut short, altered or incomplete"""
        if self.name != "train.py":
            return
        for number in range(self.times(30)):
            out = self.new()
            shutil.copytree(self.folder / "whole", out)
            newest = out / "checkpoints" / str(programs.STEPS)
            sizes = {p: p.stat().st_size for p in sorted(newest.rglob("*")) if p.is_file()}
            files = [p for p, size in sizes.items() if size]
            # By turns any file and any byte: nearly all bytes are of one file.
            path = self.rng.choices(files, [sizes[p] for p in files] if number // 3 % 2 else None)[0]
            data = bytearray(path.read_bytes())
            if number % 3 == 0:
                path.write_bytes(data[: len(data) // 2])
            elif number % 3 == 1:
                data[self.rng.randrange(len(data))] ^= 0xFF
                path.write_bytes(data)
            else:
                path.unlink()
            self.log(out).touch()
            how = ("cut", "altered", "removed")[number % 3]
            yield (problem := self.recovers(out)) and f"{path.relative_to(newest)} {how}: {problem}"

    def weights(self) -> Iterator[str]:
        """weights with one byte altered"""
        if self.name == "train.py":
            return
        shipped = pathlib.Path(vos_jax.__file__).parent / "weights" / "lite0.safetensors"
        for _ in range(self.times(3)):
            out, place = self.new(), self.folder / "weights"
            place.mkdir(exist_ok=True)
            data = bytearray(shipped.read_bytes())
            data[self.rng.randrange(len(data) // 2, len(data))] ^= 1 << self.rng.randrange(8)
            (place / shipped.name).write_bytes(data)
            shutil.copy(shipped.with_suffix(".json"), place)
            arguments = self.program.arguments(PLACE, out)
            changed = {"--checkpoint": place / shipped.name, "--config": "default"}
            arguments = [f"{a.split('=')[0]}={changed.get(a.split('=')[0], a.split('=', 1)[-1])}" if "=" in a
                         else a for a in arguments]  # fmt: skip
            code = children.Child(functools.partial(self.program.main, arguments), self.log(out)).wait()
            printed = self.log(out).read_text()
            yield "" if code == 2 and "sha256" in printed else f"exit code {code}: {printed[-200:]}"


FAULTS: tuple[Callable[[Rack], Iterator[str]], ...] = (
    Rack.kills,
    Rack.full,
    Rack.read_only,
    Rack.broken,
    Rack.small_disk,
    Rack.signals,
    Rack.clocks,
    Rack.vanished,
    Rack.checkpoints,
    Rack.weights,
    Rack.crashes,
)


def torture(name: str, part: float, seed: int, limit: float, faults: list[str]) -> int:
    """Gives one program all faults; returns how many it did not survive."""
    start = time.monotonic()
    rack = Rack(name, part, random.Random(f"{seed} {name}"))
    print(f"{name}: alone {rack.seconds:.1f} s, {rack.operations} file operations", flush=True)
    lost = 0
    for fault in FAULTS:
        if fault.__name__ not in faults:
            continue
        problems: dict[str, int] = collections.Counter()
        for problem in fault(rack):
            problems[problem] += 1
            if time.monotonic() - start > limit:
                break
        if problems:
            bad = sum(problems.values()) - problems[""]
            lost += bad
            row = f"{name:11s} {fault.__doc__:52s} {sum(problems.values()):6d} {problems['']:9d} {bad:7d}"
            print(row, *(f"    {problem}" for problem in problems if problem), sep="\n", flush=True)
    return lost


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", type=float, default=1.0, help="of the usual number of trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=560.0, help="seconds, after which trials are left out")
    parser.add_argument("--program", choices=tuple(programs.PROGRAMS), help="only this one")
    parser.add_argument("--adapt", type=int, default=0, help="steps of adaptation in segment.py; slow")
    names = [fault.__name__ for fault in FAULTS]
    parser.add_argument("--faults", default=",".join(names), help="only these of the default ones")
    options = parser.parse_args()
    faults = options.faults.split(",")
    if unknown := set(faults) - set(names):
        parser.error(f"--faults: there is no {', '.join(sorted(unknown))}")
    warnings.filterwarnings("ignore", message=".*fork.*")
    PLACE.mkdir(parents=True, exist_ok=True)
    programs.ADAPTATION = options.adapt
    children.ask(functools.partial(programs.prepare, PLACE), PLACE)
    print(f"{'program':11s} {'fault':52s} trials survived    lost")
    names = [options.program] if options.program else list(programs.PROGRAMS)
    # Side by side: they wait more than they compute.
    tortured = [
        children.Child(
            functools.partial(torture, name, options.part, options.seed, options.limit, faults),
            PLACE / f"{name}.txt",
        )
        for name in names
    ]
    lost = 0
    children.SECONDS = options.limit + 60
    for name, child in zip(names, tortured, strict=True):
        code = child.wait()
        print((PLACE / f"{name}.txt").read_text(), end="", flush=True)
        lost += code
    if not lost:
        shutil.rmtree(PLACE)
        return 0
    print(f"lost results and logs are kept in {PLACE}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
