"""Command lines and terminal output that the programs share."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import console, progress, table

from vos_jax import config as configs
from vos_jax import devices, errors, option_parser
from vos_jax.evaluation import scoring


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


def add_max_size(parser: argparse.ArgumentParser) -> None:
    """Adds the option --max-size."""
    parser.add_argument(
        "--max-size",
        type=int,
        metavar="N",
        help="shrink larger frames to a short side of N inside (default: 480; 0: none)",
    )


def parse_scales(text: str) -> tuple[float, ...]:
    """Returns the scales of --scales, such as "0.75,1.0"; VosError for a text that holds no numbers."""
    try:
        return tuple(float(scale) for scale in text.split(",") if scale.strip())
    except ValueError as error:
        raise errors.VosError(f"--scales {text}: takes numbers, like 0.75,1.0,1.25") from error


class Parser(option_parser.OptionParser):
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
        """Splits a command line into options and config overrides."""
        rest, overrides = configs.split_arguments(arguments)
        return self.parse_args(rest), overrides

    def error(self, message: str):
        """Raises a VosError; argparse would print its usage and exit."""
        raise errors.VosError(f"{message} (--help shows what there is)")


def make_console() -> console.Console:
    """Returns a console that prints text as it is: no markup, and no line broken where a pipe reads it."""
    return console.Console(highlight=False, markup=False, soft_wrap=True)


def make_progress(screen: console.Console) -> progress.Progress:
    """Returns a progress bar over frames; its task takes the field `fps`."""
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[fps]:.1f} fps, ETA"),
        progress.TimeRemainingColumn(),
        console=screen,
    )


def sequence_line(name: str, scores: Sequence[scoring.ObjectScore]) -> str:
    """Returns a line with a sequence's mean J and F over its scored objects."""
    scored = [score for score in scores if score.J.size]
    if not scored:
        return f"{name:24s} no truth to score against"
    j, f = (np.mean([getattr(score, measure).mean() for score in scored]) for measure in "JF")
    return f"{name:24s} J {j:.3f}  F {f:.3f}  {len(scored)} object(s)"


def print_scores(screen: console.Console, results: Mapping[str, Any]) -> None:
    """Prints the table of a results.json, or that there is nothing to score."""
    if results["G"] is None:
        screen.print("nothing to score: no frame between the first and the last is annotated")
    else:
        title = f"{results['dataset']} {results['split']}: {len(results['objects'])} object(s)"
        shown = table.Table(title=title)
        for column in ("G", "J mean", "J recall", "J decay", "F mean", "F recall", "F decay"):
            shown.add_column(column, justify="right")
        values = [
            results[measure][statistic] for measure in "JF" for statistic in ("mean", "recall", "decay")
        ]
        shown.add_row(*(f"{value:.3f}" for value in (results["G"], *values)))
        if "J_seen" in results:
            groups = ("J_seen", "J_unseen", "F_seen", "F_unseen")
            values = [results[group] for group in groups]
            shown.add_section()
            shown.add_row("", *(group.replace("_", " ") for group in groups))
            shown.add_row("", *("-" if value is None else f"{value:.3f}" for value in values))
        screen.print(shown)
    if results["fps"] is not None:
        seconds = ", ".join(f"{kind} {value:.1f} s" for kind, value in results["seconds"].items())
        model = f", {results['fps_inference']:.2f} in the model" if results["fps_inference"] else ""
        screen.print(
            f"{results['frames']} frames, {results['fps']:.2f} fps without compilation{model} ({seconds}); "
            f"peak memory {results['peak_memory_mb']:.0f} MB"
        )
