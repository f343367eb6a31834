"""Merges the probabilities of several runs into the masks of an ensemble.

python eval.py --config davis17 --save-probabilities --out results/a
python eval.py --config davis17 --save-probabilities --out results/b --config.model.memory.every=3
python -m vos_jax.tools.merge results/a results/b --out results/ab
python eval.py --config davis17 --score-only results/ab
"""

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from vos_jax import errors, option_parser, output_folder
from vos_jax.data import mask_files
from vos_jax.inference import mask_writer, probabilities
from vos_jax.typing import UInt8


def merge(runs: Sequence[pathlib.Path], out: pathlib.Path, weights: Sequence[float] | None = None) -> int:
    """Writes OUT/SEQUENCE/FRAME.png from the weighted mean of the runs' probabilities.

    Half a level is added to the object in a run's own mask, which breaks ties of rounded probabilities. So a
    single run gives its own masks.

    Args:
      runs: results folders of `eval.py --save-probabilities`.
      out: another folder, without masks.
      weights: one per run, above 0; default: equal.

    Returns:
      The number of written masks.

    Raises:
      VosError: no probabilities, or runs with different frames (before anything is written); a damaged file,
        or runs that differ in size or objects (possibly after some masks).
    """
    weights = [1.0] * len(runs) if weights is None else weights
    if len(weights) != len(runs) or min(weights) <= 0:
        raise errors.VosError(f"--weights: {len(runs)} run(s) need as many numbers above 0, not {weights}")
    listed = [_frames(run) for run in runs]
    for run, frames in zip(runs[1:], listed[1:], strict=True):
        for sequence, name in sorted(listed[0] ^ frames):
            lacks, has = (run, runs[0]) if (sequence, name) in listed[0] else (runs[0], run)
            raise errors.VosError(
                f"{probabilities.path_of(lacks, sequence, name)}: missing, but {has} has it; merge runs over "
                "the same sequences"
            )
    if out.is_dir() and any(out.glob("*/*.png")):
        raise errors.VosError(f"{out}: already contains masks; choose another --out")
    output = output_folder.OutputFolder(out, inputs=runs)
    with contextlib.closing(output), mask_writer.MaskWriter(out) as masks_out:
        for sequence, name in sorted(listed[0]):
            masks_out.write(sequence, name, _merge_frame(runs, weights, sequence, name))
        masks_out.flush()
        output.compact()
    return len(listed[0])


def _frames(run: pathlib.Path) -> set[tuple[str, str]]:
    found = {(path.parent.name, path.stem) for path in (run / probabilities.FOLDER).glob("*/*.npz")}
    if not found:
        raise errors.VosError(
            f"{run}: no {probabilities.FOLDER}/SEQUENCE/FRAME.npz; eval.py --save-probabilities writes them"
        )
    return found


def _merge_frame(
    runs: Sequence[pathlib.Path], weights: Sequence[float], sequence: str, name: str
) -> UInt8[np.ndarray, "H W"]:
    total: np.ndarray | None = None
    objects: tuple[int, ...] = ()
    for run, weight in zip(runs, weights, strict=True):
        path = probabilities.path_of(run, sequence, name)
        soft = probabilities.read(path)
        order = np.argsort((0, *soft.objects), kind="stable")
        own = tuple(sorted(soft.objects))
        if total is None:
            objects, total = own, np.zeros(soft.levels.shape, np.float64)
        height, width = total.shape[1:]
        if own != objects or soft.levels.shape != total.shape:
            raise errors.VosError(
                f"{path}: objects {own} at {soft.levels.shape[2]}x{soft.levels.shape[1]}; {runs[0]} has "
                f"{objects} at {width}x{height}"
            )
        mask = mask_files.read_mask(mask_writer.mask_path(run, sequence, name), (height, width))
        shown = mask[None] == np.array((0, *objects), np.uint8)[:, None, None]
        total += weight * (soft.levels[order] + 0.5 * shown)
    assert total is not None  # there is at least one run
    return np.array((0, *objects), np.uint8)[np.argmax(total, axis=0)]


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    """Merges the runs of the command line."""
    parser = option_parser.OptionParser(
        prog="python -m vos_jax.tools.merge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN", help="folder of results")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--weights", nargs="+", type=float, metavar="W", help="one per run; default: all 1")
    options = parser.parse_args(arguments)
    count = merge(options.runs, options.out, options.weights)
    print(f"{count} masks of {len(options.runs)} run(s): {options.out}")


if __name__ == "__main__":
    sys.exit(main())
