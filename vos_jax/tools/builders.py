"""Packs training videos into ArrayRecord through tensorflow-datasets, without TensorFlow.

There is one record per frame, so a clip of three frames needs three small reads, and a shard may hold any
part of a video. The index (names, lengths, annotated frames, frames with an object) is in the dataset's
metadata.json, so training starts without a scan.
"""

import concurrent.futures
import dataclasses
import functools
import logging
import os
import pathlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from vos_jax import errors, output_folder
from vos_jax.data import clips, datasets, image_files, transforms
from vos_jax.data import video as video_lib
from vos_jax.tools import check_data

log = logging.getLogger(__name__)

PACKED = ("dataset_info.json", "features.json", "metadata.json")
"""The files of a packed dataset, except the records."""

JPEG_QUALITY = 95
"""Default quality of frames that are encoded again: shrunk ones, and files that are not JPEG."""


class PackedSequences(tfds.core.GeneratorBasedBuilder):
    """Writes videos as one split; frames keep their bytes unless they are shrunk or given a quality.

    Args:
      videos: the videos to pack.
      index: one entry per video, from `make_index`.
      split: name of the split.
      photos: every video is a single image.
      name: name of the dataset's config.
      data_dir: folder that receives packed_sequences/NAME/VERSION.
      jpeg_quality: see `encode_frame`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "One record per frame."}

    def __init__(
        self,
        *,
        videos: Sequence[video_lib.FolderVideo],
        index: list[dict[str, Any]],
        split: str,
        photos: bool,
        name: str,
        data_dir: str | os.PathLike,
        jpeg_quality: int | None = None,
    ):
        self._videos, self._index, self._jpeg_quality = videos, index, jpeg_quality
        self._split, self._photos = split, photos
        config = tfds.core.BuilderConfig(name=name)
        super().__init__(data_dir=data_dir, config=config, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Frames with object ids, packed for training video object segmentation.",
            features=tfds.features.FeaturesDict(
                {
                    "frame": tfds.features.Image(shape=(None, None, 3)),
                    "ids": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "annotated": np.bool_,
                    "sequence": np.str_,
                    "time": np.int32,
                }
            ),
            metadata=tfds.core.MetadataDict(static=self._photos, sequences=self._index),
            # Keeps the frames of a video together, so that a clip needs one disk page or one request.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for video, entry in zip(self._videos, self._index, strict=True):
            annotated = set(entry["annotated"])
            for time in range(entry["length"]):
                yield (
                    entry["start"] + time,
                    {
                        "frame": encode_frame(video, time, self._jpeg_quality),
                        "ids": encode_ids(video, time if time in annotated else None),
                        "annotated": time in annotated,
                        "sequence": entry["name"],
                        "time": time,
                    },
                )


def encode_frame(video: video_lib.FolderVideo, time: int, jpeg_quality: int | None = None) -> bytes:
    """Returns a frame's own JPEG bytes, or encodes it again if it is shrunk, not JPEG or has a quality.

    Args:
      jpeg_quality: 1 to 100, of every frame; None: `JPEG_QUALITY`, of those that must be encoded.
    """
    data = image_files.read_file(video.frame_paths[time])
    if jpeg_quality is None and video.short_side == 0 and data[:2] == b"\xff\xd8":
        return data
    frame = cv2.cvtColor(video.frame(time), cv2.COLOR_RGB2BGR)
    settings = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality or JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return cv2.imencode(".jpg", frame, settings)[1].tobytes()


def encode_ids(video: video_lib.FolderVideo, time: int | None) -> bytes:
    """Returns a mask as an 8-bit grey PNG of object ids; one blank pixel for no mask (None)."""
    ids = None if time is None else video.mask(time)
    if ids is None:
        ids = np.zeros((1, 1), np.uint8)
    side = video.short_side
    if side and min(ids.shape) > side:
        factor = side / min(ids.shape)
        size = (round(ids.shape[1] * factor), round(ids.shape[0] * factor))
        ids = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)
    # Without a PNG filter, ids have the same size and decode in half the time.
    settings = [cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return cv2.imencode(".png", ids, settings)[1].tobytes()


def thin(video: video_lib.FolderVideo, every: int) -> video_lib.FolderVideo:
    """Returns a video of frames 0, `every`, 2 `every`, ...; photos are unchanged."""
    mask_paths = {t // every: path for t, path in video.mask_paths.items() if t % every == 0}
    return dataclasses.replace(
        video,
        frame_names=video.frame_names[::every],
        annotated=tuple(sorted(mask_paths)),
        with_objects=None,
        frame_paths=video.frame_paths[::every],
        mask_paths=mask_paths,
    )


def make_index(videos: Sequence[video_lib.Video], *, threads: int = 4) -> list[dict[str, Any]]:
    """Decodes every frame and mask once and returns the entries of metadata.json, one per video.

    Entries: name, start (record of its first frame), length, annotated (numbers of annotated frames) and
    holding (numbers of frames whose mask has an object).

    Raises:
      VosError: a file cannot be read, or a mask has another size than its frame; nothing is written then.
    """

    def check_all(video: video_lib.Video, start: int) -> dict[str, Any]:
        holding = []
        for time in range(len(video)):
            ids = video.mask(time)
            clips.check_sizes(video.name, [time], (video.frame(time),), (ids,))
            if transforms.holds_object(ids):
                holding.append(time)
        return {
            "name": video.name,
            "start": start,
            "length": len(video),
            "annotated": list(video.annotated),
            "holding": holding,
        }

    starts = np.cumsum([0, *map(len, videos)])[:-1].tolist()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(check_all, videos, starts))


def pack(
    config: datasets.SourceConfig,
    out: str | os.PathLike,
    *,
    name: str | None = None,
    overwrite: bool = False,
    jpeg_quality: int | None = None,
    every: int = 1,
    make_builder: Callable[..., tfds.core.DatasetBuilder] = PackedSequences,
) -> pathlib.Path:
    """Packs a source of files and returns the dataset's folder, readable as kind "array_record".

    Args:
      config: a source of files; `short_side` shrinks while packing.
      out: folder that receives packed_sequences/NAME/VERSION.
      name: default: the last part of the root.
      overwrite: replace a dataset of that name; it is kept until the new one is complete.
      jpeg_quality: of all frames, 1 to 100; None: frames that are not shrunk keep their bytes.
      every: interval, in frames, at which frames are taken.
      make_builder: the builder, with the arguments of `PackedSequences`.

    Raises:
      VosError: an unreadable source or file, a value out of range, an existing dataset, or a disk that cannot
        be written.
    """
    if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
        raise errors.VosError(f"--jpeg-quality is {jpeg_quality}; it must be in 1 to 100")
    if every < 1:
        raise errors.VosError(f"--every is {every}; it must be at least 1")
    videos = check_data.folder_videos(config)
    # Videos have at least two frames: `folder_videos` leaves out others.
    photos = all(len(video) == 1 for video in videos)
    videos = [thin(video, every) for video in videos]
    name = name or re.sub(r"\W+", "_", pathlib.Path(config.root).resolve().name).strip("_").lower()
    if not re.fullmatch(r"\w+", name):
        raise errors.VosError(f"dataset name '{name}': only letters, digits and underscores (--name NAME)")
    # Written to a temporary folder and moved at the end: an interrupted run leaves no partial dataset.
    out = pathlib.Path(out)
    work = out / f".packing-{uuid.uuid4().hex[:8]}"
    try:
        work.mkdir(parents=True)
        make = functools.partial(
            make_builder,
            videos=videos,
            split=config.split,
            photos=photos,
            name=name,
            data_dir=work,
            jpeg_quality=jpeg_quality,
        )
        builder = make(index=[])
        target = out / pathlib.Path(builder.data_dir).relative_to(work)
        if target.exists() and not overwrite:
            raise errors.VosError(
                f"{target}: exists already; --overwrite replaces it, --name NAME gives another name"
            )
        _check_replaceable(target, config.root)
        log.info("checking %d sequences", len(videos))
        builder = make(index=make_index(videos))
        builder.download_and_prepare()
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        os.replace(builder.data_dir, target)
    except OSError as error:
        raise errors.VosError(f"{out}: cannot write the packed dataset: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _check_replaceable(target: pathlib.Path, root: str) -> None:
    """Raises VosError if a folder to replace holds more than a packed dataset, or is in the source."""
    output_folder.check_apart(target, [root])
    for path in target.rglob("*"):
        if path.is_dir() or not (path.name in PACKED or ".array_record-" in path.name):
            raise errors.VosError(
                f"{path}: is not part of a packed dataset; move it away, or give another --name"
            )
