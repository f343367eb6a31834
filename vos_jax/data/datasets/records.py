"""Data sets packed by tools/pack_data.py: one ArrayRecord record per frame, and an index, metadata.json."""

import abc
import dataclasses
import itertools
import pathlib
from typing import Any, Protocol

import cv2
import grain
import numpy as np

from vos_jax import errors, files
from vos_jax.data import examples, image_files, mask_files
from vos_jax.data import video as video_lib
from vos_jax.data.datasets import base
from vos_jax.typing import UInt8, cached_property

_DEPTHS = ("", "*/", "*/*/", "*/*/*/")
"""Patterns of a prepared data set's folder below the root."""


class Records(Protocol):
    """Random access to the records of a split, as dicts."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> dict[str, Any]: ...


class PackedRecords:
    """Records written by `vos_jax.tools.builders`, as dicts of byte strings; opened on first use."""

    def __init__(self, folder: pathlib.Path, split: str):
        self._folder, self._split = folder, split
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _open(self) -> Any:
        if self._opened is None:
            try:
                self._opened = grain.sources.ArrayRecordDataSource(self._shards())
            # array_record raises various errors for damaged files.
            except Exception as error:
                raise errors.VosError(
                    f"{self._folder}: cannot open split '{self._split}' ({brief(error)}); "
                    "pack it again with python -m vos_jax.tools.pack_data"
                ) from error
        return self._opened

    def _shards(self) -> list[str]:
        """Returns the split's files, in order; ValueError if some are missing."""
        try:
            info = files.read_json(self._folder / "dataset_info.json")
            lengths = {split["name"]: split["shardLengths"] for split in info["splits"]}
        except (KeyError, TypeError) as error:
            raise ValueError(f"dataset_info.json lists no splits: {error}") from error
        if self._split not in lengths:
            raise ValueError(f"there are: {', '.join(map(str, lengths))}")
        found = sorted(path for path in self._folder.glob("*.array_record-*-of-*") if path.is_file())
        found = [str(path) for path in found if path.name.split(".")[0].endswith(f"-{self._split}")]
        if len(found) != len(lengths[self._split]):
            raise ValueError(f"it has {len(found)} of {len(lengths[self._split])} files")
        return found

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, position: int) -> dict[str, Any]:
        data = self._open()
        try:
            return examples.byte_features(data[position])
        except Exception as error:
            raise errors.VosError(
                f"{self._folder}: record {position} is unreadable ({brief(error)})"
            ) from error


