"""Counts the launches of an optimised HLO module from its text: kernels, loops, branches, bytes, FLOPs."""

import collections
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id iota broadcast "
    "copy-done async-done all-reduce-done slice-done opt-barrier add-dependency call end".split()
)
"""Operations that launch nothing."""

KINDS = "dot convolution scatter sort gather reduce-window dynamic-update-slice reduce".split()
"""Operations that name the fusion that contains them, the first one that does."""

GRAPH = 5
"""Number of kernels in a row that become a CUDA graph; loops, branches and calls of cuDNN end the row."""

LAUNCH = 5e-6
"""Least seconds of a kernel."""

BANDWIDTH = 3e12
"""Bytes per second."""

PEAK = {4: 4e14, 2: 8e14}
"""FLOPs per second by bytes per number: TF32 and bfloat16."""

_OP = re.compile(r"\s+(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$")

Counts = collections.Counter
Branch = Callable[..., Any]
"""`sum` counts every instruction once; `min` and `max` choose the branch that launches least or most."""


class Op(NamedTuple):
    """An operation of a computation; `rest` is its text after the operands."""

    name: str
    type: str
    code: str
    operands: list[str]
    rest: str


class Cost(NamedTuple):
    """FLOPs of matrix products and convolutions, bytes of operands and results, and least seconds."""

    flops: float
    bytes: float
    seconds: float


class Module:
    """An optimised HLO module.

    Args:
      text: of the scheduled module, as `compiled.as_text()` returns it.
      unknown: rounds of a loop whose number XLA does not know.
    """

    def __init__(self, text: str, unknown: int = 1):
        self.computations: dict[str, dict[str, Op]] = {}
        self.unknown = unknown
        self.run = functools.cache(self._run)
        ops: dict[str, Op] = {}
        for line in text.splitlines():
            if head := re.match(r"(?:ENTRY )?%?([^\s(]+) \(.*\{$", line):
                self.entry, ops = head[1], {}  # the entry comes last
                self.computations[head[1]] = ops
            elif self.computations and (found := _OP.match(line)):
                operands, rest = _split(found[4])
                ops[found[1]] = Op(found[1], found[2], found[3], operands, rest)
        titles = "FileNames", "FunctionNames", "FileLocations", "StackFrames"
        self._files, self._functions, self._places, self._frames = (_table(text, title) for title in titles)

    def fused(self, op: Op) -> list[Op]:
        """Returns the operations of a fusion."""
        return list(self.computations[called(op)[0]].values()) if op.code == "fusion" else []

    def origin(self, op: Op) -> str:
        """Returns FILE:FUNCTION, the innermost of vos_jax that an operation or its fused ones come from."""
        rest = "".join(each.rest for each in (op, *self.fused(op)))
        for frame in re.findall(r"stack_frame_id=(\d+)", rest):
            while frame in self._frames:
                place, *parent = re.findall(r"_id=(\d+)", self._frames[frame])
                file, function = re.findall(r"_id=(\d+)", self._places[place])[:2]
                path = self._files[file].strip('"')
                if "/vos_jax/" in path:
                    name = self._functions[function].strip('"').replace(".<locals>", "")
                    return f"{path.rsplit('/vos_jax/', 1)[1]}:{name}"
                frame = parent[0] if parent and parent[0] != frame else ""
        return (
            "weights in another layout"
            if "params" in op.rest
            else "copies"
            if op.code == "copy"
            else "unknown"
        )

    def trips(self, op: Op) -> int:
        """Returns the rounds of a loop: XLA's number, or the constant in its condition; 0 if unknown."""
        known = re.findall(r'known_trip_count":\{"n":"(\d+)', op.rest)
        condition = [*self.computations[called(op)[0]].values()]
        for each in condition:  # grows by the fused operations
            condition += self.fused(each)
        known += [x.operands[0] for x in condition if x.code == "constant" and x.type.startswith("s32[]")]
        return int(known[0]) if known else 0

    def _cost(self, ops: Mapping[str, Op], op: Op) -> Cost:
        types = [ops[name].type if name in ops else "" for name in op.operands]
        (_, x), (_, w), (width, y) = ([*arrays(t), (4, [])][0] for t in (*[*types, "", ""][:2], op.type))
        fused = self.computations[called(op)[0]] if op.code == "fusion" else {}
        flops = sum(self._cost(fused, inner).flops for inner in fused.values())
        if op.code == "dot":
            axes = re.findall(r"lhs_contracting_dims=\{([\d,]*)", op.rest)[0]
            flops = 2 * math.prod(y) * math.prod(x[int(axis)] for axis in axes.split(",") if axis)
        elif labels := re.search(r"dim_labels=\w+?_(\w+)->", op.rest):
            y, w = (x, w) if "BackwardInput" in op.rest else (w, y) if "BackwardFilter" in op.rest else (y, w)
            flops = 2 * math.prod(y) * math.prod(w) / w[labels[1].index("o")]
        read = dict(enumerate(map(size_of, types)))
        for each in fused.values():
            users = [user for user in fused.values() if each.name in user.operands]
            if each.code == "parameter" and all(
                u.code in ("slice", "dynamic-slice", "gather") for u in users
            ):
                number = int(each.operands[0])
                read[number] = min(read[number], sum(size_of(user.type) for user in users))
        moved = size_of(op.type) + sum(read.values())
        return Cost(flops, moved, max(moved / BANDWIDTH, flops / PEAK.get(int(width), PEAK[4])))

    def _kind(self, op: Op) -> str:
        if op.code == "custom-call":
            return re.findall(r'custom_call_target="([^"]*)', op.rest)[0]
        codes = {each.code for each in (op, *self.fused(op))}
        return next((kind for kind in KINDS if kind in codes), op.code)

    def _kernels(self, op: Op) -> int:
        """Returns 1; for a sort, 1 for tiles of 4,096 and a few per doubling."""
        sorts = [each for each in (op, *self.fused(op)) if each.code == "sort"]
        lengths = [
            arrays(each.type)[0][1][int(re.findall(r"dimensions=.(\d)", each.rest)[0])] for each in sorts
        ]
        above = max(math.ceil(math.log2(max(lengths, default=1))) - 12, 0)
        return 1 + above * (above + 3) // 2

    def _run(self, name: str, branch: Branch) -> Counts:
        """Counts one run of a computation."""
        total: Counts = collections.Counter()
        row = 0
        for op in [*self.computations[name].values(), Op("", "", "end", [], "")]:
            if alone := op.code in ("while", "conditional", "end") or "__cudnn$" in op.rest:
                total.update({"CUDA graphs": row >= GRAPH, "kernels in CUDA graphs": row * (row >= GRAPH)})
                row = 0
            if op.code in ("while", "conditional", "call"):
                total.update(self._inner(op, branch))
            elif op.code not in FREE:
                cost, kernels = self._cost(self.computations[name], op), self._kernels(op)
                total.update(
                    {"kernels": kernels, f"kind {self._kind(op)}": 1, f"from {self.origin(op)}": kernels}
                )
                total.update(
                    {"FLOPs": cost.flops, "bytes": cost.bytes, "seconds, launches free": cost.seconds}
                )
                total["seconds, 5 us a launch"] += max(cost.seconds, LAUNCH * kernels)
                row += 0 if alone else kernels
        return total

    def _inner(self, op: Op, branch: Branch) -> Counts:
        """Counts what a loop, a conditional or a call runs."""
        inner, times = called(op), 1
        total: Counts = collections.Counter()
        if op.code == "while":
            known = self.trips(op)
            times = 1 if branch is sum else known or self.unknown
            total.update({"while loops": 1, "host waits": 0 if known else times})
            # The condition of a loop with a known number of rounds is not run.
            inner = inner[1:] if known and branch is not sum else inner
        elif op.code == "conditional":
            total.update({"conditionals": 1, "host waits": 1})
            if branch is not sum:
                inner = [branch(inner, key=lambda each: self.run(each, branch)["kernels"])]
        for each in inner:
            found = collections.Counter({key: value * times for key, value in self.run(each, branch).items()})
            if op.code == "conditional":  # no CUDA graph forms in a branch
                found["CUDA graphs"] = found["kernels in CUDA graphs"] = 0
            elif op.code == "while":
                found["kernels in loops"] = found["kernels"]
            total.update(found)
        return total


