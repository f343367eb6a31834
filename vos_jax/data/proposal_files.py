"""Proposals of another program, in one JSON file per video (docs/proposals.md).

    {"format": "vos_jax.proposals/1",
     "video": "bike-packing",
     "size": [480, 854],                                          height, width of the masks, pixels
     "frames": {"00000": [{"score": 0.98,                         in [0, 1]
                           "segmentation": {"size": [480, 854],   COCO run-length code,
                                            "counts": "..."}},    compressed (text) or not (list of runs)
                          ...],
                "00001": []}}

Frames are named by the stems of their files; a frame that is not listed has no proposals. Other keys are
ignored. Boxes are computed from the masks. A COCO result list is converted by

    python -m vos_jax.tools.convert_proposals results.json --images annotations.json --out DIR
"""

import dataclasses
import json
import math
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from vos_jax import errors, files, geometry
from vos_jax.data import mask_files
from vos_jax.data import proposals as proposals_lib
from vos_jax.data import video as video_lib
from vos_jax.typing import Bool, Float

FORMAT = "vos_jax.proposals/1"
# As DMM-Net, which matches the top 50 proposals after NMS 0.4.
NMS_THRESHOLD = 0.4

MAX_PER_FRAME = 1000
"""Maximum number of a frame's proposals before suppression, whose cost grows with its square."""


@dataclasses.dataclass(frozen=True)
class EncodedProposal:
    """One proposal: its score and its mask in COCO's compressed run-length code."""

    score: float
    counts: str


@dataclasses.dataclass(frozen=True)
class VideoProposals:
    """The proposals of one video by frame name; `origin` is their name in errors."""

    video: str
    size: tuple[int, int]
    frames: Mapping[str, Sequence[EncodedProposal]]
    origin: str = "proposals"


def encode_proposal(mask: Bool[np.ndarray, "H W"], score: float) -> EncodedProposal:
    """Encodes a mask; `score` in [0, 1]."""
    code: Any = coco_mask.encode(np.asfortranarray(mask, np.uint8))  # Any: its stubs are wrong
    return EncodedProposal(float(score), code["counts"].decode("ascii"))


def read(path: str | os.PathLike) -> VideoProposals:
    """Reads one video's proposals.

    Raises:
      VosError: the file is missing or of another format, or a proposal is malformed; the message names it.
    """
    data = read_json(path)
    found = data.get("format") if isinstance(data, dict) else f"a JSON {type(data).__name__}"
    if found != FORMAT:
        raise errors.VosError(
            f"{path}: expected proposals of format {FORMAT!r}, found {found!r}; convert COCO results with "
            "`python -m vos_jax.tools.convert_proposals`"
        )
    size: Any = data.get("size")
    video, frames = data.get("video"), data.get("frames")
    if not is_size(size):
        raise errors.VosError(f"{path}: 'size' must be [height, width], not {size!r}")
    if not isinstance(video, str) or not isinstance(frames, dict):
        raise errors.VosError(f"{path}: needs 'video' (a name) and 'frames' (lists by frame name)")
    height, width = size
    read_frames = {}
    for frame, entries in frames.items():
        if not isinstance(entries, list):
            raise errors.VosError(f"{path}: frame '{frame}' must hold a list of proposals")
        where = f"{path}: frame '{frame}', proposal"
        records = (proposal_of_json(x, (height, width), f"{where} {i}") for i, x in enumerate(entries))
        read_frames[frame] = tuple(records)
    return VideoProposals(video, (height, width), read_frames, str(path))


def path_of(folder: str | os.PathLike, video: str) -> pathlib.Path:
    """Returns the path of a video's proposals, FOLDER/VIDEO.json."""
    return pathlib.Path(folder) / f"{files.safe_name(video, 'video')}.json"


def read_video(folder: str | os.PathLike, video: video_lib.Video) -> VideoProposals:
    """Reads the proposals of one video and checks that they belong to it.

    Raises:
      VosError: no such file, a malformed one (see `read`), or one of another video, size or frame name.
    """
    path = path_of(folder, video.name)
    if not path.is_file():
        raise errors.VosError(
            f"{path}: no proposals for sequence '{video.name}'; model.proposals.folder needs a file for each "
            "sequence, even one without frames (docs/proposals.md)"
        )
    found = read(path)
    if found.video != video.name:
        raise errors.VosError(
            f"{path}: holds proposals of video '{found.video}', not '{video.name}': rename the file or "
            "correct its 'video'"
        )
    if found.size != tuple(video.size):
        (height, width), (wanted_height, wanted_width) = found.size, video.size
        raise errors.VosError(
            f"{path}: masks of {width}x{height} pixels, the frames of '{video.name}' have "
            f"{wanted_width}x{wanted_height}: make the proposals at the frames' size"
        )
    if unknown := sorted(set(found.frames) - set(video.frame_names)):
        raise errors.VosError(
            f"{path}: frame '{unknown[0]}' is not in the video; its frames are named "
            f"'{video.frame_names[0]}' to '{video.frame_names[-1]}'"
        )
    return found


def write(path: str | os.PathLike, proposals: VideoProposals) -> None:
    """Writes one video's proposals atomically, to an existing folder."""
    frames = {
        frame: [
            {"score": r.score, "segmentation": {"size": list(proposals.size), "counts": r.counts}}
            for r in records
        ]
        for frame, records in proposals.frames.items()
    }
    data = {"format": FORMAT, "video": proposals.video, "size": list(proposals.size), "frames": frames}
    with files.atomic(path) as temporary:
        temporary.write_text(json.dumps(data), encoding="utf-8")


