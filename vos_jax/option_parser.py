"""The parser of all command lines: options may be spelt with hyphens or underscores."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any


class OptionParser(argparse.ArgumentParser):
    """A parser that takes `--max-size` for `--max_size`, and `--resize_masks` for `--resize-masks`."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parses a command line; the other spellings of options are those that were added."""
        return super().parse_known_args(self._respelt(sys.argv[1:] if args is None else args), namespace)

    def _respelt(self, arguments: Sequence[str]) -> list[str]:
        known = {name.replace("-", "_"): name for name in self._option_string_actions if name[:2] == "--"}
        found, ended = [], False
        for argument in arguments:
            name, equals, value = argument.partition("=")
            ended = ended or argument == "--"
            if not ended and name[:2] == "--":
                name = known.get(name.replace("-", "_"), name)
            found.append(f"{name}{equals}{value}")
        return found
