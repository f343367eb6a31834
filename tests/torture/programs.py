"""The programs under torture, eval.py, segment.py and train.py on a tiny model, and their results."""

import hashlib
import json
import pathlib
import re
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import av
import jax
import numpy as np
import safetensors.numpy

import eval as eval_program
import segment as segment_program
import train as train_program
from tests import tiny
from tests.data import tiny_training, video_maker
from vos_jax import api, output_folder
from vos_jax import config as configs
from vos_jax.data import mask_files
from vos_jax.inference import engine as engine_lib
from vos_jax.inference import state_files
from vos_jax.train import checkpoints

CONFIG = str(pathlib.Path(__file__).resolve().parents[1] / "train" / "tiny_train.py")
SIZE = (64, 80)
ADAPTATION = 0  # steps, by --adapt: they take most of the time of a run
STEPS = 6
CORRECTED = 5  # the frame of the film that second.png is of
# Values that differ from run to run: times, and the place of a run's folder.
OF_THE_RUN = {"seconds", "time", "fps", "memory", "peak", "date", "share", "clips", "out", "host"}


class Program(NamedTuple):
    """One program, and how its results are compared."""

    main: Callable[[list[str]], int]
    arguments: Callable[[pathlib.Path, pathlib.Path], list[str]]  # of the place with the input and of OUT
    results: Callable[[pathlib.Path], dict[str, object]]  # of OUT
    stopped: tuple[int, ...]  # exit codes after SIGINT and SIGTERM
    part: float  # how many of the usual trials there is time for


def prepare(place: pathlib.Path) -> None:
    """Writes the input of all programs: videos, a film with its first mask, weights."""
    tiny_training.write_davis(place / "data", sequences=3, frames=6, objects=2, size=SIZE)
    tiny_training.write_sequence(place / "data", "held", 7, frames=4, objects=2, size=SIZE)
    frames, ids = tiny.video(10, SIZE)
    video_maker.write(str(place / "film.mp4"), frames)
    mask_files.write_mask(place / "first.png", ids[0])
    mask_files.write_mask(place / "second.png", ids[CORRECTED])
    params = jax.device_get(tiny.params(proposals=tiny.NO_NETWORK))
    flat = {"/".join(str(key.key) for key in path): x for path, x in jax.tree.leaves_with_path(params)}
    safetensors.numpy.save_file(flat, place / "tiny.safetensors", metadata={"variant": "tiny"})


def _eval(place: pathlib.Path, out: pathlib.Path) -> list[str]:
    return [
        f"--config={CONFIG}", f"--data={place / 'data'}", f"--out={out}",
        f"--checkpoint={place / 'tiny.safetensors'}", "--config.data.kind=folders", "--save-probabilities",
        "--overlay",
    ]  # fmt: skip


def _segment(place: pathlib.Path, out: pathlib.Path) -> list[str]:
    return [
        str(place / "film.mp4"), f"--masks={place / 'first.png'}", f"--out={out}", f"--config={CONFIG}",
        f"--checkpoint={place / 'tiny.safetensors'}", "--rle", "--cutout=png", f"--adapt={ADAPTATION}",
        "--config.inference.adaptation.crop=64", "--config.inference.adaptation.batch=1",
        "--config.model.memory.capacity=4",
    ]  # fmt: skip


def _segment_and_correct(arguments: list[str]) -> int:
    """Segments a film, and then once more with another mask; after a fault, both commands come again."""
    place = pathlib.Path(arguments[0]).parent
    correction = f"--masks={CORRECTED}:{place / 'second.png'}"
    # One engine for both commands, because tracing takes most of the time.
    make, engines = api.make_engine, []

    def make_once(config: configs.Config) -> engine_lib.Engine:
        engines.append(engines[0] if engines else make(config))
        return engines[0]

    api.make_engine = make_once
    return segment_program.main(arguments) or segment_program.main([*arguments, correction])


def _train(place: pathlib.Path, out: pathlib.Path) -> list[str]:
    return [
        f"--config={CONFIG}", f"--data={place / 'data'}", f"--workdir={out}", f"--config.train.steps={STEPS}",
        "--config.train.checkpoint.every=2",
    ]  # fmt: skip


def _plain(value: object) -> object:
    """JSON without what belongs to a run and not to its result."""
    if isinstance(value, dict):
        return {
            key: _plain(inner)
            for key, inner in value.items()
            if not any(word in OF_THE_RUN for word in re.split("[._]", key.lower()))
        }
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _content(path: pathlib.Path) -> object:
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text()))
    if path.name == output_folder.NAME:  # checksums of files that hold times differ
        return [json.loads(line).get("file") for line in path.read_text().splitlines()]
    if path.suffix == ".npz":  # a zip holds times
        with zipfile.ZipFile(path) as archive:
            return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
    if path.suffix == ".mp4":  # of its frames, how many and how large
        with av.open(str(path)) as film:
            return [(frame.width, frame.height) for frame in film.decode(video=0)]
    if path.suffix == ".safetensors":  # a state notes times, too
        tensors = sorted(safetensors.numpy.load_file(path).items())
        return {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in tensors}
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(out: pathlib.Path) -> dict[str, object]:
    """Every file below OUT by its name; a file that should not be there is a difference, too."""
    return {str(p.relative_to(out)): _content(p) for p in sorted(out.rglob("*")) if p.is_file()}


def learned(out: pathlib.Path) -> dict[str, object]:
    """Returns the log of a training run, its weights and its place in the data."""
    log = [_plain(json.loads(line)) for line in (out / "metrics.jsonl").read_text().splitlines()]
    position = json.loads((out / "checkpoints" / str(STEPS) / "data" / "process_0-of-1.json").read_text())
    weights = jax.tree.leaves_with_path(checkpoints.load_ema(out, STEPS))
    digests = {jax.tree_util.keystr(path): hashlib.sha256(np.asarray(x)).hexdigest() for path, x in weights}
    return {
        "log": log,
        "position": position,
        "last": checkpoints.steps(out)[-1],  # a crash may leave an older one that was to go
        "weights": digests,
        "names": sorted(path.name for path in out.iterdir()),
    }


PROGRAMS = {
    "eval.py": Program(eval_program.main, _eval, files, (130, -15), 1.0),
    "segment.py": Program(_segment_and_correct, _segment, files, (130, -15), 1.0),
    "train.py": Program(train_program.main, _train, learned, (0, 130), 0.2),
}


def often() -> None:
    """Lets eval.py and segment.py save the state of a video after every frame."""
    state_files.SAVE_SECONDS, state_files.SAVE_SHARE = 0.0, 1e9
