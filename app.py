"""The web page: drop a video, paint or box objects in any frame, get their masks in all frames.

    pip install -r requirements-app.txt
    python app.py                       # then open http://127.0.0.1:7860

Nothing leaves the machine, and nobody else reaches the page unless --host says so.
"""

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from vos_jax import api, cli, devices, errors, option_parser
from vos_jax import config as configs

UNUSED = configs.Unused(
    "app.py",
    sections=("data.", "eval.", "train."),
    keys=("inference.direction", "model.proposals.source=file"),
)
GIVE_UP = "the web page needs gradio: pip install -r requirements-app.txt"


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: options, and the config overrides among them."""
    parser = option_parser.OptionParser(
        prog="app.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others in")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--max-mb", type=int, default=500, help="largest video that is taken")
    parser.add_argument("--checkpoint", metavar="auto|none|PATH")
    cli.add_max_size(parser)
    parser.add_argument("--adapt", type=int, metavar="N", help="learn N steps from masks that are given")
    parser.add_argument("--device", choices=devices.NAMES)
    parser.epilog = "--config.KEY=VALUE changes any key of docs/configuration.md"
    rest, overrides = configs.split_arguments(arguments)
    options = parser.parse_args(rest)
    if not 0 < options.port < 65536:
        raise errors.VosError(f"--port {options.port}: 1 to 65535")
    if options.max_mb < 1:
        raise errors.VosError(f"--max-mb {options.max_mb}: at least 1")
    return options, overrides


@errors.entry_point
def main(arguments: Sequence[str] | None = None) -> None:
    options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
    config = configs.load("default", overrides)
    config = cli.apply(
        config,
        {
            "--checkpoint": ("checkpoint", options.checkpoint or None),
            "--adapt": ("inference.adaptation.steps", options.adapt),
            "--max-size": ("inference.max_size", options.max_size),
        },
    )
    UNUSED.check(config, overrides)
    config = api.resolve(config, overrides)
    with tempfile.TemporaryDirectory(prefix="vos_jax-") as root:
        # gradio reads these when it is imported: nothing is reported, and uploads stay in our folder.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = root
        try:
            from vos_jax.web import page
        except ImportError as error:
            raise errors.VosError(f"{GIVE_UP} ({error})") from error
        devices.choose(options.device)
        engine = api.make_engine(config)
        api.check_adapt(engine, options.adapt)
        server = page.Server(engine, pathlib.Path(root))
        page.serve(server, host=options.host, port=options.port, max_mb=options.max_mb)


if __name__ == "__main__":
    sys.exit(main())
