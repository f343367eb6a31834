"""Prefetching in a thread: frames are decoded while the model runs."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")


def prefetch(items: Iterable[Item], size: int = 2) -> Generator[Item, None, None]:
    """Yields the items in order while a thread computes up to `size` of them ahead.

    The thread starts with the first `next`. An exception raised by `items` reaches the consumer after the
    items before it, with its type and traceback. When the consumer stops early (`close`, `break`, or the
    generator is deleted), the thread finishes the current item, closes `items` and ends.

    Args:
      items: an iterable or generator, consumed in one thread only.
      size: maximum number of waiting items, >= 1; one more may be in progress.

    Raises:
      ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"prefetch size is at least 1, not {size}")
    return _consume(items, size)


def _consume(items: Iterable[Item], size: int) -> Generator[Item, None, None]:
    # A semaphore limits the work instead of the queue, so that `stop` wakes a waiting producer at once.
    ready: queue.SimpleQueue = queue.SimpleQueue()
    free = threading.Semaphore(size)
    stop = threading.Event()

    def produce() -> None:
        iterator: Any = None  # a generator or not
        try:
            iterator = iter(items)
            while True:
                free.acquire()
                if stop.is_set():
                    return
                ready.put(("item", next(iterator)))
        except StopIteration:
            ready.put(("end", None))
        except BaseException as error:  # noqa: B036 - it is raised again, in the consumer
            ready.put(("error", error))
        finally:
            if stop.is_set() and hasattr(iterator, "close"):
                iterator.close()

    # A daemon, so that a source that blocks forever does not keep the program alive.
    thread = threading.Thread(target=produce, name="vos-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            free.release()
            yield value
    finally:
        stop.set()
        free.release()
        thread.join(timeout=5.0)
