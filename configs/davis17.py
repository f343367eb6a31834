"""DAVIS 2017 val: several objects per video.

Command:  python eval.py --config davis17 --data data/DAVIS
Hardware: 2 CPU cores, or any JAX accelerator
Time:     27 s per video and 0.27 s per frame with one object; --adapt 0 saves the 27 s
Expected: as davis16 on the ten sequences with one object; several objects: not yet measured
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "data.year": 2017,
            "model.dataset": "davis",
            # For the score, at the cost of speed; docs/results.md has the gain.
            "inference.adaptation.steps": 40,
            "eval.out": "results/davis17",
        },
    )
