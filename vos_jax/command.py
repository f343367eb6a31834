"""What the programs' command lines have in common."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from vos_jax import config as configs
from vos_jax import devices, errors


def apply(config: configs.Config, options: Mapping[str, tuple[str, Any]]) -> configs.Config:
    """Returns settings with the options of a command line.

    Args:
      config: the settings.
      options: option -> (key, value); None changes nothing.

    Raises:
      VosError: a value out of range; the option is named.
    """
    for option, (key, value) in options.items():
        if value is not None:
            try:
                config = configs.replace(config, {key: value})
            except errors.VosError as error:
                raise errors.VosError(f"{option}: {error}") from error
    return config


def parse_scales(text: str) -> tuple[float, ...]:
    """Returns the scales of --scales, such as "0.75,1.0"; VosError for a text that holds no numbers."""
    try:
        return tuple(float(scale) for scale in text.split(",") if scale.strip())
    except ValueError as error:
        raise errors.VosError(f"--scales {text}: takes numbers, like 0.75,1.0,1.25") from error


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
