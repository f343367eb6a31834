"""Run by test_processes.py: eval.py with a tiny model that really follows, as one of several processes.

python -m tests.eval.process_worker [--break NAME] ARGUMENTS OF eval.py
"""

import sys

import eval as program
from tests.inference import coloured
from vos_jax.inference import segment_video
from vos_jax.models import weights


def main() -> int:
    arguments = sys.argv[1:]
    broken = arguments.pop(1) if arguments[0] == "--break" else None
    arguments = arguments[1:] if broken else arguments
    run = segment_video.segment_video

    def break_one(engine, video, *args, **kwargs):
        if video.name == broken:
            raise program.errors.VosError(f"{video.name}: broken on purpose")
        return run(engine, video, *args, **kwargs)

    segment_video.segment_video = break_one
    weights.load_model = lambda config, checkpoint: (coloured.make_model(6), {}, "colours")
    return program.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
