"""Batches made ahead, by threads of this process or by worker processes that only their parent ends."""

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
    """Makes batches ahead; their order is the same for every number of workers.

    Args:
      batches: the batches by number.
      num_workers: worker processes; 0 decodes in threads of this process.
      num_threads: threads per worker, or of this process.
      prefetch: batches made ahead, per worker.
    """
    running = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    )
    if num_workers == 0:
        return running
    if not flags.FLAGS.is_parsed():
        # grain passes flags to its workers; outside absl.app.run nobody has parsed any.
        flags.FLAGS.mark_as_parsed()
    workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=prefetch)
    return running.mp_prefetch(workers, worker_init_fn=_init)


def _init(worker: int, workers: int) -> None:
    """Prepares a worker: OpenCV keeps to the worker's own threads, and only the parent ends the worker.

    `timeout` and Ctrl-C signal the whole process group. A worker that died of it would leave its batches in
    shared memory; the parent, which stops in good order, asks its workers to end and frees them.
    """
    del worker, workers
    cv2.setNumThreads(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this worker when its parent has died."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
