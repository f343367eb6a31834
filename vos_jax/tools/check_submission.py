"""Checks an archive of masks for a benchmark server.

python -m vos_jax.tools.check_submission results/ytvos19/submission.zip --config ytvos19 --data DIR
"""

import argparse
import sys

from vos_jax import config as configs
from vos_jax import errors, option_parser
from vos_jax.data import datasets
from vos_jax.evaluation import submission


@errors.entry_point
def main(arguments: list[str] | None = None) -> None:
    """Checks an archive and prints its counts."""
    parser = option_parser.OptionParser(
        prog="python -m vos_jax.tools.check_submission",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("archive", metavar="FILE.zip")
    parser.add_argument("--config", required=True, help=f"{', '.join(configs.names())}, or a path")
    parser.add_argument("--data", metavar="DIR", help="folder of the data set")
    rest, overrides = configs.split_arguments(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(rest)
    config = configs.load(options.config, overrides)
    if options.data is not None:
        config = configs.replace(config, {"data.root": options.data})
    dataset = datasets.open_dataset(config.data)
    counts = submission.check(dataset, options.archive)
    print(
        f"{options.archive}: valid for {dataset.name} {dataset.split}: {counts.sequences} sequence(s), "
        f"{counts.masks} masks, {counts.objects} object(s)"
    )


if __name__ == "__main__":
    sys.exit(main())