def brief(error: Exception) -> str:
    """Returns the first non-empty line of an error, or its type."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordVideo(video_lib.Video):
    """A video whose frames and masks are encoded images in records.

    Attributes:
      records: The records of its split.
      position: Of its first record.
      root: The data set's folder, for errors.
    """

    records: Records
    position: int
    root: str

    @abc.abstractmethod
    def encoded(self, index: int, part: str) -> bytes:
        """Returns the "frame" or the "mask" of a frame; VosError if its record has none."""

    @cached_property
    def size(self) -> tuple[int, int]:
        """(height, width), from the first frame, which is decoded."""
        return self._decoded(0).shape[:2]

    def frame(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Returns frame `index` in RGB; VosError if it cannot be decoded."""
        return image_files.shrink(self._decoded(index), self.short_side)

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"] | None:
        """Returns the object ids of frame `index`, None without annotation; VosError if they are damaged."""
        if index not in self.annotated:
            return None
        ids = decode_ids(self.encoded(index, "mask"), self.where(index))
        return np.minimum(ids, np.uint8(1)) if self.merge_objects else ids

    def fingerprint(self) -> str:
        """Returns a checksum of the names and bytes of all frames; VosError if one cannot be read."""
        return video_lib.checksum(self.frame_names, (self.encoded(i, "frame") for i in range(len(self))))

    def where(self, index: int) -> str:
        """Returns the name of a frame in errors."""
        return f"{self.root}: {self.name} frame {index}"

    def _decoded(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        image = image_files.decode(self.encoded(index, "frame"), self.where(index))
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class PackedVideo(RecordVideo):
    """A video packed by `vos_jax.tools.builders`: one record per frame."""

    def encoded(self, index: int, part: str) -> bytes:
        """Returns the "frame" or the "mask" of a frame; VosError if its record has none."""
        path = ("frame" if part == "frame" else "ids",)
        return image_at(self.records[self.position + index], path, self.where(index))


def decode_ids(data: bytes, where: str) -> UInt8[np.ndarray, "H W"]:
    """Decodes object ids that a builder stored as an 8-bit grey PNG; void (255) becomes background."""
    ids = image_files.decode(data, where, cv2.IMREAD_UNCHANGED)
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise errors.VosError(f"{where}: the packed mask is not an 8-bit grey PNG")
    ids[ids == mask_files.VOID] = 0
    return ids


def image_at(record: Any, path: tuple[str | int, ...], where: str) -> bytes:
    """Returns the encoded image at a path of keys and positions; VosError if there is none."""
    try:
        for key in path:
            record = record[key]
    except (KeyError, IndexError, TypeError):
        record = None
    if not isinstance(record, bytes):
        raise errors.VosError(f"{where}: its record has no image at {'/'.join(map(str, path))}")
    return record


def open_records(config: base.DatasetConfig) -> base.VideoDataset:
    """Opens a data set packed by `python -m vos_jax.tools.pack_data`; each object's first mask is its prompt.

    Raises:
      VosError: no packed data set at or below `root`, or a damaged one.
    """
    folder = find_folder(config.root)
    try:
        metadata = files.read_json(folder / "metadata.json")
        index, photos = metadata["sequences"], metadata["static"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.VosError(
            f"{folder}: no index of sequences (metadata.json); only datasets packed by python -m "
            "vos_jax.tools.pack_data have one. For the davis of TFDS set kind='tfds'"
        ) from error
    records = PackedRecords(folder, config.split)
    if type(photos) is not bool or not isinstance(index, list):
        raise errors.VosError(f"{folder / 'metadata.json'}: damaged; pack the data set again")
    entries: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(index):
        if not _is_whole(entry, len(records)) or entry["name"] in entries:
            raise errors.VosError(
                f"{folder / 'metadata.json'}: sequence {number} is damaged, or its records are not in split "
                f"'{config.split}' ({len(records)} records); pack the data set again"
            )
        entries[entry["name"]] = entry
    if index:
        records[index[0]["start"]]  # raises at once if the records cannot be read

    def open_video(name: str) -> video_lib.Video:
        entry = entries[name]
        return PackedVideo(
            name=name,
            frame_names=tuple(f"{time:05d}" for time in range(entry["length"])),
            annotated=tuple(entry["annotated"]),
            with_objects=tuple(entry["holding"]),
            merge_objects=config.merge_objects,
            records=records,
            position=entry["start"],
            root=config.root,
        )

    return base.VideoDataset(
        name=folder.parent.name,
        split=config.split,
        names=tuple(entries),
        open_video=open_video,
        listing=str(folder / "metadata.json"),
        photos=photos,
    )


def prepared(root: str | pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders at or below a root that hold a dataset prepared by TFDS, sorted."""
    paths = (path for depth in _DEPTHS for path in pathlib.Path(root).glob(depth + "dataset_info.json"))
    return sorted(path.parent for path in paths)


def find_folder(root: str) -> pathlib.Path:
    """Returns the only folder at or below a root with a prepared dataset; VosError for none or several."""
    found = prepared(root)
    if len(found) != 1:
        inside = ", ".join(str(path.relative_to(root)) for path in found[:5])
        what = f"several: {inside}" if found else "none" if pathlib.Path(root).is_dir() else "no such folder"
        raise errors.VosError(f"{root}: expected one prepared dataset (a dataset_info.json), found {what}")
    return found[0]


def packed_names(root: str | pathlib.Path) -> list[str] | None:
    """Returns the names packed at or below a folder; None if no packed dataset is found."""
    try:
        (folder,) = prepared(root)
        return [str(entry["name"]) for entry in files.read_json(folder / "metadata.json")["sequences"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_whole(entry: Any, count: int) -> bool:
    """Returns whether an entry of metadata.json is valid and its records are among `count`."""

    def rising(times: Any, stop: int) -> bool:
        return (
            isinstance(times, list)
            and all(type(time) is int for time in times)
            and all(a < b for a, b in itertools.pairwise([-1, *times, stop]))
        )

    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return False
    start, length = entry.get("start"), entry.get("length")
    if type(start) is not int or type(length) is not int or not 0 <= start < start + length <= count:
        return False
    return rising(entry.get("annotated"), length) and rising(entry.get("holding"), length)
