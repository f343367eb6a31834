"""DAVIS 2016 val: one object per video (all annotated objects merged).

Command:  python eval.py --config davis16 --data data/DAVIS
Hardware: 2 CPU cores, or any JAX accelerator
Time:     27 s per video and 0.27 s per frame; --adapt 0 saves the 27 s
Expected: J&F 0.811 with --adapt 0 on the ten sequences of docs/results.md; with adaptation not measured with
          these weights (0.838 with the former ones and model.memory.previous=true); --checkpoint none: 0.587
"""

from vos_jax import config as configs


def get_config() -> configs.Config:
    return configs.replace(
        configs.default(),
        {
            "data.year": 2016,
            "data.merge_objects": True,
            "model.dataset": "davis",
            # For the score, at the cost of speed; docs/results.md has the gain.
            "inference.adaptation.steps": 40,
            "eval.out": "results/davis16",
        },
    )
