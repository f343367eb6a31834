"""Time per frame at 480x854, by stage, for 1 and 3 objects; and whether frame 400 costs what frame 40 does.

    python -m benchmarks.speed [--checkpoint none|auto|PATH] [--objects 1,3] [--frames 420]

Stages run alone, each compiled by itself, so they need not add up to the whole step. The video is rendered
and looped; "I/O" is decoding a JPEG and writing an indexed PNG.
"""

import argparse
import pathlib
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import cv2
import jax
import numpy as np

from vos_jax import config as configs
from vos_jax import errors
from vos_jax.data import frames as frame_lib
from vos_jax.data import masks as mask_files
from vos_jax.data import rendered
from vos_jax.inference import loading, tracker
from vos_jax.models import masks
from vos_jax.models import state as state_lib

SIZE = (480, 854)


def measure(f: Callable[[], object], repeats: int = 15) -> tuple[float, float]:
    """Median and interquartile range in milliseconds, after one call that does not count."""
    jax.block_until_ready(f())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(f())
        times.append(1e3 * (time.perf_counter() - start))
    low, _, high = statistics.quantiles(times, n=4)
    return statistics.median(times), high - low


def peak_megabytes() -> float:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_megabytes() -> float:
    """What this process holds now."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def stages(model, params, track: tracker.Track, frame: np.ndarray) -> dict[str, tuple[float, float]]:
    """Times each stage on a track whose memory is full."""
    padded = jax.device_put(track._pad(frame))
    encode = jax.jit(model.encode)
    predict = jax.jit(lambda p, e, s: model.predict(p, e, s).prob)
    finish = jax.jit(lambda prob, valid: masks.to_ids(masks.aggregate(prob, valid), state_lib.MASK_STRIDE))
    size = track.state.frame_size
    encoded = jax.block_until_ready(encode(params, padded, size))
    prob = predict(params, encoded, track.state)
    return {
        "backbone and key": measure(lambda: encode(params, padded, size)),
        "read to masks": measure(lambda: predict(params, encoded, track.state)),
        "upsampling and argmax": measure(lambda: finish(prob, track.state.object_valid)),
    }


def io(folder: pathlib.Path, frame: np.ndarray, ids: np.ndarray) -> dict[str, tuple[float, float]]:
    """Times reading a frame and writing a mask."""
    path = folder / "frame.jpg"
    cv2.imwrite(str(path), frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return {
        "decode a frame": measure(lambda: frame_lib.read_frame(path)),
        "write a mask": measure(lambda: mask_files.write_mask(folder / "mask.png", ids)),
    }


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", default="none")
    parser.add_argument("--objects", default="1,3")
    parser.add_argument("--frames", type=int, default=420)
    options, overrides = configs.split_arguments(sys.argv[1:])
    options = parser.parse_args(options)
    config = configs.load("default", overrides)
    model, params, label = loading.make_model(config, options.checkpoint)
    params = jax.device_put(params)
    device = f"{jax.devices()[0].device_kind}, {platform.machine()}, {jax.default_backend()}"
    print(f"# {SIZE[0]}x{SIZE[1]}, checkpoint {label}, {device}, jax {jax.__version__}\n")
    for count in map(int, options.objects.split(",")):
        video = rendered.RenderedSource(size=SIZE, frames=24, objects=count).video(
            rendered.RenderedSource(size=SIZE, frames=24, objects=count).sequences()[0]
        )
        shown = [video.frame(i) for i in range(len(video))]
        ids = video.annotation(0)
        run = tracker.Tracker(model, params, buckets=config.objects.buckets)
        track = run.start(SIZE, count)
        times, resident = [], []
        for index in range(options.frames):
            # Forward and backward, so that the loop has no cut.
            place = index % 46
            frame = shown[place if place < 24 else 46 - place]
            start = time.perf_counter()
            track.step(frame, ids if index == 0 else None)
            times.append(1e3 * (time.perf_counter() - start))
            resident.append(resident_megabytes())
        print(f"## {count} object(s), bucket {track.capacity}\n")
        print("| stage | median ms | IQR ms |\n|---|---:|---:|")
        with tempfile.TemporaryDirectory() as folder:
            rows = stages(model, params, track, shown[0]) | io(pathlib.Path(folder), shown[0], ids)
        for name, (median, spread) in rows.items():
            print(f"| {name} | {median:.1f} | {spread:.1f} |")
        for name, around in (("frame 40", 40), ("frame 400", 400)):
            if around + 20 <= options.frames:
                window = times[around - 20 : around + 20]
                low, _, high = statistics.quantiles(window, n=4)
                print(f"| whole step around {name} | {statistics.median(window):.1f} | {high - low:.1f} |")
        if options.frames >= 420:
            ratio = statistics.median(times[380:420]) / statistics.median(times[20:60])
            print(f"\nframe 400 / frame 40: time {ratio:.3f}, memory {resident[400] / resident[40]:.3f}")
        print(f"compile {run.seconds['compile']:.1f} s, peak memory {peak_megabytes():.0f} MB\n")


if __name__ == "__main__":
    main()
