"""The rules of language that a program can check (CONVENTIONS.md, "Plain English").

    python -m tests.test_words        # shows what the rules find, file by file
    python -m tests.test_words --lower  # lowers tests/words.json to what is left

Violations that were there before the rules are counted per file and rule in words.json, which may only
shrink.
"""

import ast
import collections
import io
import json
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
LISTED = pathlib.Path(__file__).with_name("words.json")
MOST_WORDS = 20

Counts = dict[str, dict[str, int]]
"""File -> rule -> how often."""

QUESTIONS = "What Who Whom Whose How Where Whether".split()
STARTS = (
    "About After All At Because Before Beside But By For From He If In Into It Its Of On Or Out She So That "
    "Them They Though Through Thus To Too Under Until Upon When Which While With Without"
).split()
"""First words of a docstring that are neither a verb nor part of a noun phrase."""

PHRASES = r"\bshall\b|\bcome what may\b|\bso it is\b|\bso to speak\b|\bwhosoever\b"

OLD_NAMES = frozenset(
    """
    Bounded Follower GivenMask Listed Movie Probe Product Record Segmented Segmenter Sequences Sizing
    Soft StepConfig Track TrackedFrame Tracker VOSNet VideoSource ViewsTracker Watch
    ahead_of_time annotations_lib box_masks davis_folder dataset_index follower followers frame_step
    given_masks keep_states make_follower make_plain no_given open_source proposals_dir
    reachable segmenter startable tracked with_prob ytvos
    """.split()
)
"""Identifiers that the redesign renames and that mean nothing else."""


def python_files() -> list[pathlib.Path]:
    """Returns the project's Python files but this one."""
    folders = ("vos_jax", "configs", "benchmarks", "tests")
    found = [*ROOT.glob("*.py"), *(path for name in folders for path in (ROOT / name).rglob("*.py"))]
    return sorted(path for path in found if path != pathlib.Path(__file__).resolve())


def documents() -> list[pathlib.Path]:
    """Returns README.md and docs/ without docs/lab, whose dated notes stay as they were written."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# ---------------------------------------------------------------- the rules
def in_python(text: str) -> Iterator[str]:
    """Yields the rule that is broken, once per violation, in a Python file."""
    for docstring in _docstrings(ast.parse(text)):
        first, *others = sentences(docstring)
        words = first.split()
        if len(words) > MOST_WORDS:
            yield "first sentence too long"
        if words and words[0].strip(",.:;") in STARTS:
            yield "first word no verb or noun"
        for sentence in (first, *others):
            yield from _in_prose(sentence)
    for comment in _comments(text):
        for sentence in sentences(comment):
            yield from _in_prose(sentence)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string in OLD_NAMES:
            yield "old name"
    for word in _strings(ast.parse(text)):
        yield from ["phrase"] * len(re.findall(PHRASES, word, re.IGNORECASE))
    yield from ["DESIGN"] * len(re.findall(r"\bDESIGN\b", text))


def in_document(text: str) -> Iterator[str]:
    """Yields the rule that is broken, once per violation, in a Markdown file."""
    text = re.sub(r"^(```.*?^```|    .*?$)", "", text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|^[-*|#] ?", text, flags=re.MULTILINE):
        for sentence in sentences(paragraph):
            yield from _in_prose(sentence)
    yield from ["phrase"] * len(re.findall(PHRASES, text, re.IGNORECASE))
    yield from ["DESIGN"] * len(re.findall(r"\bDESIGN\b", text))
    yield from ["figure without 0 or unit"] * len(re.findall(r"(?<![\w.\]/*`])\.\d\d", text))


def _in_prose(sentence: str) -> Iterator[str]:
    words = sentence.split()
    if words and words[0].strip(",.:;") in QUESTIONS and not sentence.rstrip().endswith("?"):
        yield "question word first"


def sentences(text: str) -> list[str]:
    """Returns the sentences of a docstring or comment, at least one; a blank line ends one, too."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        joined = " ".join(paragraph.split())
        found += re.split(r"(?<=[.?!])\s+(?=[A-Z`\"(])", joined)
    return found


def _docstrings(tree: ast.Module) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node)):
            yield docstring
        for before, after in _pairs(getattr(node, "body", None)):
            # What stands below an assignment documents it.
            value = after.value if isinstance(after, ast.Expr) else None
            if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Constant):
                if isinstance(value.value, str):
                    yield value.value


def _pairs(body: object) -> Iterable[tuple[ast.AST, ast.AST]]:
    return zip(body, body[1:], strict=False) if isinstance(body, list) else ()


def _strings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _comments(text: str) -> Iterator[str]:
    """Yields each comment; lines that follow each other are one."""
    lines: list[str] = []
    last = -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] != last + 1 and lines:
            yield " ".join(lines)
            lines = []
        lines.append(token.string.lstrip("#: "))
        last = token.start[0]
    if lines:
        yield " ".join(lines)


