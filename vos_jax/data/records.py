"""Training sequences in records: packed by `vos_jax.data.builders`, or the TFDS catalogue's davis.

What we packed is read by array_record alone; only the catalogue's davis needs tensorflow-datasets.
"""

import dataclasses
import itertools
import pathlib
from typing import Any, Protocol

import grain
import numpy as np

from vos_jax import errors, files
from vos_jax.data import examples, sequences
from vos_jax.typing import Int, UInt8, cached_property


class Records(Protocol):
    """Random access to the records of a split, as dicts."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> dict[str, Any]: ...


class PackedRecords:
    """Records written by `vos_jax.data.builders`: dicts of their byte strings, opened where used."""

    def __init__(self, folder: pathlib.Path, split: str):
        self._folder, self._split = folder, split
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _open(self) -> Any:
        if self._opened is None:
            try:
                self._opened = grain.sources.ArrayRecordDataSource(self._shards())
            # Whatever a damaged file makes array_record raise.
            except Exception as error:
                raise errors.VosError(
                    f"{self._folder}: cannot open split '{self._split}' ({_brief(error)}); "
                    "pack it again with python -m vos_jax.data.build"
                ) from error
        return self._opened

    def _shards(self) -> list[str]:
        """The split's files, in order; ValueError where they are not all there."""
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
            raise ValueError(f"{len(found)} of its {len(lengths[self._split])} files are there")
        return found

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, position: int) -> dict[str, Any]:
        data = self._open()
        try:
            return examples.byte_features(data[position])
        except Exception as error:
            raise errors.VosError(
                f"{self._folder}: record {position} is unreadable ({_brief(error)})"
            ) from error


class CatalogueRecords:
    """Records of a prepared TFDS dataset as nested dicts, images encoded; opened where used."""

    def __init__(self, folder: pathlib.Path, split: str):
        self._folder, self._split = folder, split
        self._opened: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _open(self) -> tuple[Any, Any]:
        if self._opened is None:
            # Imported here: it costs a second, and sources of files do without.
            import tensorflow_datasets as tfds
            from tensorflow_datasets.core import example_parser

            _check_features(self._folder)
            try:
                builder = tfds.builder_from_directory(self._folder)
                # Nested images can only be left undecoded by parsing the record ourselves.
                data = builder.as_data_source(
                    self._split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
                )
                parser = example_parser.ExampleParserNp(builder.info.features.get_serialized_info())
            # Whatever a damaged file makes TFDS, protobuf or array_record raise.
            except Exception as error:
                raise errors.VosError(
                    f"{self._folder}: cannot open split '{self._split}' ({_brief(error)}); "
                    "prepare it with file_format='array_record'"
                ) from error
            self._opened = data, parser
        return self._opened

    def __len__(self) -> int:
        return len(self._open()[0])

    def __getitem__(self, position: int) -> dict[str, Any]:
        data, parser = self._open()
        try:
            return parser.parse_example(data[position])
        except Exception as error:
            raise errors.VosError(
                f"{self._folder}: record {position} is unreadable ({_brief(error)})"
            ) from error


