"""DAVIS 2017 val: several objects per video.

Command:  python eval.py --config davis17 --data data/DAVIS
Hardware: 2 CPU cores, or any JAX accelerator
Time:     27 s per video and 0.27 s per frame with one object; --adapt 0 leaves the 27 s out
Expected: on ten sequences of one object each what davis16 gives; several objects: not yet measured
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "data.year": 2017,
            "model.dataset": "davis",
            # A score is asked for here, not speed: docs/results.md says what it gains.
            "inference.adaptation.steps": 40,
            "eval.out": "results/davis17",
        },
    )
