"""DAVIS 2017 test-dev: first masks only; the server scores.

Command:  python eval.py --config davis17_testdev --data data/DAVIS --zip
Hardware: 2 CPU cores, or any JAX accelerator
Time:     not yet measured
Expected: not yet measured; the truth lies with the server, which takes results/davis17_testdev/submission.zip
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "data.year": 2017,
            "data.split": "test-dev",
            # A score is asked for here, not speed: docs/results.md says what it gains.
            "inference.adaptation.steps": 40,
            "eval.out": "results/davis17_testdev",
        },
    )