def arrays(text: str) -> list[tuple[float, list[int]]]:
    """Returns bytes per number and shape of each array in a type."""
    found = re.findall(r"\b(?:pred|[a-z]+(\d+))\w*\[([\d,]*)\]", text)
    return [(int(bits or 8) / 8, [int(n) for n in shape.split(",") if n]) for bits, shape in found]


def size_of(text: str) -> float:
    """Returns the bytes of a type."""
    return sum(width * math.prod(shape) for width, shape in arrays(text))


def called(op: Op) -> list[str]:
    """Returns the names of the computations that an operation calls."""
    found = re.findall(
        r"(?:calls|to_apply|body|condition|\w+_computations?)=(?:\{([^}]*)\}|%([\w.-]+))", op.rest
    )
    return [each.strip(" %") for names, name in found for each in (name or names).split(",")]


def _split(text: str) -> tuple[list[str], str]:
    """Splits the text after an operation's name into its operands and the rest."""
    depth = 1
    for end, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return re.findall(r"%([\w.-]+)", text[:end]) or [text[:end]], text[end:]
    return [], text


def _table(text: str, title: str) -> dict[str, str]:
    found = re.search(rf"^{title}\n((?:\d.*\n)*)", text, re.MULTILINE)
    return dict(_rows(found[1])) if found else {}


def _rows(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        number, _, value = line.partition(" ")
        yield number, value
