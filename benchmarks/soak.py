"""Checks that resources do not grow over 20,000 small frames in one process.

    python -m benchmarks.soak [--checkpoint auto] [--frames 20000] [--size 96x160]

Segments rendered frames with all edits of a user: objects are added, corrected and removed, soft masks are
read, the state is saved and loaded, masks are written, and every 1,920 frames a new session begins. Prints a
row every 1,000 frames: milliseconds per frame (median), resident memory, Python's objects, threads, open
files, compiled programs. The exit code is 1 if the median of resident memory or Python's objects grows by
more than 2 % from the rows of the second quarter to those of the last (single readings vary more), or if
threads, files or programs grow at all.
"""

import argparse
import gc
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time

import numpy as np

from benchmarks import long_video, speed
from vos_jax import Prompt, Session, devices, errors, load
from vos_jax.data.datasets import rendered
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import mask_writer, session_file

CYCLE, VIDEO, ROW = 48, 40 * 48, 1000
GROWTH = 1.02


def row(engine: engine_lib.Engine) -> dict[str, float]:
    """Returns this process's use of each resource."""
    gc.collect()
    return {
        "resident MB": speed.resident_megabytes(),
        "objects": len(gc.get_objects()),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "compiled": engine.compilations,
    }


def act(session: Session, ids: np.ndarray, folder: pathlib.Path) -> Session:
    """Applies one of a user's edits after a frame; returns the session. The edits repeat every 48 frames."""
    at = (session.index - 1) % CYCLE
    if at == 6:
        corner = np.zeros(ids.shape, np.uint8)
        corner[: ids.shape[0] // 4, -ids.shape[1] // 4 :] = 200
        session.edit(corner)
    elif at == 18:
        session.edit(np.where(ids == 200, 0, ids))
    elif at == 30:
        session.edit(Prompt(remove=frozenset({200})))
    elif at == 36:
        session.probabilities()
    elif at == 42:
        session_file.save(folder / "state.safetensors", session)
        return session_file.load(folder / "state.safetensors", session.engine)
    return session


def soak(engine: engine_lib.Engine, frames: int, size: tuple[int, int]) -> list[dict[str, float]]:
    """Segments the video in a loop; prints and returns the rows."""
    video = rendered.make_video(size=size, frames=CYCLE // 2, objects=2)
    there = [video.frame(index) for index in range(CYCLE // 2)]
    shown = there + there[::-1]  # forward and backward, so that the loop is continuous
    first, rows, times, session = video.mask(0), [], [], Session(engine)
    print("| frames | ms | resident MB | objects | threads | files | compiled |\n|" + "---:|" * 7)
    with tempfile.TemporaryDirectory() as place, mask_writer.MaskWriter(place) as out:
        folder = pathlib.Path(place)
        for index in range(frames):
            if index % VIDEO == 0:
                session = Session(engine)
            start = time.perf_counter()
            ids = session.step(shown[index % CYCLE], first if index % VIDEO == 0 else None).ids
            times.append(1e3 * (time.perf_counter() - start))
            session = act(session, ids, folder)
            out.write("soak", f"{index % CYCLE:05d}", ids)
            if (index + 1) % ROW == 0 or index + 1 == frames:
                out.flush()
                rows.append({"frames": index + 1, "ms": statistics.median(times), **row(engine)})
                times.clear()
                print("| " + " | ".join(f"{value:,.0f}" for value in rows[-1].values()) + " |", flush=True)
    return rows


def grown(rows: list[dict[str, float]]) -> list[str]:
    """Returns the resources that grew between the second quarter and the last one."""
    quarter = max(len(rows) // 4, 1)
    parts = rows[quarter : 2 * quarter] or rows, rows[-quarter:]
    before, after = ({k: statistics.median(row[k] for row in part) for k in rows[0]} for part in parts)
    found = [name for name in ("threads", "files", "compiled") if after[name] > before[name]]
    for name in ("resident MB", "objects"):
        if after[name] > GROWTH * before[name]:
            found.append(f"{name} by {100 * (after[name] / before[name] - 1):.1f} %")
    return found


@errors.entry_point
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="auto", help="auto, none, or exported weights")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--size", default="96x160", metavar="HxW")
    options = parser.parse_args(arguments)
    size = long_video.parse_size(options.size)
    if options.frames < 1:
        raise errors.VosError(f"--frames {options.frames}: at least 1")
    device = devices.choose(None)
    named = {"auto": ("lite0", None), "none": ("training_free", None)}
    name, checkpoint = named.get(options.checkpoint, ("lite0", options.checkpoint))
    engine = load(name, checkpoint=checkpoint)
    print(f"{options.frames:,} frames of {size[0]}x{size[1]}, {name} on {device}\n")
    found = grown(soak(engine, options.frames, size))
    print(f"\ngrew: {', '.join(found)}" if found else "\nnothing grew")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
