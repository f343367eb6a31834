"""Run by test_spread.py with four simulated devices: one device and four give the same bits."""

import jax
import numpy as np

from tests.inference import coloured
from vos_jax.inference import spread, tracker


def main() -> None:
    devices = jax.local_devices()
    assert len(devices) == 4, devices
    frames, ids = coloured.make_video((50, 70), 6)
    videos = {number: np.roll(frames, number, axis=2)[: 2 + number % 5] for number in range(7)}
    used = set()

    def work(number, follower, stop):
        results = []
        for result in follower.track(videos[number], {0: np.roll(ids[0], number, axis=1)}):
            stop()
            results.append((result.ids, result.prob, result.presence))
        return results

    def make():
        follower = tracker.Tracker(coloured.make_model(), {"none": np.zeros(1)}, with_prob=True)
        step = follower.step

        def noted(state, *args, **options):
            outputs = step(state, *args, **options)
            used.update(outputs[1].devices())
            return outputs

        follower.step = noted
        return follower

    found = {}
    for some in (devices[:1], devices):
        used.clear()
        workers = spread.make_workers(make, some)
        cost = {number: len(video) for number, video in videos.items()}.get
        found[len(some)] = dict(spread.spread(work, list(videos), workers, some, cost))
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
