"""Prefetching of batches, in threads of this process or in worker processes."""

import multiprocessing
import os
import signal
import threading

import cv2
import grain
from absl import flags


def prefetched(
    batches: grain.MapDataset, *, num_workers: int, num_threads: int, prefetch: int
) -> grain.IterDataset:
    """Prefetches batches; their order is the same for every number of workers.

    Args:
      batches: the batches by number.
      num_workers: worker processes; 0 decodes in threads of this process.
      num_threads: threads per worker, or of this process.
      prefetch: batches prefetched per worker.
    """
    running = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    )
    if num_workers == 0:
        return running
    if not flags.FLAGS.is_parsed():
        # grain passes absl flags to its workers; outside absl.app.run they are not parsed yet.
        flags.FLAGS.mark_as_parsed()
    workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=prefetch)
    return running.mp_prefetch(workers, worker_init_fn=_init)


def _init(worker: int, workers: int) -> None:
    """Prepares a worker: one OpenCV thread, and no reaction to SIGTERM and SIGINT.

    `timeout` and Ctrl-C signal the whole process group. A worker that died would leave its batches in shared
    memory; the parent ends its workers and frees their memory.
    """
    del worker, workers
    cv2.setNumThreads(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
