"""Runs the jobs of benchmarks/same_as.py that need the Python API, with the API of its own tree.

    python -m benchmarks.same_as_jobs JOB DATA OUT

After a change of the Python API, change these functions; after a change of a setting's name, change
`RENAMES`. A job's results and their names must stay, so that two trees can be compared. `write_data` renders
the videos and photos that all jobs of both trees read.
"""

import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import layout_0_1

RENAMES: dict[str, str] = {
    "data.given": "data.prompts",
    "data.source": "data.kind",
    "data.source=ytvos": "data.kind=youtube_vos",
    "dtype": "model.dtype",
    "eval.stages": "eval.intermediates",
    "memory.capacity": "model.memory.capacity",
    "memory.every": "model.memory.every",
    "memory.eviction": "model.memory.eviction",
    "memory.previous": "model.memory.previous",
    "memory.reach": "model.read.search_radius",
    "memory.topk": "model.read.topk",
    "memory.topk=32": "model.read.topk=0",
    "memory.window": "model.read.window",
    "model.affinity": "model.read.affinity",
    "model.num_proposals": "model.proposals.capacity",
    "model.proposals": "model.proposals.source",
    "model.proposals_dir": "model.proposals.folder",
    "model.read": "model.read.weight",
    "model.read=object": "model.read.weight=mask",
    "model.read=shared": "model.read.weight=none",
    "objects.buckets": "inference.object_buckets",
    "train.augmentation.blur": "train.data.augmentation.blur.prob",
    "train.augmentation.colour": "train.data.augmentation.colour.prob",
    "train.augmentation.drift": "train.data.augmentation.drift.prob",
    "train.augmentation.drop": "train.data.augmentation.objects.drop",
    "train.augmentation.jpeg": "train.data.augmentation.jpeg.prob",
    "train.augmentation.keep": "train.data.augmentation.crop.keep",
    "train.augmentation.merge": "train.data.augmentation.objects.merge",
    "train.augmentation.min_pixels": "train.data.augmentation.objects.min_pixels",
    "train.augmentation.paste_min_pixels": "train.data.pseudo.min_pixels",
    "train.augmentation.motion": "train.data.pseudo.motion",
    "train.batch": "train.data.batch",
    "train.clip_length": "train.data.clip_length",
    "train.corruption": "train.loss.corruption",
    "train.crop": "train.data.crop",
    "train.evaluation": "train.held_out",
    "train.gap": "train.data.gap",
    "train.losses.box": "train.loss.box",
    "train.losses.centerness": "train.loss.centerness",
    "train.losses.coarse_iou": "train.loss.coarse_iou",
    "train.losses.hard_begin": "train.loss.hard_begin",
    "train.losses.hard_end": "train.loss.hard_end",
    "train.losses.hard_share": "train.loss.hard_share",
    "train.losses.mask_bce": "train.loss.mask_bce",
    "train.losses.mask_dice": "train.loss.mask_dice",
    "train.losses.match": "train.loss.match",
    "train.losses.match_iou": "train.loss.match_iou",
    "train.losses.objectness": "train.loss.objectness",
    "train.losses.presence": "train.loss.presence",
    "train.losses.refined_ce": "train.loss.refined_ce",
    "train.losses.refined_iou": "train.loss.refined_iou",
    "train.max_instances": "train.data.max_instances",
    "train.max_objects": "train.data.max_objects",
    "train.max_unreadable": "train.data.max_unreadable",
    "train.paste": "train.data.paste",
    "train.prefetch": "train.data.prefetch",
    "train.sources": "train.data.sources",
    "train.sources.davis.kind=davis_folder": "train.data.sources.davis.kind=auto",
    "train.sources.static.kind=static": "train.data.sources.static.kind=auto",
    "train.sources.youtube_vos.kind=ytvos": "train.data.sources.youtube_vos.kind=auto",
    "train.step": "train.loss",
    "train.threads": "train.data.threads",
    "train.workers": "train.data.workers",
    "training_free.centred": "model.training_free.centred",
    "training_free.features": "model.training_free.features",
    "training_free.previous": "model.training_free.previous",
    "training_free.stride": "model.training_free.stride",
    "training_free.temperature": "model.training_free.temperature",
    "training_free.topk": "model.training_free.topk",
    "training_free.window": "model.training_free.window",
}
"""Settings and options of commit 4d321c0 -> of this tree. The longest matching entry is used.

A section: `memory` -> `model.memory`; a key: `memory.topk` -> `model.read.topk`; an option: `--adapt`; a
value: `model.read=shared` -> `model.read.weight=none`.
"""

