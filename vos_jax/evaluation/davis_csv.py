"""Score files of the official DAVIS toolkit: the same file names, columns and rounding."""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vos_jax import errors, files

MEASURES = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


def names(split: str) -> tuple[str, str]:
    """Returns the names of the files of a split: the means, and the scores of each object."""
    return f"global_results-{split}.csv", f"per-sequence_results-{split}.csv"


def write(folder: pathlib.Path, split: str, results: Mapping[str, Any]) -> list[pathlib.Path]:
    """Writes global_results-SPLIT.csv and per-sequence_results-SPLIT.csv and returns their paths.

    The second has a row per OBJECT, named SEQUENCE_OBJECT, as in the toolkit.

    Args:
      folder: an existing folder.
      split: "val", "test-dev", ...
      results: the table of `scoring.summarise`. Without a score, nothing is written.

    Raises:
      VosError: a file cannot be written.
    """
    if not results["objects"]:
        return []
    j, f = results["J"], results["F"]
    statistics = [of[statistic] for of in (j, f) for statistic in ("mean", "recall", "decay")]
    whole = [(j["mean"] + f["mean"]) / 2, *statistics]
    objects = [[f"{o['sequence']}_{o['object']}", o["J"], o["F"]] for o in results["objects"]]
    means, per_object = names(split)
    return [
        _write(folder / means, MEASURES, [whole]),
        _write(folder / per_object, ("Sequence", "J-Mean", "F-Mean"), objects),
    ]


def _write(path: pathlib.Path, header: Sequence[str], rows: Sequence[Sequence]) -> pathlib.Path:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header)
    table.writerows([[f"{v:.3f}" if isinstance(v, float) else v for v in row] for row in rows])
    try:
        with files.atomic(path) as temporary:
            temporary.write_text(text.getvalue())
    except OSError as error:
        raise errors.VosError(f"{path}: cannot write: {error.strerror or error}") from error
    return path
