"""Packs folders of training data into ArrayRecord: `python -m vos_jax.tools.pack_data --help`."""

import argparse
import logging
import sys

from vos_jax import errors, option_parser
from vos_jax.data import datasets
from vos_jax.tools import check_data


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = option_parser.OptionParser(
        prog="python -m vos_jax.tools.pack_data",
        description="Pack a folder of training data into one ArrayRecord dataset (kind 'array_record').",
        epilog="example: python -m vos_jax.tools.pack_data --root data/DAVIS --out packed",
    )
    parser.add_argument(
        "--kind", choices=check_data.KINDS, default="auto", help="the layout; default: detected"
    )
    parser.add_argument("--root", required=True, help="folder of the data")
    parser.add_argument("--out", required=True, help="folder that receives packed_sequences/NAME/VERSION")
    parser.add_argument("--name", help="name of the dataset; default: the last part of --root")
    parser.add_argument(
        "--split", default="train", help="ImageSets list, YouTube-VOS folder, and name of the split"
    )
    parser.add_argument("--year", type=int, default=2017, help="DAVIS: 2016 or 2017")
    parser.add_argument("--resolution", default="480p", help="DAVIS: folder below JPEGImages")
    parser.add_argument("--short-side", type=int, default=0, help="shrink larger frames to this")
    parser.add_argument(
        "--jpeg-quality",
        type=int,
        metavar="1..100",
        help="of all frames; default: 95 for those that are shrunk or not JPEG, others keep their bytes",
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th frame of a video")
    parser.add_argument("--sequences", nargs="*", default=[], help="names or patterns to take; default: all")
    parser.add_argument("--exclude", nargs="*", default=[], help="names or patterns to leave out")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of this name")
    return parser.parse_args(arguments)


@errors.entry_point
def main(arguments: list[str] | None = None) -> int:
    """Packs the data of the command line and prints the dataset's folder."""
    args = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = datasets.SourceConfig(
        kind=args.kind,
        root=args.root,
        split=args.split,
        year=args.year,
        resolution=args.resolution,
        short_side=args.short_side,
        sequences=tuple(args.sequences),
        exclude=tuple(args.exclude),
        unannotated=True,
    )
    # Imported here, so that --help does not wait for tensorflow-datasets.
    import tensorflow_datasets as tfds

    from vos_jax.tools import builders

    tfds.disable_progress_bar()

    target = builders.pack(
        config,
        args.out,
        name=args.name,
        overwrite=args.overwrite,
        jpeg_quality=args.jpeg_quality,
        every=args.every,
    )
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