def _brief(error: Exception) -> str:
    """The first line that says something."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _check_features(folder: pathlib.Path) -> None:
    """Refuses a features.json that names Python classes of others: they would be imported."""
    try:
        waiting = [files.read_json(folder / "features.json")]
    except (OSError, ValueError) as error:
        raise errors.VosError(f"{folder / 'features.json'}: cannot read it ({error})") from error
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            name = value.get("pythonClassName", "tensorflow_datasets.")
            if not str(name).startswith("tensorflow_datasets."):
                raise errors.VosError(
                    f"{folder / 'features.json'}: refused: it names the class {name!r}, not of "
                    "tensorflow_datasets"
                )
        if isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value


_DEPTHS = ("", "*/", "*/*/", "*/*/*/")
"""Where a dataset may lie below the root that names it."""


def _find_dataset(config: sequences.SourceConfig) -> pathlib.Path:
    """Returns the one folder at or below root that holds a prepared TFDS dataset."""
    root = pathlib.Path(config.root)
    found = sorted(p.parent for depth in _DEPTHS for p in root.glob(depth + "dataset_info.json"))
    if len(found) != 1:
        what = f"several: {', '.join(str(p.relative_to(root)) for p in found[:5])}" if found else "none"
        raise errors.VosError(f"{root}: expected one prepared dataset (a dataset_info.json), found {what}")
    return found[0]


@dataclasses.dataclass(frozen=True)
class RecordSequences:
    """Sequences packed by `vos_jax.data.builders`: one record per frame, the index in metadata.json."""

    index: tuple[dict[str, Any], ...]
    records: Records
    config: sequences.SourceConfig
    static: bool

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(entry["name"] for entry in self.index)

    def length(self, index: int) -> int:
        return self.index[index]["length"]

    def annotated(self, index: int) -> Int[np.ndarray, "A"]:
        return np.array(self.index[index]["annotated"], int)

    def holding(self, index: int) -> Int[np.ndarray, "A"] | None:
        return np.array(self.index[index]["holding"], int)

    def frame(self, index: int, time: int) -> UInt8[np.ndarray, "H W 3"]:
        frame = sequences.decode_frame(*self._encoded(index, time, "frame"))
        return sequences.shrink_to(frame, self.config.short_side)

    def ids(self, index: int, time: int) -> UInt8[np.ndarray, "H W"]:
        ids = sequences.decode_ids(*self._encoded(index, time, "ids"))
        return np.minimum(ids, 1) if self.config.merge_objects else ids

    def _encoded(self, index: int, time: int, part: str) -> tuple[bytes, str]:
        """A part of a record, and what errors call it."""
        where = f"{self.config.root}: {self.names[index]} frame {time}"
        return _bytes(self.records[self.index[index]["start"] + time], (part,), where), where


def _bytes(record: Any, path: tuple[str | int, ...], where: str) -> bytes:
    """The encoded image at a path of keys and positions."""
    try:
        for key in path:
            record = record[key]
    except (KeyError, IndexError, TypeError):
        record = None
    if not isinstance(record, bytes):
        raise errors.VosError(f"{where}: its record has no image at {'/'.join(map(str, path))}")
    return record


def _is_whole(entry: Any, count: int) -> bool:
    """Whether an entry of metadata.json says what `builders` write, of records that are among `count`."""

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


def packed_names(root: str | pathlib.Path) -> list[str] | None:
    """Names of the sequences that are packed at or below a folder; None where no packed dataset is found."""
    folders = [path.parent for depth in _DEPTHS for path in pathlib.Path(root).glob(depth + "metadata.json")]
    if len(folders) != 1 or not (folders[0] / "dataset_info.json").is_file():
        return None
    try:
        return [str(entry["name"]) for entry in files.read_json(folders[0] / "metadata.json")["sequences"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def open_records(config: sequences.SourceConfig) -> RecordSequences:
    """A dataset packed by `python -m vos_jax.data.build`."""
    folder = _find_dataset(config)
    try:
        metadata = files.read_json(folder / "metadata.json")
        index, static = metadata["sequences"], metadata["static"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.VosError(
            f"{folder}: no index of sequences (metadata.json); only datasets packed by python -m "
            "vos_jax.data.build have one. For the catalogue's davis say kind='tfds'"
        ) from error
    records = PackedRecords(folder, config.split)
    if type(static) is not bool or not isinstance(index, list):
        raise errors.VosError(f"{folder / 'metadata.json'}: damaged; pack the data set again")
    for number, entry in enumerate(index):
        if not _is_whole(entry, len(records)):
            raise errors.VosError(
                f"{folder / 'metadata.json'}: sequence {number} is damaged, or its records are not in split "
                f"'{config.split}' ({len(records)} records); pack the data set again"
            )
    index = [index[i] for i in sequences.select([entry["name"] for entry in index], config)]
    problems = [
        sequences.problem_of(entry["length"], len(entry["annotated"]), config, static)
        or (None if entry["holding"] else "no objects")
        for entry in index
    ]
    kept = sequences.usable([entry["name"] for entry in index], problems, config)
    records[index[kept[0]]["start"]]  # whether there is anything to read, before training starts
    return RecordSequences(tuple(index[i] for i in kept), records, config, static)


@dataclasses.dataclass(frozen=True)
class CatalogueSequences:
    """The TFDS catalogue's `davis`: one record per video; only the frames asked for are decoded."""

    names: tuple[str, ...]
    positions: tuple[int, ...]
    lengths: tuple[int, ...]
    records: Records
    config: sequences.SourceConfig
    static: bool = False

    def length(self, index: int) -> int:
        return self.lengths[index]

    def annotated(self, index: int) -> Int[np.ndarray, "A"]:
        return np.arange(self.lengths[index])

    def holding(self, index: int) -> None:
        return None

    def frame(self, index: int, time: int) -> UInt8[np.ndarray, "H W 3"]:
        frame = sequences.decode_frame(*self._encoded(index, time, "frames"))
        return sequences.shrink_to(frame, self.config.short_side)

    def ids(self, index: int, time: int) -> UInt8[np.ndarray, "H W"]:
        ids = sequences.decode_ids(*self._encoded(index, time, "segmentations"))
        return np.minimum(ids, 1) if self.config.merge_objects else ids

    def _encoded(self, index: int, time: int, part: str) -> tuple[bytes, str]:
        """A part of a record, and what errors call it."""
        where = f"{self.config.root}: {self.names[index]} frame {time}"
        return _bytes(self.records[self.positions[index]], ("video", part, time), where), where


def open_catalogue(config: sequences.SourceConfig) -> CatalogueSequences:
    """The catalogue's `davis/480p` or another config of it, prepared below root as ArrayRecord."""
    folder = _find_dataset(config)
    records = CatalogueRecords(folder, config.split)
    try:
        heads = [records[i]["metadata"] for i in range(len(records))]
        names = [head["video_name"].decode() for head in heads]
        counts = [int(head["num_frames"]) for head in heads]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.VosError(f"{folder}: not the catalogue's davis (its records have no {error})") from error
    chosen = sequences.select(names, config)
    lengths = [counts[i] for i in chosen]
    kept = sequences.usable(
        [names[i] for i in chosen],
        [sequences.problem_of(length, length, config, False) for length in lengths],
        config,
    )
    return CatalogueSequences(
        names=tuple(names[chosen[k]] for k in kept),
        positions=tuple(chosen[k] for k in kept),
        lengths=tuple(lengths[k] for k in kept),
        records=records,
        config=config,
    )
