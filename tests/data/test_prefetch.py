"""Prefetching: order, bounded work, errors with their type, and a thread that ends."""

import threading
import time

import pytest

from vos_jax.data import prefetch


def threads():
    return [t for t in threading.enumerate() if t.name == "vos-prefetch"]


def test_order_is_kept_and_the_thread_ends():
    assert list(prefetch.prefetch(range(50), 3)) == list(range(50))
    assert not threads()


def test_nothing_in_nothing_out():
    assert list(prefetch.prefetch([])) == []


def test_works_ahead_but_not_further_than_size():
    made = []
    started = threading.Event()

    def items():
        for i in range(10):
            made.append(i)
            if len(made) == 4:
                started.set()
            yield i

    stream = prefetch.prefetch(items(), 3)
    assert next(stream) == 0
    # One was taken, three wait: four are made, and no fifth.
    assert started.wait(5)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    stream.close()
    assert not threads()


def test_error_arrives_after_the_items_before_it_with_its_type():
    def items():
        yield 1
        raise KeyError("frame 2")

    stream = prefetch.prefetch(items())
    assert next(stream) == 1
    with pytest.raises(KeyError, match="frame 2"):
        next(stream)
    assert not threads()


def test_stopping_early_closes_the_source():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    source = items()  # held, so that only an explicit close can end it
    for _ in prefetch.prefetch(source, 1):
        break
    assert closed.wait(5)
    assert not threads()


def test_error_of_iter_itself_arrives():
    with pytest.raises(TypeError, match="not iterable"):
        list(prefetch.prefetch(3))


def test_size_zero_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        prefetch.prefetch([], 0)