# ---------------------------------------------------------------- the list
def count() -> Counts:
    """Returns the violations of today; files without any are left out."""
    found = {}
    for paths, rules in ((python_files(), in_python), (documents(), in_document)):
        for path in paths:
            counts = collections.Counter(rules(path.read_text()))
            if counts:
                found[path.relative_to(ROOT).as_posix()] = dict(sorted(counts.items()))
    return found


def listed() -> Counts:
    """Returns the violations that are allowed."""
    return json.loads(LISTED.read_text())


def lowered(allowed: Counts, found: Counts, existing: set[str]) -> Counts:
    """Returns the list for what is left; a file that took over a removed one's text takes over its counts.

    Args:
        allowed: the list of today.
        found: today's violations.
        existing: files that there are.

    Raises:
        ValueError: a file breaks a rule more often than it may, and removed files leave too little for it.
    """
    spare: collections.Counter[str] = collections.Counter()
    for name, counts in allowed.items():
        if name not in existing:
            spare.update(counts)
    for name, counts in found.items():
        for rule, number in counts.items():
            more = number - allowed.get(name, {}).get(rule, 0)
            if more > 0 and spare[rule] < more:
                raise ValueError(
                    f"{name}: {rule}: {number}, {more} more than words.json allows; rewrite them"
                )
            spare[rule] -= max(more, 0)
    return dict(sorted(found.items()))


def differences(allowed: Counts, found: Counts) -> list[str]:
    """Returns a line for each file and rule whose number is not the listed one."""
    lines = []
    for name in sorted({*allowed, *found}):
        before, now = allowed.get(name, {}), found.get(name, {})
        for rule in sorted({*before, *now}):
            may, does = before.get(rule, 0), now.get(rule, 0)
            if does > may:
                lines.append(f"{name}: {rule}: {does}, allowed {may}: rewrite the new ones")
            elif does < may:
                lines.append(f"{name}: {rule}: {does}, listed {may}: python -m tests.test_words --lower")
    return lines


def write(counts: Mapping[str, Mapping[str, int]]) -> None:
    """Writes the list, a file per line."""
    rows = [f"{json.dumps(name)}: {json.dumps(rules)}" for name, rules in counts.items()]
    LISTED.write_text("{\n" + ",\n".join(rows) + "\n}\n")


# ---------------------------------------------------------------- tests
def test_language():
    told = differences(listed(), count())
    assert not told, "\n" + "\n".join(told)


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ('"""Returns the masks."""', []),
        ('"""What the memory holds."""', ["question word first"]),
        ('"""Returns it. How it is made stands elsewhere."""', ["question word first"]),
        ('"""From a config to a model."""', ["first word no verb or noun"]),
        (f'"""Returns {"many " * 20}words."""', ["first sentence too long"]),
        ("x = 1\n# Whether the loop\n# is unrolled.", ["question word first"]),
        ('X = 1\n"""Who leaves a full bank."""', ["question word first"]),
        ('raise ValueError("it shall not")', ["phrase"]),
        ("# Elsewhere, see DESIGN §8.", ["DESIGN"]),
        ("follower = Tracker(followers)", ["old name"] * 3),
        ('"""Reads a mask: what is given, where it lies."""', []),
    ],
)
def test_rules_of_python(text, rules):
    assert list(in_python(text)) == rules


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("J falls by .045 on dog.", ["figure without 0 or unit"]),
        ("J falls by 0.045 or 4.5 points (`a.045`).", []),
        ("- Who leaves a full bank.", ["question word first"]),
        ("Who paints masks?", []),
        ("```\nx = .045\n```\nIt shall.", ["phrase"]),
    ],
)
def test_rules_of_documents(text, rules):
    assert list(in_document(text)) == rules


def test_the_list_is_only_lowered():
    allowed = {"a.py": {"DESIGN": 3}, "b.py": {"phrase": 1}, "gone.py": {"phrase": 2}}
    there = {"a.py", "b.py", "new.py"}
    found = {"a.py": {"DESIGN": 2}, "new.py": {"phrase": 2}}
    assert lowered(allowed, found, there) == found
    for more in ({"a.py": {"DESIGN": 4}}, {"new.py": {"phrase": 3}}, {"b.py": {"DESIGN": 1}}):
        with pytest.raises(ValueError, match="rewrite them"):
            lowered(allowed, more, there)
    assert differences(allowed, {**allowed, "a.py": {"DESIGN": 2}}) == [
        "a.py: DESIGN: 2, listed 3: python -m tests.test_words --lower"
    ]
    assert differences({}, {"c.py": {"phrase": 1}}) == ["c.py: phrase: 1, allowed 0: rewrite the new ones"]


def main() -> None:
    """Prints the violations, or lowers the list to them."""
    found = count()
    if sys.argv[1:] == ["--lower"]:
        there = {path.relative_to(ROOT).as_posix() for path in (*python_files(), *documents())}
        try:
            write(lowered(listed(), found, there))
        except ValueError as error:
            sys.exit(f"error: {error}")
    for name, counts in found.items():
        print(f"{name}: {', '.join(f'{rule} {number}' for rule, number in counts.items())}")


if __name__ == "__main__":
    main()