ADDED = re.compile(
    r"model\.(backbone|embed_size|iou_with|key_size|match_size|matching_options\..*|refine_channels|template_size"
    r"|value_size|proposals\.(?!source|folder|capacity).*|read\.(kernel_sigma|scale))"
    r"|train\.data\.(augmentation\.(upscale|crop\.tries|(horizontal|temporal)_flip\.prob|scale\..*)"
    r"|augmentation\.(blur|colour|drift|jpeg)\.(?!prob).*|paste\.(min_pixels|mirror|object\..*)"
    r"|pseudo\.(camera|object)\..*|pseudo\.(mirror|size)|sources\..*\.(pseudo|all_frames))"
    r"|train\.loss\.correspondence|data\.exclude"
)
"""Settings that were constants or did not exist at commit 4d321c0."""

Found = dict[str, Any]
"""Numbers, texts and arrays by name; names with the same part before the first "/" share a scale."""

VIDEO = "rendered"
FRAMES = 6
GIVEN_FRAME = 3
"""The one annotated frame of DATA/middle."""

PARAMS, BATCH = "tiny_params.npz", "tiny_batch.npz"

TRAINING = (
    "train.data.batch=2",
    "train.data.crop=64",
    "train.data.clip_length=3",
    "train.optim.frozen=",
    "train.data.sources.davis.exclude=",
    "train.data.sources.static.exclude=",
    "train.data.sources.davis.partial=video1",
    "train.data.sources.static.partial=photo1",
    "train.held_out.every=0",
)
STEP = (
    "train.loss.oracle_prob=1.0",
    "train.loss.oracle_end=10",
    "train.loss.sampling_begin=100",
    "train.loss.hard_begin=0",
    "train.loss.hard_end=1000",
)


def write_data(folder: pathlib.Path) -> None:
    """Writes videos, training data, and the parameters and a batch of a tiny model.

    DATA/first and DATA/middle are six frames of the rendered sample, with a mask of every frame or of one.
    DATA/davis are five small videos of six frames, DATA/static six photos. DATA/tiny_params.npz names each
    parameter by its path at commit 4d321c0.
    """
    import jax
    from flax import traverse_util

    from tests import tiny
    from vos_jax.data.datasets import rendered

    video = rendered.make_video()
    for index in range(FRAMES):
        frame, ids = video.frame(index), video.mask(index)
        for name in ("first", "middle"):
            _write_image(folder / name / "JPEGImages" / VIDEO / f"{index:05d}.png", frame)
            if name == "first" or index == GIVEN_FRAME:
                _write_image(folder / name / "Annotations" / VIDEO / f"{index:05d}.png", ids)
    for number in range(6):
        video = rendered.make_video(size=(96, 128), frames=FRAMES, objects=2, seed=number)
        _write_image(folder / "static" / "images" / f"photo{number}.png", video.frame(0))
        _write_image(folder / "static" / "masks" / f"photo{number}.png", video.mask(0))
        for index in range(FRAMES if number else 0):
            name = f"video{number}/{index:05d}.png"
            _write_image(folder / "davis" / "JPEGImages" / name, video.frame(index))
            _write_image(folder / "davis" / "Annotations" / name, video.mask(index))
    # By the names of commit 4d321c0, as `loss` reads them.
    initial = layout_0_1.to_0_1(tiny.model().init(jax.random.key(0), layout_0_1.DATASETS))
    params: dict[str, Any] = dict(traverse_util.flatten_dict(initial, sep="/"))
    # RefineNet's last layer starts at zero, which would hide changes of its inputs.
    last = "refine/logit/kernel"
    params[last] = 0.1 * jax.random.normal(jax.random.key(1), params[last].shape)
    batch: dict[str, Any] = dict(tiny.batch())
    np.savez(folder / PARAMS, **jax.device_get(params))
    np.savez(folder / BATCH, **batch)


def _write_image(path: pathlib.Path, image: np.ndarray) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def rendered(data: pathlib.Path) -> Found:
    """Returns checksums of the rendered sample's frames and masks."""
    from vos_jax.data.datasets import rendered

    del data
    video = rendered.make_video()
    return {
        f"{kind}/{index}": checksum(draw(index))
        for index in range(0, 24, 4)
        for kind, draw in (("frame", video.frame), ("mask", video.mask))
    }


