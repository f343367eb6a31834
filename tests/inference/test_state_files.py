"""The saved states of a video: few, spread evenly, never more bytes than allowed."""

import types

import pytest

from vos_jax import files, output_folder
from vos_jax.inference import session_file, state_files


@pytest.fixture
def output(tmp_path, monkeypatch):
    """A results folder in which a state is a file of 1,000 bytes."""

    def save(path, session, note):
        with files.atomic(path) as temporary:
            temporary.write_bytes(bytes(1000))

    monkeypatch.setattr(session_file, "save", save)
    output = output_folder.OutputFolder(tmp_path / "out")
    yield output
    output.close()


def save_all(states, indices):
    for index in indices:
        states.save(types.SimpleNamespace(index=index), {}, 0.0)


def kept(states):
    return [state_files.index_of(path) for path in states.paths()]


@pytest.mark.parametrize("last", [5, 16, 17, 40, 100, 333])
def test_states_stay_spread_evenly(output, last):
    states = state_files.StateFiles(output, "cow", most=16)
    save_all(states, range(1, last + 1))
    found = kept(states)
    assert len(found) == min(last, 16) and found[-1] == last
    gaps = [after - before for before, after in zip([0, *found], found, strict=False)]
    assert max(gaps) <= 2.5 * max(1, last / 16)


def test_one_state_is_the_newest(output):
    states = state_files.StateFiles(output, "cow", most=1)
    save_all(states, (3, 7, 9))
    assert kept(states) == [9]


def test_bytes_are_bounded_but_for_the_newest(output, monkeypatch):
    monkeypatch.setattr(state_files, "MAX_BYTES", 3500)
    states = state_files.StateFiles(output, "cow", most=16)
    save_all(states, range(1, 41))
    assert len(kept(states)) == 3 and kept(states)[-1] == 40
    monkeypatch.setattr(state_files, "MAX_BYTES", 500)
    save_all(states, (41,))
    assert kept(states) == [41]


def test_names_that_end_alike_are_told_apart(output):
    cow, other = (state_files.StateFiles(output, name, most=16) for name in ("cow", "cow-00000001"))
    save_all(cow, (1, 2)), save_all(other, (5,))
    assert kept(cow) == [1, 2] and kept(other) == [5]
    cow.forget(1)
    assert kept(cow) == [1] and kept(other) == [5]


def test_saving_takes_its_share_of_the_time(output, monkeypatch):
    states = state_files.StateFiles(output, "cow", most=16)
    assert not states.is_due(9.9) and states.is_due(10.1)
    states.begin(100.0)
    assert not states.is_due(109.0) and states.is_due(111.0)
    clock = iter((0.0, 3.0))
    monkeypatch.setattr(state_files, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    states.save(types.SimpleNamespace(index=4), {}, 111.0)
    assert not states.is_due(111.0 + 149.0) and states.is_due(111.0 + 151.0), "3 s are 2 % of 150 s"