def arrays(
    proposals: VideoProposals,
    frame: str,
    *,
    frame_size: tuple[int, int],
    padded_size: tuple[int, int],
    capacity: int,
    nms_threshold: float = NMS_THRESHOLD,
    score_threshold: float = 0.0,
) -> proposals_lib.ProposalArrays:
    """Returns one frame's proposals as arrays for the model: P = `capacity`, best first.

    Masks are scaled from the file's size to the frame's, padded at the bottom and right, and averaged to
    stride 4; boxes are the tight boxes of the masks. Empty masks are dropped.

    Args:
      frame: the frame's name; one that is not in the file gives no valid proposal.
      frame_size: real (height, width) of the model's input; padded_size: its padded size, a multiple of 4.
      capacity: P. nms_threshold: IoU of boxes above which the lower-scored one is dropped (1 keeps all).
      score_threshold: proposals with a lower score are dropped.
    """
    (height, width), stride = frame_size, geometry.MASK_STRIDE
    cells = padded_size[0] // stride, padded_size[1] // stride
    out = proposals_lib.ProposalArrays(
        boxes=np.zeros((capacity, 4), np.float32),
        scores=np.zeros(capacity, np.float32),
        masks=np.zeros((capacity, *cells), np.float32),
        valid=np.zeros(capacity, bool),
    )
    records = proposals.frames.get(frame, ())
    records = sorted(records, key=lambda record: -record.score)[:MAX_PER_FRAME]
    codes: list[Any] = [{"size": list(proposals.size), "counts": record.counts} for record in records]
    order = [i for i, r in enumerate(records) if r.score >= score_threshold and coco_mask.area(codes[i]) > 0]
    xywh = np.array([coco_mask.toBbox(codes[i]) for i in order]).reshape(-1, 4)
    scale = np.array([height, width]) / np.array(proposals.size)
    for place, position in enumerate(_suppress(xywh, nms_threshold)[:capacity]):
        index = order[position]
        mask = _decode(codes[index])
        if mask.shape != (height, width):
            shrinks = mask.shape[0] > height
            mask = cv2.resize(
                mask, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
        padded = geometry.pad(mask, padded_size, mode="constant")
        out.masks[place] = padded.reshape(cells[0], stride, cells[1], stride).mean((1, 3))
        x, y, w, h = xywh[position]
        out.boxes[place] = np.array([y, x, y + h, x + w]) * np.tile(scale, 2)
        out.scores[place] = records[index].score
        out.valid[place] = True
    return out


def _decode(code: Any) -> Float[np.ndarray, "H W"]:
    with warnings.catch_warnings():
        # pycocotools 2.0 uses an array interface that numpy 2 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco_mask.decode(code).astype(np.float32)


def _runs(counts: str) -> list[int]:
    """Returns the run lengths of COCO's text code, which pycocotools decodes without a check.

    A character minus '0' has six bits: five bits of a number, low ones first, and a continuation bit. From
    the fourth run on, the number is the difference to the run two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        # Outside these limits pycocotools would decode other runs and write outside its array.
        if not 0 <= bits < 64 or shift > 30:
            return []
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs if shift == 0 else []


def _suppress(xywh: np.ndarray, threshold: float) -> list[int]:
    """Returns the boxes that greedy non-maximum suppression keeps; boxes are in descending order of score."""
    kept: list[int] = []
    if not len(xywh):
        return kept
    overlap: Any = coco_mask.iou(xywh, xywh, [0] * len(xywh))
    for i in range(len(xywh)):
        if not kept or overlap[i, kept].max() <= threshold:
            kept.append(i)
    return kept


def proposal_of_json(entry: Any, size: tuple[int, int], where: str) -> EncodedProposal:
    entry = entry if isinstance(entry, dict) else {}
    score, segmentation = entry.get("score"), entry.get("segmentation")
    number = isinstance(score, int | float) and not isinstance(score, bool)
    if not number or not (math.isfinite(score) and 0 <= score <= 1):
        raise errors.VosError(f"{where}: 'score' must be a number in [0, 1], not {score!r}")
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise errors.VosError(f"{where}: 'segmentation' must be a COCO run-length code (size and counts)")
    if segmentation.get("size") != list(size):
        raise errors.VosError(f"{where}: mask size {segmentation.get('size')!r}, expected {list(size)}")
    counts = segmentation["counts"]
    if not isinstance(counts, str | list):
        raise errors.VosError(f"{where}: 'counts' must be a COCO code (text) or a list of runs")
    runs = _runs(counts) if isinstance(counts, str) else counts
    if not all(type(n) is int and n >= 0 for n in runs) or sum(runs) != size[0] * size[1]:
        raise errors.VosError(f"{where}: damaged code: its runs do not sum to {size[0]}·{size[1]} pixels")
    if isinstance(counts, list):
        code: Any = {"size": list(size), "counts": counts}
        code = coco_mask.frPyObjects(code, *size)
        counts = code["counts"].decode("ascii")
    return EncodedProposal(float(score), counts)


def is_size(size: object) -> bool:
    """Returns whether `size` is [height, width] of an image within the limits of `mask_files`."""
    return (
        isinstance(size, list)
        and len(size) == 2
        and all(type(n) is int and 0 < n <= mask_files.MAX_SIDE for n in size)
        and size[0] * size[1] <= mask_files.MAX_PIXELS
    )


def read_json(path: str | os.PathLike) -> Any:
    try:
        return files.read_json(path)
    except OSError as error:
        raise errors.VosError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise errors.VosError(f"{path}: not a JSON file ({error})") from error
