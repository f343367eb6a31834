"""Run by test_spread.py with four simulated devices: one device and four give the same bits."""

import jax
import numpy as np

from tests.inference import coloured
from vos_jax.evaluation import workers as workers_lib
from vos_jax.inference import session


def main() -> None:
    devices = jax.local_devices()
    assert len(devices) == 4, devices
    frames, ids = coloured.make_video((50, 70), 6)
    videos = {number: np.roll(frames, number, axis=2)[: 2 + number % 5] for number in range(7)}
    used = set()

    def work(number, engine, stop):
        results = []
        first = {0: np.roll(ids[0], number, axis=1)}
        for result in session.Session(engine).run(videos[number], first, soft=True):
            stop()
            results.append((result.ids, result.prob, result.presence))
        return results

    def make():
        engine = coloured.make_engine(params={"none": np.zeros(1)})
        run = engine.run

        def noted(state, *args, **options):
            outputs = run(state, *args, **options)
            used.update(outputs[1].ids.devices())
            return outputs

        engine.run = noted
        return engine

    found = {}
    for some in (devices[:1], devices):
        used.clear()
        workers = workers_lib.make_workers(make, some)
        cost = {number: len(video) for number, video in videos.items()}.get
        found[len(some)] = dict(workers_lib.spread(work, list(videos), workers, some, cost))
        assert used == set(some), used
    assert list(found[1]) == list(videos) and found[1].keys() == found[4].keys()
    for number in videos:
        for one, four in zip(found[1][number], found[4][number], strict=True):
            np.testing.assert_array_equal(one[0], four[0])
            np.testing.assert_array_equal(one[1], four[1])
            assert one[2] == four[2]
    print("the same bits")


if __name__ == "__main__":
    main()
