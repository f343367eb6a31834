"""Saves a frame of a video, as it is segmented, as a PNG to paint a mask on.

python -m vos_jax.tools.still holiday.mp4 frame.png
python -m vos_jax.tools.still holiday.mp4 frame.png --frame 120
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from PIL import Image

from vos_jax import errors, files, option_parser
from vos_jax.data import media


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    parser = option_parser.OptionParser(
        prog="python -m vos_jax.tools.still",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("video", help="a film or a folder of images")
    parser.add_argument("out", metavar="OUT.png", help="a file that is not there yet")
    parser.add_argument("--frame", type=int, default=0, help="counted from 0")
    options = parser.parse_args(arguments)
    save(options.video, pathlib.Path(options.out), options.frame)
    print(f"frame {options.frame}: {options.out}")


def save(video: str | os.PathLike, path: pathlib.Path, frame: int = 0) -> None:
    """Saves a frame as a PNG.

    Raises:
      VosError: no such frame, a video that cannot be read, or a file that exists, is no PNG or cannot be
        written.
    """
    if path.suffix.lower() != ".png":
        raise errors.VosError(f"{path}: a still is a PNG; name it {path.with_suffix('.png')}")
    if os.path.lexists(path):
        raise errors.VosError(f"{path}: is there already, and is not replaced; name another file")
    if frame < 0:
        raise errors.VosError(f"--frame {frame}: frames are counted from 0")
    image = next(media.open_media(video).frames(frame), None)
    if image is None:
        raise errors.VosError(f"{video}: there is no frame {frame}; it has fewer frames")
    try:
        with files.atomic(path) as temporary:
            Image.fromarray(image).save(temporary, "PNG")
    except OSError as error:
        raise errors.VosError(f"{path}: cannot write: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())
