"""The short form of `make fuzz`: some damaged files through every door, and structured ones by hypothesis."""

import gc
import json
import pathlib

import hypothesis
import pytest
from hypothesis import strategies

from tests.fuzz import doors, run
from vos_jax import config as configs
from vos_jax import errors, files
from vos_jax.data import proposal_files
from vos_jax.data.datasets import youtube_vos
from vos_jax.inference import result_store

INPUTS = 40
FEW = hypothesis.settings(max_examples=60, deadline=None, derandomize=True, database=None)

TREES = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.integers()
    | strategies.floats()
    | strategies.text(max_size=8),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="session")
def hook() -> run.AuditHook:
    return run.AuditHook()


# Orbax's threads and coroutines report what went wrong besides raising it, some when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", doors.DOORS)
def test_damaged_files_are_read_or_refused(tmp_path, monkeypatch, hook, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds").mkdir()
    door = doors.DOORS[name]
    seeds = door.seeds(tmp_path / "seeds")
    for number in range(min(INPUTS, door.share)):
        outcome = run.try_input(door, run.make_input(door, seeds, 1, number), tmp_path, hook)
        assert outcome in ("read", "refused"), f"input {number}: {outcome}"
    gc.collect()


def test_a_fault_is_seen(tmp_path, hook):
    """The harness itself: a traceback, a file written elsewhere and a program started are not acceptable."""

    def outcome(read) -> str:
        return run.try_input(doors.Door(lambda _: [b""], read), b"x", tmp_path / "inside", hook)

    (tmp_path / "inside").mkdir()
    assert "ZeroDivisionError" in outcome(lambda path: 1 // 0)
    assert "forbidden" in outcome(lambda path: (tmp_path / "outside").write_text("x"))
    assert "forbidden" in outcome(
        lambda path: (path.parent / "link").symlink_to("x") or run.os.system("true")
    )
    assert outcome(lambda path: (path.parent / "inside").write_text("x")) == "read"


def refused_or(read, path: pathlib.Path, content: object):
    path.write_text(json.dumps(content))
    try:
        return read(path)
    except errors.VosError as error:
        assert str(error)


@FEW
@hypothesis.given(objects=TREES, name=strategies.text(max_size=6))
def test_meta_json_of_any_shape(tmp_path_factory, objects, name):
    content = {"videos": {name: {"objects": {"1": objects}}}}
    found = refused_or(youtube_vos.read_meta, tmp_path_factory.getbasetemp() / "meta.json", content)
    assert found is None or all(files.safe_name(video) for video in found)


@FEW
@hypothesis.given(segmentation=TREES, score=TREES)
def test_proposals_of_any_shape(tmp_path_factory, segmentation, score):
    entry = {"score": score, "segmentation": segmentation}
    content = {"format": proposal_files.FORMAT, "video": "v", "size": [4, 6], "frames": {"0": [entry]}}
    refused_or(proposal_files.read, tmp_path_factory.getbasetemp() / "v.json", content)


@FEW
@hypothesis.given(
    counts=strategies.text(max_size=12) | strategies.lists(strategies.integers(-3, 30), max_size=6)
)
def test_run_length_codes_of_any_kind_decode_to_their_pixels(tmp_path_factory, counts):
    entry = {"score": 0.5, "segmentation": {"size": [4, 6], "counts": counts}}
    content = {"format": proposal_files.FORMAT, "video": "v", "size": [4, 6], "frames": {"0": [entry]}}
    found = refused_or(proposal_files.read, tmp_path_factory.getbasetemp() / "v.json", content)
    if found is not None:
        proposal_files.arrays(found, "0", frame_size=(4, 6), padded_size=(32, 32), capacity=1)


@FEW
@hypothesis.given(entry=TREES, known=TREES)
def test_records_of_any_shape(tmp_path_factory, entry, known):
    content = {"videos": {"cow": entry}, "settings": {"k": known}}
    path = tmp_path_factory.getbasetemp() / result_store.NAME
    refused_or(open_store, path, content)


def open_store(path):
    """Opens and closes the results folder that a record lies in."""
    with result_store.ResultStore(path.parent, {}):
        pass


KEYS = list(configs.keys(configs.default()))


@FEW
@hypothesis.given(
    key=strategies.sampled_from(KEYS) | strategies.text(max_size=10), value=strategies.text(max_size=20)
)
def test_overrides_of_any_kind(key, value):
    try:
        json.dumps(configs.flatten(configs.load("default", [f"{key}={value}"])))
    except errors.VosError as error:
        assert str(error)
