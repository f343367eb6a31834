"""What the programs print: progress with fps and time left, a line per sequence, the final table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import console, progress, table

from vos_jax.metrics import scoring


def make_console() -> console.Console:
    """A console that prints text as it is: no markup, and no line broken where a pipe reads it."""
    return console.Console(highlight=False, markup=False, soft_wrap=True)


def make_progress(screen: console.Console) -> progress.Progress:
    """A bar over frames; its task takes the field `fps`."""
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[fps]:.1f} fps, ETA"),
        progress.TimeRemainingColumn(),
        console=screen,
    )


def sequence_line(name: str, scores: Sequence[scoring.ObjectScore]) -> str:
    """One sequence's mean J and F over its scored objects."""
    scored = [score for score in scores if score.J.size]
    if not scored:
        return f"{name:24s} no truth to score against"
    j, f = (np.mean([getattr(score, measure).mean() for score in scored]) for measure in "JF")
    return f"{name:24s} J {j:.3f}  F {f:.3f}  {len(scored)} object(s)"


def print_results(screen: console.Console, results: Mapping[str, Any]) -> None:
    """The table of a results.json, or that there is nothing to score."""
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
