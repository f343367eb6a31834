"""The measured programs: the device's peaks, the training step, the inference step."""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from benchmarks import peaks, train_speed
from benchmarks.accelerator import kernels
from benchmarks.accelerator.training import Program
from vos_jax.data.datasets import rendered
from vos_jax.inference import config as inference_config
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import session as session_lib

_STEPS_SECONDS, _MOST_STEPS = 6.0, 30
_PROFILED_STEPS = 2


def device_peaks(side: int, megabytes: int) -> dict[str, float]:
    """Returns TFLOP/s of large matrix products and GB/s of a large copy.

    Args:
      side: rows and columns of the matrices.
      megabytes: of the copied vector.
    """
    kinds = {"float32": ("float32", "highest"), "bfloat16": ("bfloat16", None)}
    if jax.default_backend() == "gpu":
        kinds["tf32"] = ("float32", "high")
    found = {f"{name}_tflops": peaks.product(side, *kind) / 1e12 for name, kind in kinds.items()}
    return found | {"gigabytes_per_second": peaks.copy(megabytes) / 1e9}


def training_step(program: Program, batch: int) -> dict[str, float]:
    """Returns the seconds of a training step and of its compilation, and clips per second.

    Steps are dispatched without waiting in between, as in training. The first call, which traces and
    compiles, counts as compilation.
    """
    run, clips = program.begin(), _noise(program, batch)
    begin = time.perf_counter()
    run, metrics = program.trainer.step(run, clips)
    jax.block_until_ready(metrics)
    compiled = time.perf_counter()
    run, metrics = program.trainer.step(run, clips)
    jax.block_until_ready(metrics)
    steps = int(np.clip(_STEPS_SECONDS / (time.perf_counter() - compiled), 2, _MOST_STEPS))
    start = time.perf_counter()
    for _ in range(steps):
        run, metrics = program.trainer.step(run, clips)
    jax.block_until_ready(metrics)
    seconds = (time.perf_counter() - start) / steps
    found = {
        "step_seconds": seconds,
        "clips_per_second": batch / seconds,
        "compile_seconds": compiled - begin,
        "steps": steps,
    }
    used = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return found if used is None else {**found, "peak_gigabytes_so_far": used / 1e9}


def training_kernels(program: Program, batch: int, count: int = 20) -> dict[str, Any]:
    """Returns the costliest kernels of two training steps, without compilation."""
    run, clips = program.begin(), _noise(program, batch)
    run, metrics = program.trainer.step(run, clips)
    jax.block_until_ready(metrics)

    def steps() -> Any:
        nonlocal run
        for _ in range(_PROFILED_STEPS):
            run, metrics = program.trainer.step(run, clips)
        return metrics

    return {"profiled_steps": _PROFILED_STEPS, "kernels": kernels.costliest(steps, count)}


def inference_step(program: Program, size: tuple[int, int], frames: int) -> dict[str, float]:
    """Returns the milliseconds of a frame of a session with one object, and the seconds of compilation.

    Args:
      program: gives the model and its initial weights.
      size: height and width of a frame.
      frames: to segment; the last half, with a full memory, is timed.
    """
    config = inference_config.InferenceConfig(min_size=0, object_buckets=(1,))
    engine = engine_lib.Engine(program.model, program.params, config)
    video = rendered.make_video(size=size, frames=8, objects=1)
    shown = [video.frame(index) for index in range(len(video))]
    session, times, step_seconds = session_lib.Session(engine, size), [], 0.0
    for index in range(frames):
        if index == frames // 2:
            step_seconds = engine.seconds["inference"]
        begin = time.perf_counter()
        # Forward and backward, so that the loop is continuous.
        place = index % 14
        session.step(shown[place if place < 8 else 14 - place], video.mask(0) if index == 0 else None)
        times.append(time.perf_counter() - begin)
    timed = frames - frames // 2
    return {
        "frame_ms": 1e3 * float(np.median(times[frames // 2 :])),
        "step_ms": 1e3 * (engine.seconds["inference"] - step_seconds) / timed,
        "compile_seconds": engine.seconds["compile"],
        "frames": timed,
    }


def _noise(program: Program, batch: int) -> dict[str, jax.Array]:
    data = dataclasses.replace(program.config.train.data, batch=batch)
    return program.trainer.put_batch(train_speed.make_batch(data))
