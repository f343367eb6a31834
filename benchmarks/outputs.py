"""Outputs of the jobs of benchmarks/same_as.py: read from files, and compared."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

VOLATILE = ("seconds", "fps", "fps_inference", "peak_memory_mb", "device", "checkpoint", "config")
"""Keys of results.json that describe the run, the tree or the machine."""


def read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the results of a job: arrays, numbers and texts by name."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".png":
            with Image.open(path) as image:
                found[name] = np.asarray(image)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                prefix = "" if path.parent == folder else f"{name}/"
                found |= {f"{prefix}{key}": arrays[key] for key in arrays.files}
        elif path.name == "found.json":
            found |= json.loads(path.read_text())
        elif path.name == "results.json":
            found |= _flatten(name, json.loads(path.read_text()))
        elif path.name == "masks.json":
            found[name] = path.read_text()
    return found


def _flatten(name: str, value: Any) -> dict[str, Any]:
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None:
        return {name: value}
    return {
        key: found
        for part, inner in items
        if part not in VOLATILE
        for key, found in _flatten(f"{name}/{part}", inner).items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference between two outputs of a job.

    Args:
        pixels: number of differing pixels of masks and pictures.
        values: number of other differing values.
        largest: the largest difference of numbers, as a share of the largest number of its group (the name
            before the first "/"); infinite if a value has no counterpart.
        example: the name of the first difference; "" if there is none.
    """

    pixels: int = 0
    values: int = 0
    largest: float = 0.0
    example: str = ""

    def __str__(self) -> str:
        if not self.example:
            return "same" if self.largest == 0 else f"same to {self.largest:.1e}"
        counts = {"pixels": self.pixels, "values": self.values}
        told = " and ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)
        number = f" by up to {self.largest:.1e}" if self.largest else ""
        return f"{told} differ{number}, first {self.example}"


def compare(base: Mapping[str, Any], here: Mapping[str, Any], tolerance: float = 0.0) -> Comparison:
    """Compares two outputs of `read`; numbers may differ by `tolerance`, see `Comparison.largest`."""
    scales: dict[str, float] = {}
    for found in (base, here):
        for name, value in found.items():
            if _is_number(value) and np.size(value):
                size = np.max(np.abs(np.nan_to_num(np.asarray(value, np.float64), posinf=0, neginf=0)))
                scales[_group(name)] = max(scales.get(_group(name), 0.0), float(size))
    pixels, values, largest, example = 0, 0, 0.0, ""
    if not base and not here:
        return Comparison(values=1, example="no output at all")
    for name in [*base, *(name for name in here if name not in base)]:
        a, b = base.get(name, _ABSENT), here.get(name, _ABSENT)
        by = _difference(a, b)
        count = int(np.sum(by > 0))
        if not count:
            continue
        if _is_number(a) and _is_number(b):
            by = by / (scales[_group(name)] or 1.0)
            largest = max(largest, float(np.max(by)))
            count = int(np.sum(by > tolerance))
        elif a is _ABSENT or b is _ABSENT:
            largest = np.inf
        if name.endswith(".png"):
            pixels += count
        else:
            values += count
        if count:
            example = example or name
    return Comparison(pixels=pixels, values=values, largest=largest, example=example)


_ABSENT = object()


def _group(name: str) -> str:
    return name.partition("/")[0]


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "f"
    return isinstance(value, float)


def _difference(a: Any, b: Any) -> np.ndarray:
    """Returns the difference of two values per element; 0 or 1 for values that are not floats."""
    shapes = [np.shape(x) for x in (a, b) if isinstance(x, np.ndarray)]
    alike = type(a) is type(b) and np.shape(a) == np.shape(b)
    if alike and _is_number(a) and _is_number(b) and np.asarray(a).dtype == np.asarray(b).dtype:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            by = np.abs(a - b)
        return np.where(same, 0.0, np.where(np.isnan(by), np.inf, by))
    if len(shapes) == 2 and shapes[0] == shapes[1] and a.dtype == b.dtype:
        if a.ndim == 3 and a.shape[-1] <= 4:  # colours of a picture
            return np.any(a != b, axis=-1).astype(float)
        return (a != b).astype(float)
    if shapes:
        return np.ones(shapes[0])
    return np.array(0.0 if type(a) is type(b) and a == b else 1.0)
