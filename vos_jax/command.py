"""What the programs' command lines have in common."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from vos_jax import config as configs
from vos_jax import devices, errors


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that the command line's options change: those that are not None."""
    return {key: value for key, value in options.items() if value is not None}


class Parser(argparse.ArgumentParser):
    """A parser that takes --config, --device and --config.KEY=VALUE; wrong arguments raise a VosError.

    Args:
      program: its name, such as "eval.py".
      description: its docstring.
      example: an override, shown by --help, such as "model.memory.every=3".
    """

    def __init__(self, program: str, description: str | None, *, example: str):
        super().__init__(
            prog=program,
            description=description,
            epilog=f"--config.KEY=VALUE changes any key of docs/configuration.md, e.g. --config.{example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument(
            "--config", required=True, help=f"{', '.join(configs.names())}, or a path to a .py file"
        )
        self.add_argument("--device", choices=devices.NAMES)

    def parse(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parts a command line into options and config overrides."""
        rest, overrides = configs.split_arguments(arguments)
        return self.parse_args(rest), overrides

    def error(self, message: str):
        """Raises what is wrong as a VosError, where argparse would print its usage and exit."""
        raise errors.VosError(f"{message} (--help shows what there is)")
