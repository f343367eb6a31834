"""Worker processes of the pipeline: their parent alone ends them."""

import multiprocessing
import os
import signal

from tests.data import tiny_training
from vos_jax.data import config as data_config
from vos_jax.data import datasets, pipeline


def test_a_signal_to_the_group_leaves_workers_to_their_parent(tmp_path):
    """`timeout` ended workers before their parent: 165 blocks of shared memory were left over."""
    source = datasets.SourceConfig(root=str(tiny_training.write_davis(tmp_path)))
    config = data_config.ClipDataConfig(sources=tiny_training.drawn(source), crop=32, batch=2, workers=2)
    data = pipeline.make_pipeline(config, dataset_names=("default",))
    # Workers take turns: after two batches both run and have their handlers.
    next(data)
    next(data)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    for _ in range(8):
        next(data)
    assert all(worker.is_alive() for worker in workers)
    data.close()
    assert [worker.exitcode for worker in workers] == [0, 0], "each freed its batches and returned"
