"""The `davis` of TFDS: one record per video, read through tensorflow-datasets."""

import pathlib
from typing import Any

from vos_jax import errors, files
from vos_jax.data import video as video_lib
from vos_jax.data.datasets import base, records


class CatalogueVideo(records.RecordVideo):
    """A video of the davis of TFDS; only requested frames are decoded."""

    def encoded(self, index: int, part: str) -> bytes:
        """Returns the "frame" or the "mask" of a frame; VosError if its record has none."""
        path = ("video", "frames" if part == "frame" else "segmentations", index)
        return records.image_at(self.records[self.position], path, self.where(index))


def open_catalogue(config: base.DatasetConfig) -> base.VideoDataset:
    """Opens `davis/480p` or another config of it, prepared at or below `root` as ArrayRecord.

    The masks of the first frame are the prompts.

    Raises:
      VosError: no prepared dataset, or a different one.
    """
    folder = records.find_folder(config.root)
    found = CatalogueRecords(folder, config.split)
    try:
        heads = [found[i]["metadata"] for i in range(len(found))]
        names = tuple(head["video_name"].decode() for head in heads)
        lengths = [int(head["num_frames"]) for head in heads]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.VosError(f"{folder}: not the davis of TFDS (its records have no {error})") from error
    position_of = {name: position for position, name in enumerate(names)}

    def open_video(name: str) -> video_lib.Video:
        position = position_of[name]
        return CatalogueVideo(
            name=name,
            frame_names=tuple(f"{time:05d}" for time in range(lengths[position])),
            annotated=tuple(range(lengths[position])),
            merge_objects=config.merge_objects,
            prompt_rule="first_frame",
            records=found,
            position=position,
            root=config.root,
        )

    return base.VideoDataset(
        name="davis", split=config.split, names=names, open_video=open_video, listing=str(folder)
    )


class CatalogueRecords:
    """Records of a prepared TFDS dataset as nested dicts, images encoded; opened on first use."""

    def __init__(self, folder: pathlib.Path, split: str):
        self._folder, self._split = folder, split
        self._opened: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def _open(self) -> tuple[Any, Any]:
        if self._opened is None:
            # Imported here because it takes a second and other layouts do not need it.
            import tensorflow_datasets as tfds
            from tensorflow_datasets.core import example_parser

            _check_features(self._folder)
            try:
                builder = tfds.builder_from_directory(self._folder)
                # Parsing the record ourselves is the only way to keep nested images encoded.
                data = builder.as_data_source(
                    self._split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
                )
                parser = example_parser.ExampleParserNp(builder.info.features.get_serialized_info())
            # TFDS, protobuf and array_record raise various errors for damaged files.
            except Exception as error:
                raise errors.VosError(
                    f"{self._folder}: cannot open split '{self._split}' ({records.brief(error)}); "
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
                f"{self._folder}: record {position} is unreadable ({records.brief(error)})"
            ) from error


def _check_features(folder: pathlib.Path) -> None:
    """Raises VosError for a features.json with Python classes outside TFDS, which would be imported."""
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
