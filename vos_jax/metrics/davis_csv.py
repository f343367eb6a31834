"""Scores as the official DAVIS toolkit writes them: same file names, columns and rounding."""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from vos_jax import errors, files

MEASURES = ("J&F-Mean", "J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay")


def write(folder: pathlib.Path, split: str, results: Mapping[str, Any]) -> list[pathlib.Path]:
    """Writes global_results-SPLIT.csv and per-sequence_results-SPLIT.csv and returns their paths.

    The second has a row per OBJECT, named SEQUENCE_OBJECT, as the toolkit's has.

    Args:
      folder: it exists.
      split: "val", "test-dev", ...
      results: `scoring.summarise`'s table. One without a score writes nothing.

    Raises:
      VosError: a file cannot be written.
    """
    if not results["objects"]:
        return []
    j, f = results["J"], results["F"]
    statistics = [of[statistic] for of in (j, f) for statistic in ("mean", "recall", "decay")]
    whole = [(j["mean"] + f["mean"]) / 2, *statistics]
    objects = [[f"{o['sequence']}_{o['object']}", o["J"], o["F"]] for o in results["objects"]]
    return [
        _write(folder / f"global_results-{split}.csv", MEASURES, [whole]),
        _write(folder / f"per-sequence_results-{split}.csv", ("Sequence", "J-Mean", "F-Mean"), objects),
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
