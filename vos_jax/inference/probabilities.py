"""Soft masks on disk, OUT/probabilities/SEQUENCE/FRAME.npz, for ensembles (tools/merge.py)."""

import dataclasses
import io
import os
import pathlib
import zipfile

import numpy as np

from vos_jax import errors, files
from vos_jax.data import video as video_lib
from vos_jax.inference.frame_result import FrameResult
from vos_jax.typing import UInt8

FOLDER = "probabilities"
LEVELS = 255
"""Probabilities are kept in steps of 1/255: a 480p frame of the demo, three objects, takes some 115 kB."""


@dataclasses.dataclass(frozen=True)
class SoftMasks:
    """One frame's probabilities in steps of 1/LEVELS; `objects` are the ids of all but the first plane."""

    objects: tuple[int, ...]
    levels: UInt8[np.ndarray, "N+1 H W"]


def path_of(out_dir: str | os.PathLike, sequence: str, frame_name: str) -> pathlib.Path:
    """Returns the path of a frame's probabilities; VosError for names that would leave `out_dir`."""
    folder = pathlib.Path(out_dir) / FOLDER / files.safe_name(sequence)
    return folder / f"{files.safe_name(frame_name, f'{sequence}: frame')}.npz"


def complete(out_dir: str | os.PathLike, video: video_lib.Video) -> bool:
    """Returns whether the file of every required frame exists."""
    return all(path_of(out_dir, video.name, name).is_file() for name in video.required_names)


def of_result(result: FrameResult) -> SoftMasks:
    """Returns the probabilities of a result that has some."""
    assert result.prob is not None
    levels = np.round(np.clip(result.prob, 0.0, 1.0) * LEVELS).astype(np.uint8)
    return SoftMasks(tuple(result.presence), levels)


def write(path: pathlib.Path, soft: SoftMasks) -> None:
    """Writes a compressed file, all of it or nothing; its folder exists. OSError if it cannot."""
    data = io.BytesIO()
    np.savez_compressed(data, objects=np.array(soft.objects, np.uint8), levels=soft.levels)
    with files.atomic(path) as temporary:
        temporary.write_bytes(data.getbuffer())


def read(path: pathlib.Path) -> SoftMasks:
    """Reads what `write` wrote; VosError if it is missing, damaged or something else."""
    try:
        with files.open_regular(path) as file:
            # A small archive may claim to unpack to any size.
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(info.file_size for info in archive.infolist())
            if unpacked > files.MAX_BYTES:
                raise ValueError(f"it unpacks to {unpacked / 2**20:.0f} MiB")
            file.seek(0)
            with np.load(file, allow_pickle=False) as content:
                # A member that is no array comes as its bytes.
                objects, levels = np.asarray(content["objects"]), np.asarray(content["levels"])
    except OSError as error:
        raise errors.VosError(f"{path}: cannot read probabilities: {error.strerror or error}") from error
    # The header is Python text and the file a zip; damage raises a dozen kinds of exception.
    except Exception as error:
        raise errors.VosError(f"{path}: not probabilities that eval.py --save-probabilities wrote") from error
    if levels.dtype != np.uint8 or levels.ndim != 3 or objects.shape != (len(levels) - 1,):
        raise errors.VosError(
            f"{path}: {levels.dtype} planes {levels.shape} for {objects.size} object(s); expected uint8 "
            "[objects + 1, height, width]"
        )
    return SoftMasks(tuple(objects.tolist()), levels)