def configs(data: pathlib.Path) -> Found:
    """Returns every value of every config by this tree's keys, as `CONFIG/KEY`."""
    from vos_jax import config

    del data
    found = {}
    for name in config.names():
        flat = config.flatten(config.load(name))
        found |= {f"{name}/{key}": value for key, value in flat.items() if not ADDED.fullmatch(key)}
        scale = [flat[f"train.data.augmentation.scale.{end}"] for end in ("low", "high")]
        found[f"{name}/train.augmentation.scale"] = scale
    return found


def batches(data: pathlib.Path) -> Found:
    """Returns checksums of the arrays of 20 batches, of photos and videos with all augmentation."""
    from vos_jax.data import pipeline
    from vos_jax.train import setup

    config = _training_config()
    train = setup.apply_data(config.train, [f"static={data / 'static'}", f"davis={data / 'davis'}"])
    stream = pipeline.make_pipeline(train.data, dataset_names=layout_0_1.DATASETS, seed=config.seed)
    found = {}
    for index in range(20):
        batch = dict(next(stream))
        batch.pop("origins")  # did not exist at commit 4d321c0
        found |= {f"{index}/{name}": checksum(np.asarray(array)) for name, array in batch.items()}
    stream.close()
    return found


def loss(data: pathlib.Path) -> Found:
    """Returns the loss, its terms and the gradient of a batch at three steps, of a tiny model."""
    from flax import traverse_util

    from tests import tiny

    with np.load(data / PARAMS) as arrays:
        params = layout_0_1.from_0_1(traverse_util.unflatten_dict(dict(arrays), sep="/"))
    # A rolled loop compiles in half the time.
    return _losses(data, tiny.model(), params, _step_config("train.loss.unroll=false"))


def loss_lite0(data: pathlib.Path) -> Found:
    """Returns the results of `loss` for the trained lite0, which takes minutes to compile."""
    import jax

    from vos_jax.models import vos, weights

    config = _step_config("train.init=vos_jax/weights/lite0.safetensors")
    model = vos.VOS(config=config.model)
    params = weights.init_params(model, config.train.init, jax.random.key(0), ())
    return _losses(data, model, params, config)


def _losses(data: pathlib.Path, model: Any, params: Any, config: Any) -> Found:
    """Returns losses and gradients; arrays are named by the path of their parameter at commit 4d321c0.

    In the first step, the proposals of every frame are the oracle's; in the second, every previous mask is
    the ground truth; in the third, both are the model's.
    """
    import jax
    from flax import traverse_util

    from vos_jax import devices
    from vos_jax.train import clip_loss

    devices.choose("cpu")  # caches compiled programs
    # Compiles faster, and rounding depends less on XLA's fusions.
    jax.config.update("jax_disable_most_optimizations", True)
    with np.load(data / BATCH) as arrays:
        batch = dict(arrays)
    # Data sets are numbered in the order of their names.
    names = sorted(layout_0_1.DATASETS)
    batch["dataset"] = np.array([names.index(layout_0_1.DATASETS[i]) for i in batch["dataset"]], np.int32)
    compute = jax.jit(jax.grad(clip_loss.make_loss_fn(model, config.train.loss), has_aux=True))
    found = {}
    for number in (0, 50, 2000):
        gradients, terms = jax.device_get(compute(params, batch, jax.random.key(1), np.int32(number)))
        found |= {f"{name} {number}": float(value) for name, value in terms.items()}
        flat = traverse_util.flatten_dict(layout_0_1.to_0_1(gradients), sep="/")
        found |= {f"gradient {number}/{name}": np.asarray(value) for name, value in flat.items()}
    return found


def _training_config(*overrides: str) -> Any:
    from vos_jax import config

    return config.load("train_lite0", [*TRAINING, *overrides])


def _step_config(*overrides: str) -> Any:
    from vos_jax import config

    return config.load("default", [*STEP, *overrides])


def checksum(array: np.ndarray) -> str:
    """Returns a checksum of an array's values, shape and type."""
    array = np.ascontiguousarray(array)
    content = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return f"{array.dtype} {array.shape} {content}"


JOBS: dict[str, Callable[[pathlib.Path], Found]] = {
    "rendered": rendered,
    "configs": configs,
    "batches": batches,
    "loss": loss,
    "loss_lite0": loss_lite0,
}


def main(name: str, data: pathlib.Path, out: pathlib.Path) -> None:
    """Runs one job and writes OUT/found.json and OUT/found.npz; the job `data` writes DATA."""
    if name == "data":
        write_data(data)
        return
    found = JOBS[name](data)
    arrays: Found = {key: value for key, value in found.items() if isinstance(value, np.ndarray)}
    plain = {key: value for key, value in found.items() if key not in arrays}
    np.savez(out / "found.npz", **arrays)
    (out / "found.json").write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
