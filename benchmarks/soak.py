"""20,000 small frames in one process: does anything grow?

    python -m benchmarks.soak [--checkpoint auto] [--frames 20000] [--size 96x160]

One video that never ends, with all that a user may do to it: objects are added, corrected and removed, soft
masks are taken, the state is saved and loaded, masks are written, and every 1,920 frames another video is
begun. A row each 1,000 frames: milliseconds per frame (median), resident memory, Python's objects, threads,
open files, programs compiled. Frames are drawn by our own code. Exit code 1 where the median of resident
memory grew by more than 2 % from the second quarter's rows to the last quarter's (single readings swing by
more), or anything else grew at all.
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
from vos_jax import Segmenter, devices, errors
from vos_jax.data.datasets import rendered
from vos_jax.inference import writer

CYCLE, VIDEO, ROW = 48, 40 * 48, 1000
GROWTH = 1.02


def row(seg: Segmenter) -> dict[str, float]:
    """What this process holds now."""
    gc.collect()
    return {
        "resident MB": speed.resident_megabytes(),
        "objects": len(gc.get_objects()),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "compiled": seg._tracker.compilations,
    }


def act(seg: Segmenter, index: int, ids: np.ndarray, folder: pathlib.Path) -> None:
    """What a user does after frame `index`: now one thing, now another; every 48 frames all of it is over."""
    at = index % CYCLE
    if at == 6:
        corner = np.zeros(ids.shape, bool)
        corner[: ids.shape[0] // 4, -ids.shape[1] // 4 :] = True
        seg.add_object(corner, 200)
    elif at == 18:
        seg.correct(np.where(ids == 200, 0, ids))
    elif at == 30:
        seg.remove_object(200)
    elif at == 36:
        seg.probabilities()
    elif at == 42:
        seg.save(folder / "state.safetensors")
        seg.load(folder / "state.safetensors")


def soak(seg: Segmenter, frames: int, size: tuple[int, int]) -> list[dict[str, float]]:
    """Follows the endless video and prints and returns the rows."""
    video = rendered.make_video(size=size, frames=CYCLE // 2, objects=2)
    there = [video.frame(index) for index in range(CYCLE // 2)]
    shown = there + there[::-1]  # so that the loop has no cut
    first, rows, times = video.mask(0), [], []
    print("| frames | ms | resident MB | objects | threads | files | compiled |\n|" + "---:|" * 7)
    with tempfile.TemporaryDirectory() as place, writer.MaskWriter(place) as out:
        folder = pathlib.Path(place)
        for index in range(frames):
            if index % VIDEO == 0:
                seg.reset()
            start = time.perf_counter()
            ids = seg.step(shown[index % CYCLE], first if index % VIDEO == 0 else None)
            times.append(1e3 * (time.perf_counter() - start))
            act(seg, index, ids, folder)
            out.write("soak", f"{index % CYCLE:05d}", ids)
            if (index + 1) % ROW == 0 or index + 1 == frames:
                out.flush()
                rows.append({"frames": index + 1, "ms": statistics.median(times), **row(seg)})
                times.clear()
                print("| " + " | ".join(f"{value:,.0f}" for value in rows[-1].values()) + " |", flush=True)
    return rows


def grown(rows: list[dict[str, float]]) -> list[str]:
    """What grew between the second quarter and the last one."""
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
    seg = Segmenter.from_pretrained(name, checkpoint=checkpoint)
    print(f"{options.frames:,} frames of {size[0]}x{size[1]}, {name} on {device}\n")
    found = grown(soak(seg, options.frames, size))
    print(f"\ngrew: {', '.join(found)}" if found else "\nnothing grew")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
