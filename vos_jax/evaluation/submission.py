"""Submissions: archives of masks for the benchmark servers, and a check of such archives.

DAVIS and folders: SEQUENCE/FRAME.png at the root. YouTube-VOS: Annotations/VIDEO/FRAME.png.
"""

import dataclasses
import os
import pathlib
import stat
import zipfile
import zlib

import numpy as np

from vos_jax import errors, files
from vos_jax.data import datasets, mask_files
from vos_jax.data import video as video_lib

NAME = "submission.zip"

MAX_BYTES = 2**26
"""Size limit of an unpacked mask, in bytes; masks are unpacked in memory only."""

# The earliest time of a zip archive; with a fixed time, equal masks give equal archives.
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of a checked archive."""

    sequences: int
    masks: int
    objects: int


def member(dataset: datasets.VideoDataset, video: str, frame_name: str) -> str:
    """Returns a mask's name in the archive of this data set's server."""
    name = f"{files.safe_name(video)}/{files.safe_name(frame_name, f'{video}: frame')}.png"
    return f"{dataset.archive_folder}/{name}" if dataset.archive_folder else name


def pack(dataset: datasets.VideoDataset, results: str | os.PathLike, path: pathlib.Path) -> pathlib.Path:
    """Packs RESULTS/SEQUENCE/FRAME.png of every sequence, checks the archive, and returns its path.

    Raises:
      VosError: a mask is missing or invalid (see `check`), or the archive cannot be written; no archive is
        left.
    """
    try:
        with files.atomic(path) as temporary:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                for video in dataset:
                    for name in video.required_names:
                        mask = pathlib.Path(results) / files.safe_name(video.name) / f"{name}.png"
                        info = zipfile.ZipInfo(member(dataset, video.name, name), _TIME)
                        info.external_attr = (stat.S_IFREG | 0o644) << 16
                        archive.writestr(info, mask.read_bytes(), zipfile.ZIP_DEFLATED)
            check(dataset, temporary, shown=path)
    except OSError as error:
        raise errors.VosError(f"{error.filename or path}: cannot pack: {error.strerror or error}") from error
    return path


def check(
    dataset: datasets.VideoDataset, path: str | os.PathLike, *, shown: str | os.PathLike | None = None
) -> Counts:
    """Checks that an archive is valid for the data set's server: names, sizes, palette, ids, counts.

    Args:
      dataset: its first masks give the valid ids.
      path: the archive.
      shown: its name in errors.

    Raises:
      VosError: the first problem. Absolute names and names with "..", links, duplicates, encrypted and too
        large members are rejected before they are read.
    """
    shown = path if shown is None else shown
    try:
        with zipfile.ZipFile(path) as archive:
            return _check(dataset, archive, str(shown))
    except OSError as error:
        raise errors.VosError(f"{shown}: cannot read the archive: {error.strerror or error}") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError) as error:
        raise errors.VosError(f"{shown}: not a complete zip archive ({error}); pack it again") from error


def _check(dataset: datasets.VideoDataset, archive: zipfile.ZipFile, shown: str) -> Counts:
    members = _members(archive, shown)
    videos = list(dataset)
    required = {member(dataset, video.name, name): video for video in videos for name in video.required_names}
    _check_names(list(members), list(required), shown)
    for name, video in required.items():
        _check_mask(archive.read(members[name]), f"{shown}: {name}", video)
    return Counts(len(videos), len(required), sum(len(video.first_frames) for video in videos))


def _members(archive: zipfile.ZipFile, shown: str) -> dict[str, zipfile.ZipInfo]:
    """Returns the files by name; raises VosError for unsafe members."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        # `orig_filename` too, because zipfile normalises some unsafe names in `filename`.
        for name in (info.orig_filename, info.filename):
            parts = name.removesuffix("/").split("/")
            if any(part in ("", ".", "..") or any(c in part for c in "\\:\0") for part in parts):
                raise errors.VosError(f"{shown}: member {name!r} is no plain relative path; pack it again")
        if info.filename in members:
            raise errors.VosError(f"{shown}: holds {info.filename} twice")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise errors.VosError(f"{shown}: {info.filename} is a link; pack the files themselves")
        if info.flag_bits & 1:
            raise errors.VosError(f"{shown}: {info.filename} is encrypted; servers take plain archives")
        if info.file_size > MAX_BYTES:
            raise errors.VosError(
                f"{shown}: {info.filename} unpacks to {info.file_size / 2**20:.0f} MiB, no mask; "
                f"at most {MAX_BYTES / 2**20:.0f} MiB are read"
            )
        if not info.is_dir():
            members[info.filename] = info
    return members


def _check_names(found: list[str], required: list[str], shown: str) -> None:
    surplus, missing = sorted(set(found) - set(required)), sorted(set(required) - set(found))
    if missing:
        deeper = [name for name in surplus if name.endswith(f"/{missing[0]}")]
        shallow = [name for name in surplus if missing[0].endswith(f"/{name}")]
        moved = "".join(f"; it is at {name}: move all files" for name in (deeper + shallow)[:1])
        raise errors.VosError(
            f"{shown}: lacks {missing[0]} ({len(missing)} of {len(required)} masks are missing){moved}"
        )
    if surplus:
        raise errors.VosError(
            f"{shown}: {surplus[0]} does not belong in it ({len(surplus)} surplus); expected are "
            f"{len(required)} masks, like {required[0]}"
        )


def _check_mask(data: bytes, where: str, video: video_lib.Video) -> None:
    ids = mask_files.decode_mask(data, where, video.size)
    mask_files.check_indexed(data, where)
    surplus = sorted(set(np.unique(ids).tolist()) - {0, *video.first_frames})
    if surplus:
        raise errors.VosError(
            f"{where}: object id(s) {', '.join(map(str, surplus))}, but '{video.name}' has "
            f"{', '.join(map(str, sorted(video.first_frames)))}"
        )
