"""Measured figures: one line of JSON per figure, written at once, and a table of all."""

import json
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.accelerator import clock
from vos_jax import errors, files

Row = dict[str, Any]

FIRST = 20.0
"""Estimated seconds of the first figure of a kind."""

_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")


class Figures:
    """Writes FOLDER/figures.jsonl and figures.txt after every figure.

    A row holds "figure" (its name), "device", "commit", "settings", "seconds" of the measurement, and
    "values", or "failed" with the reason in one line.

    Args:
      folder: of the files; existing rows are read.
      device: of the measurements; rows of other devices are kept and printed, but not reused.
      commit: of the measured code.
      say: prints a line.

    Raises:
      VosError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        device: str,
        commit: str | None = None,
        say: Callable[[str], None] = print,
    ):
        self._lines, self._table = folder / "figures.jsonl", folder / "figures.txt"
        self._device, self._commit, self._say = device, commit, say
        self.rows = _read(self._lines)

    def known(self, name: str, settings: Mapping[str, Any]) -> Row | None:
        """Returns the last row of a figure of this device with these settings; None if it must be measured.

        Failed figures are measured again, except those that do not fit into memory.
        """
        wanted = json.loads(json.dumps(dict(settings)))
        for row in reversed(self.rows):
            if (row["figure"], row["device"], row["settings"]) == (name, self._device, wanted):
                return row if "values" in row or out_of_memory(row) else None
        return None

    def measure(
        self,
        name: str,
        settings: Mapping[str, Any],
        function: Callable[[], Mapping[str, Any]],
        deadline: clock.Clock,
    ) -> Row:
        """Returns a figure's row: the known one, or a new one with the result of `function`.

        An exception in `function` is noted as "failed". `function` is not called if less time is left than
        the slowest figure of this name took, or than `FIRST` seconds for the first of its name.

        Args:
          name: of the figure, such as "training step".
          settings: the settings that its values depend on, besides the device.
          function: returns its values: numbers, text or lists of dicts.
          deadline: the latest end of `function`.
        """
        if (row := self.known(name, settings)) is not None:
            self._say(f"known already: {as_line(row)}")
            return row
        took = [row["seconds"] for row in self.rows if row["figure"] == name and "values" in row]
        left, needed = deadline.left(), max(took, default=FIRST)
        if left < needed:
            late = {"failed": f"not begun: {left:.0f} s left, {needed:.0f} s needed"}
            return self._note(name, settings, late, 0.0)
        begin = time.monotonic()
        try:
            found = {"values": dict(function())}
        # The compiler and the device raise various errors; the next figure may still succeed.
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        return self._note(name, settings, found, time.monotonic() - begin)

    def _note(self, name: str, settings: Mapping[str, Any], found: Mapping[str, Any], seconds: float) -> Row:
        row = {"figure": name, "device": self._device, "commit": self._commit, "settings": dict(settings)}
        row |= {"seconds": round(seconds, 1), **found}
        row = json.loads(json.dumps(row))
        self.rows.append(row)
        try:
            with self._lines.open("a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
            with files.atomic(self._table) as temporary:
                temporary.write_text(as_text(self.rows))
        except OSError as error:
            raise errors.VosError(f"{self._lines}: cannot be written ({error.strerror})") from error
        self._say(as_line(row))
        return row


def out_of_memory(row: Row) -> bool:
    """Returns whether a figure failed because the device has too little memory."""
    return any(word in row.get("failed", "") for word in _OUT_OF_MEMORY)


def as_text(rows: list[Row]) -> str:
    """Formats the last row of each figure, device by device."""
    lines = []
    last = {json.dumps([row["figure"], row["device"], row["settings"]]): row for row in rows}
    for device in dict.fromkeys(row["device"] for row in rows):
        lines += ["", device, "=" * len(device)]
        for row in last.values():
            if row["device"] == device:
                lines.append(as_line(row))
                for value in row.get("values", {}).values():
                    if isinstance(value, list):
                        lines += ["    " + _pairs(item) for item in value]
    return "\n".join(lines[1:]) + "\n"


def as_line(row: Row) -> str:
    """Formats a figure without lists, as `training step (batch 32): step_seconds 0.61, steps 9`."""
    of = f" ({_pairs(row['settings'])})" if row["settings"] else ""
    if "failed" in row:
        return f"{row['figure']}{of}: failed: {row['failed']}"
    values = {name: value for name, value in row["values"].items() if not isinstance(value, list)}
    return f"{row['figure']}{of}: {_pairs(values)}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
        if value not in ("", [], None)
    )


def _read(path: pathlib.Path) -> list[Row]:
    """Returns the rows of a file; removes invalid lines, such as a truncated last one, from the file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
            rows.append({key: row[key] for key in ("figure", "device", "settings", "seconds")} | row)
        except (ValueError, KeyError, TypeError):
            continue
    with files.atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows
