"""Distributes videos over the devices of a process, longest first. A video runs on one device."""

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import jax

from vos_jax.typing import Device

Item = TypeVar("Item")
Worker = TypeVar("Worker")
Result = TypeVar("Result")


class Stopped(Exception):
    """Another device's video failed or the user gave up; this one's work is for nothing."""


def make_workers(make: Callable[[], Worker], devices: Sequence[Device]) -> list[Worker]:
    """Makes one worker per device, with that device as JAX's default."""
    workers = []
    for device in devices:
        with jax.default_device(device):
            workers.append(make())
    return workers


def spread(
    work: Callable[[Item, Worker, Callable[[], None]], Result],
    items: Sequence[Item],
    workers: Sequence[Worker],
    devices: Sequence[Device],
    cost: Callable[[Item], Any],
) -> Generator[tuple[Item, Result], None, None]:
    """Yields (item, result) as they become ready.

    One device works in the caller's thread and in the order given. Several work in a thread each, and each
    takes the costliest item that is left, so that they end together. An item meets one device only and no
    other item's state, so results do not depend on how many devices there are.

    Args:
      work: called with (item, worker, stop); it calls `stop` every now and then, which raises `Stopped` when
        the work is no longer wanted.
      items: what to do.
      workers: one per device (`make_workers`).
      devices: of this process; one that takes several items at a time is named as often.
      cost: of an item, in any unit or order.

    Raises:
      The first exception that `work` raised, when all devices have stopped.
    """
    if len(devices) == 1:
        for item in items:
            yield item, work(item, workers[0], lambda: None)
        return
    waiting = sorted(items, key=cost)
    lock, ended = threading.Lock(), threading.Event()
    ready: queue.SimpleQueue = queue.SimpleQueue()

    def stop() -> None:
        if ended.is_set():
            raise Stopped

    def serve(worker: Worker, device: Device) -> None:
        try:
            with jax.default_device(device):
                while not ended.is_set():
                    with lock:
                        if not waiting:
                            break
                        item = waiting.pop()
                    ready.put(("result", (item, work(item, worker, stop))))
        except BaseException as error:  # noqa: B036 - it is raised again, in the caller's thread
            ready.put(("error", error))
        else:
            ready.put(("end", None))

    threads = [
        threading.Thread(target=serve, args=pair, name=f"vos-device-{number}")
        for number, pair in enumerate(zip(workers, devices, strict=True))
    ]
    for thread in threads:
        thread.start()
    try:
        working = len(threads)
        while working:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "result":
                yield value
            else:
                working -= 1
    finally:
        ended.set()
        for thread in threads:
            thread.join()
