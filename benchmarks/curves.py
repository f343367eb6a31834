"""Draws a training run's curves: loss, its terms, IoUs of the clips, and J on held-back sequences.

    python -m benchmarks.curves runs/small docs/runs/small

writes docs/runs/small.png and docs/runs/small.jsonl, one line per `--every` steps and per evaluation.
"""

import argparse
import json
import pathlib
import sys

import matplotlib
import numpy as np

from vos_jax import errors

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  the backend is chosen first

IOUS = {"j": "refined", "j_coarse": "coarse", "j_propagated": "propagated by the memory"}


def read_lines(path: pathlib.Path) -> list[dict]:
    """Returns the objects of a JSONL file, [] if it does not exist; VosError names an invalid line."""
    lines = path.read_text().splitlines() if path.is_file() else []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise errors.VosError(f"{path}: line {number} is not JSON: {error}") from error
    return found


def smooth(values: list[float], width: int) -> np.ndarray:
    """Returns the running mean over `width` values, over fewer at both ends."""
    kernel = np.ones(min(width, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


@errors.entry_point
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path, help="without ending: OUT.png and OUT.jsonl are written")
    parser.add_argument("--every", type=int, default=100, help="steps between two lines of OUT.jsonl")
    parser.add_argument("--width", type=int, default=9, help="logged steps of the running mean")
    options = parser.parse_args()
    metrics = read_lines(options.workdir / "metrics.jsonl")
    if not metrics:
        raise errors.VosError(
            f"{options.workdir}: no metrics.jsonl with steps in it; is it a workdir of train.py?"
        )
    evaluations = read_lines(options.workdir / "evaluations.jsonl")

    figure, (losses, ious, held_back) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    steps = [line["step"] for line in metrics]
    for name in ("loss", "match", "refined_ce", "refined_iou", "coarse_iou", "objectness", "box", "mask_bce"):
        if name in metrics[0]:
            losses.plot(steps, smooth([line[name] for line in metrics], options.width), label=name)
    losses.set(title="loss and its terms", xlabel="step", yscale="log")
    for name, label in IOUS.items():
        ious.plot(steps, smooth([line[name] for line in metrics], options.width), label=label)
    ious.set(title="IoU on training clips", xlabel="step")
    for name in dict.fromkeys(name for line in evaluations for name in line if name != "step"):
        points = [(line["step"], line[name]) for line in evaluations if name in line]
        mean = {"color": "k", "linewidth": 2.5, "marker": "o"} if name == "J" else {"linewidth": 0.8}
        held_back.plot(*zip(*points, strict=True), label=name, **mean)
    held_back.set(title="J on held-back sequences", xlabel="step")
    for axes in (losses, ious, held_back):
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize=7)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out.with_suffix(".png"), dpi=80)

    kept = [line for line in metrics if line["step"] % options.every == 0 or line is metrics[-1]]
    rounded = [
        {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in line.items()}
        for line in kept
    ]
    lines = [json.dumps(line) for line in rounded + evaluations]
    options.out.with_suffix(".jsonl").write_text("\n".join(lines) + "\n")
    print(f"{options.out.with_suffix('.png')} and .jsonl: {len(steps)} logged steps to {steps[-1]}")


if __name__ == "__main__":
    sys.exit(main())
