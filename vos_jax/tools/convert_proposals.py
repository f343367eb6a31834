"""Converts a COCO result list to one proposal file per video.

python -m vos_jax.tools.convert_proposals results.json --images annotations.json --out DIR
"""

import argparse
import contextlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from vos_jax import errors, files, option_parser, output_folder
from vos_jax.data import proposal_files


def convert(
    results: str | os.PathLike, out: str | os.PathLike, images: str | os.PathLike | None = None
) -> list[pathlib.Path]:
    """Converts a COCO result list to one proposal file per video.

    Args:
      results: JSON list of {"image_id", "score", "segmentation"}; categories and boxes are ignored.
      out: folder for the files, created if missing.
      images: COCO annotation JSON whose "images" map each "id" to a "file_name" ending in video/frame.ext.
        Without it every image_id must be "video/frame".

    Returns:
      the written files.

    Raises:
      VosError: unreadable input, an unknown image, no mask, or masks of several sizes in one video; the
        message names the entry.
    """
    entries = proposal_files.read_json(results)
    if not isinstance(entries, list):
        raise errors.VosError(f"{results}: a COCO result file is a list, not {type(entries).__name__}")
    known = None if images is None else _image_names(images)
    videos: dict[str, tuple[tuple[int, int], dict[str, list[proposal_files.EncodedProposal]]]] = {}
    for index, entry in enumerate(entries):
        where = f"{results}: entry {index}"
        if not isinstance(entry, dict) or "image_id" not in entry:
            raise errors.VosError(f"{where}: no image_id")
        image = entry["image_id"]
        if known is not None and image not in known:
            raise errors.VosError(f"{where}: image_id {image!r} is not among the images of {images}")
        if known is None and not isinstance(image, str):
            raise errors.VosError(
                f"{where}: image_id {image!r} names no video; give the images file (--images)"
            )
        video, frame = _split(image if known is None else known[image], where)
        segmentation = entry.get("segmentation")
        size: Any = segmentation.get("size") if isinstance(segmentation, dict) else None
        if not proposal_files.is_size(size):
            raise errors.VosError(
                f"{where}: no run-length coded mask with a size (boxes and polygons are not supported)"
            )
        height, width = size
        known_size, frames = videos.setdefault(video, ((height, width), {}))
        if known_size != (height, width):
            raise errors.VosError(
                f"{where}: mask size {size}, others of video '{video}' have {list(known_size)}"
            )
        frames.setdefault(frame, []).append(proposal_files.proposal_of_json(entry, known_size, where))
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for video, (size, frames) in sorted(videos.items()):
        paths.append(folder / f"{video}.json")
        found = proposal_files.VideoProposals(video, size, dict(sorted(frames.items())))
        proposal_files.write(paths[-1], found)
    return paths


def _image_names(path: str | os.PathLike) -> dict[int | str, str]:
    data = proposal_files.read_json(path)
    listed: Any = data.get("images") if isinstance(data, dict) else None
    try:
        return {image["id"]: str(image["file_name"]) for image in listed}
    except (TypeError, KeyError, AttributeError) as error:
        raise errors.VosError(f"{path}: needs 'images', each with 'id' and 'file_name'") from error


def _split(name: str, where: str) -> tuple[str, str]:
    """Returns the video and frame name of ".../video/frame.ext"."""
    parts = pathlib.PurePosixPath(name).parts
    if len(parts) < 2:
        raise errors.VosError(f"{where}: image name {name!r} must end in video/frame")
    stem = parts[-1].rsplit(".", 1)[0] if "." in parts[-1] else parts[-1]
    return files.safe_name(parts[-2], "video"), files.safe_name(stem, "frame")


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    parser = option_parser.OptionParser(
        prog="python -m vos_jax.tools.convert_proposals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", help="COCO result list (JSON) with run-length coded masks")
    parser.add_argument("--images", help="COCO annotation JSON that names the images (id -> video/frame.jpg)")
    parser.add_argument("--out", required=True, help="folder for <video>.json")
    options = parser.parse_args(arguments)
    with contextlib.closing(output_folder.OutputFolder(options.out)) as output:
        paths = convert(options.results, options.out, options.images)
        output.compact()
    print(f"wrote {len(paths)} videos to {options.out}")


if __name__ == "__main__":
    raise SystemExit(main())
