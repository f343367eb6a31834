"""Every door by which files come in: whole files of each kind, how they are damaged, who reads them."""

import dataclasses
import json
import pathlib
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import safetensors.numpy

from tests import layouts
from tests.fuzz import folders, mutations, pictures
from tests.inference import coloured
from vos_jax import config as configs
from vos_jax import output_folder, weights_io
from vos_jax.data import mask_files, mask_options, proposal_files
from vos_jax.data.datasets import tfds, youtube_vos
from vos_jax.evaluation import scoring, submission
from vos_jax.inference import frame_result, mask_writer, probabilities, result_store, session_file
from vos_jax.inference import session as session_lib
from vos_jax.tools import convert_proposals, foreign_weights

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
SIZE = (24, 40)
Damage = Callable[[bytes, Sequence[bytes], object], bytes]


@dataclasses.dataclass(frozen=True)
class Door:
    """One reader.

    Attributes:
      seeds: whole files in a new folder.
      read: reads the file at a path; raises VosError where it is refused.
      damage: how an input is made of a whole file.
      suffix: of the file's name.
      share: how many of 1,000 inputs are of this door.
    """

    seeds: Callable[[pathlib.Path], list[bytes]]
    read: Callable[[pathlib.Path], object]
    damage: Damage = mutations.damage
    suffix: str = ""
    share: int = 40


def tensors() -> dict[str, np.ndarray]:
    return {"a/kernel": np.ones((2, 3, 4), np.float32), "a/bias": np.zeros(4, np.float16), "n": np.arange(3)}


def convert_seeds(name: str) -> Callable[[pathlib.Path], list[bytes]]:
    return lambda folder: [(GOLDEN / name).read_bytes()]


def pickle_seeds(folder: pathlib.Path) -> list[bytes]:
    """The pickle inside a .pth, by itself: damaged code for the unpickler."""
    with foreign_weights.zipfile.ZipFile(GOLDEN / "tensors_zip.pth") as source:
        inner = next(source.read(name) for name in source.namelist() if name.endswith("data.pkl"))
    return [inner, pickle.dumps({"a": 1}, protocol=2)]


def read_pickle(path: pathlib.Path) -> None:
    packed = path.with_suffix(".zip")
    with foreign_weights.zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a/data.pkl", path.read_bytes())
    foreign_weights.read(packed)


def soft_seeds(folder: pathlib.Path) -> list[bytes]:
    levels = np.stack([255 - pictures.plane() * 100, pictures.plane() * 100, pictures.plane() * 0])
    probabilities.write(folder / "s.npz", probabilities.SoftMasks((1, 2), levels.astype(np.uint8)))
    return [(folder / "s.npz").read_bytes()]


class Submission:
    """A tiny data set and the archive of its results."""

    def __init__(self):
        self.dataset = None

    def seeds(self, folder: pathlib.Path) -> list[bytes]:
        root = layouts.davis(folder / "DAVIS", split="val", size=SIZE, length=3)
        self.dataset = layouts.open_as("davis", root)
        for name in ("00000", "00001", "00002"):
            ids = mask_files.read_mask(root / "Annotations/480p/cow/00000.png")
            layouts.write_masks(folder / "out/cow", {name: ids})
        return [submission.pack(self.dataset, folder / "out", folder / "s.zip").read_bytes()]

    def read(self, path: pathlib.Path) -> None:
        submission.check(self.dataset, path)


class Snapshot:
    """The state that segment.py goes on from, with and without parameters of its own, and its next frame."""

    def __init__(self):
        self.engine = None

    def seeds(self, folder: pathlib.Path) -> list[bytes]:
        params = {"refine": {"kernel": np.zeros((2, 3), np.float32)}}
        self.engine = coloured.make_engine(params=params, object_buckets=(1,))
        session = session_lib.Session(self.engine)
        session.step(np.zeros((*SIZE, 3), np.uint8), pictures.plane() % 2)
        found = []
        for adapted in ({}, params):
            snapshot = dataclasses.replace(session.snapshot(), adapted=adapted)
            restored = session_lib.Session.restore(self.engine, snapshot)
            session_file.save(folder / "s.safetensors", restored)
            saved, metadata = weights_io.load((folder / "s.safetensors").read_bytes(), "s")
            del metadata[session_file.SUM]  # who means harm would mend it
            found.append(safetensors.numpy.save(saved, metadata))
        return found

    def read(self, path: pathlib.Path) -> None:
        session = session_file.load(path, self.engine)
        session.step(np.zeros((*SIZE, 3), np.uint8))


def meta_seeds(folder: pathlib.Path) -> list[bytes]:
    objects = {"1": {"category": "cow", "frames": ["00000", "00005"]}, "2": {"frames": ["00005"]}}
    return [json.dumps({"videos": {"cow": {"objects": objects}, "dog": {"objects": {}}}}).encode()]


def read_meta(path: pathlib.Path) -> None:
    for video, listed in youtube_vos.read_meta(path).items():
        mask_writer.mask_path("out", video, "0")
        assert all(isinstance(o, int) and isinstance(x.frames, tuple) for o, x in listed.items())


def proposal_seeds(folder: pathlib.Path) -> list[bytes]:
    one = [proposal_files.encode_proposal(pictures.plane() == i, 0.5) for i in (1, 2)]
    proposal_files.write(
        folder / "v.json", proposal_files.VideoProposals("v", SIZE, {"00000": one, "00001": ()})
    )
    plain = json.loads((folder / "v.json").read_text())
    plain["frames"]["00000"][0]["segmentation"]["counts"] = [100, 60, SIZE[0] * SIZE[1] - 160]
    return [(folder / "v.json").read_bytes(), json.dumps(plain).encode()]


def read_proposals(path: pathlib.Path) -> None:
    found = proposal_files.read(path)
    for frame in found.frames:
        proposal_files.arrays(found, frame, frame_size=SIZE, padded_size=(32, 64), capacity=3)


def coco_seeds(folder: pathlib.Path) -> list[bytes]:
    counts = proposal_files.encode_proposal(pictures.plane() == 1, 0.5).counts
    entry = {"image_id": "v/00000.jpg", "score": 0.5, "segmentation": {"size": list(SIZE), "counts": counts}}
    return [json.dumps([entry, entry | {"image_id": "w/1"}]).encode()]


def run_seeds(folder: pathlib.Path) -> list[bytes]:
    with result_store.ResultStore(folder, {"memory": {"every": 5}, "a": [1, 2]}) as store:
        for name in ("cow", "dog"):
            results = store.video(layouts.source(name, SIZE, 1))
            results.begin(0)
            if name == "cow":
                ids = pictures.plane() % 2
                results.write(frame_result.FrameResult(index=0, ids=ids, presence={1: 0.5}))
                results.finish()
    return [(folder / result_store.NAME).read_bytes()]


def read_run(path: pathlib.Path) -> None:
    _read_in_folder(path, result_store.NAME)


def record_seeds(folder: pathlib.Path) -> list[bytes]:
    run_seeds(folder)
    return [(folder / output_folder.NAME).read_bytes()]


def read_record(path: pathlib.Path) -> None:
    _read_in_folder(path, output_folder.NAME)


def _read_in_folder(path: pathlib.Path, name: str) -> None:
    """Goes on in a results folder of which one file is damaged."""
    folder = path.parent / "run"
    _clear(folder)
    folder.mkdir()
    (folder / name).write_bytes(path.read_bytes())
    with result_store.ResultStore(folder, {"memory": {"every": 5}, "a": [1, 2]}) as store:
        results = store.video(layouts.source("cow", SIZE, 1))
        if results.finished():
            assert store.summary("cow").working_seconds >= 0
        results.begin(0)
        results.finish()
        store.compact()


def feature_seeds(folder: pathlib.Path) -> list[bytes]:
    feature = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
    return [json.dumps({"featuresDict": {"features": {"a": feature, "b": feature}}}).encode()]


def read_features(path: pathlib.Path) -> None:
    folder = path.parent / "features"
    folder.mkdir(exist_ok=True)
    (folder / "features.json").write_bytes(path.read_bytes())
    tfds._check_features(folder)


def override_seeds(folder: pathlib.Path) -> list[bytes]:
    config = configs.load("default")
    return [f"{key}={value}".encode() for key, value in configs.flatten(config).items()]


def read_override(path: pathlib.Path) -> None:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    config = configs.load("default", ["--config." + part for part in text.split("\n")])
    json.dumps(configs.flatten(config))


def read_given(path: pathlib.Path) -> None:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    found = mask_options.parse(text)
    mask_options.read([found], SIZE)


class Results:
    """Folders of results as somebody else may send them: what lies there is said by the input's bytes."""

    def __init__(self):
        self.video = None

    def seeds(self, folder: pathlib.Path) -> list[bytes]:
        root = layouts.davis(folder / "DAVIS2", split="val", size=SIZE, length=3)
        self.video = layouts.open_as("davis", root)["cow"]
        return [bytes([kind, other, 0]) for kind in range(8) for other in range(8)]

    def read(self, path: pathlib.Path) -> None:
        kinds = path.read_bytes()
        out = path.parent / "results"
        _clear(out)
        folder = out / "cow"
        folder.mkdir(parents=True)
        for name, kind in zip(self.video.frame_names, kinds.ljust(3, b"\0"), strict=False):
            _result(folder / f"{name}.png", kind % 8)
        scoring.check_results(self.video, out)
        scoring.score_sequence(self.video, out)


def _result(path: pathlib.Path, kind: int) -> None:
    if kind < 3:
        mask_files.write_mask(path, (pictures.plane() > 0).astype(np.uint8) * np.uint8(kind))
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        path.symlink_to("/dev/zero")
    elif kind == 5:
        path.symlink_to(path)
    elif kind == 6:
        path.write_bytes(b"")


def _clear(folder: pathlib.Path) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            path.rmdir() if path.is_dir() and not path.is_symlink() and not any(path.iterdir()) else (
                _clear(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            )
        folder.rmdir()


_submission, _snapshot, _results = Submission(), Snapshot(), Results()
_records = folders.Folder(folders.make_records, folders.read_records)
_run = folders.Folder(folders.make_run, folders.read_run)

DOORS = {
    "mask PNG": Door(pictures.mask_seeds, pictures.read_mask, mutations.png, ".png", 150),
    "frame PNG": Door(pictures.frame_seeds(("PNG", {})), pictures.read_frame, mutations.png, ".png", 80),
    "frame JPEG": Door(
        pictures.frame_seeds(("JPEG", {}), ("JPEG", {"progressive": True})),
        pictures.read_frame,
        suffix=".jpg",
        share=100,
    ),
    "frame BMP, WebP": Door(
        pictures.frame_seeds(("BMP", {}), ("WEBP", {}), ("WEBP", {"lossless": True})),
        pictures.read_frame,
        suffix=".webp",
        share=60,
    ),
    "frame TIFF and others": Door(
        pictures.frame_seeds(("TIFF", {}), ("PPM", {}), ("JPEG2000", {}), ("AVIF", {})),
        pictures.read_frame,
        suffix=".tif",
        share=60,
    ),
    "video": Door(pictures.film_seeds, pictures.read_film, suffix=".mp4", share=70),
    "safetensors": Door(
        lambda folder: [safetensors.numpy.save(tensors(), {"variant": "lite0"})],
        lambda path: weights_io.load(path.read_bytes(), "w"),
        mutations.safetensors,
        ".safetensors",
        80,
    ),
    ".pth, zip": Door(convert_seeds("tensors_zip.pth"), foreign_weights.read, mutations.archive, ".pth", 60),
    ".pth, before 1.6": Door(
        convert_seeds("tensors_legacy.pth"), foreign_weights.read, suffix=".pth", share=40
    ),
    ".pth's pickle": Door(pickle_seeds, read_pickle, suffix=".pkl", share=60),
    "probabilities": Door(soft_seeds, probabilities.read, mutations.archive, ".npz", 30),
    "submission zip": Door(_submission.seeds, _submission.read, mutations.archive, ".zip", 20),
    "saved state": Door(_snapshot.seeds, _snapshot.read, mutations.safetensors, ".safetensors", 10),
    "meta.json": Door(meta_seeds, read_meta, mutations.json_file, ".json", 50),
    "proposals, COCO-RLE": Door(proposal_seeds, read_proposals, mutations.json_file, ".json", 60),
    "COCO results": Door(
        coco_seeds,
        lambda path: convert_proposals.convert(path, path.parent / "converted"),
        mutations.json_file,
        ".json",
        20,
    ),
    "run.json": Door(run_seeds, read_run, mutations.json_file, ".json", 30),
    "files.jsonl": Door(record_seeds, read_record, suffix=".jsonl", share=20),
    "features.json": Door(feature_seeds, read_features, mutations.json_file, ".json", 20),
    "config overrides": Door(override_seeds, read_override, suffix=".txt", share=20),
    "--masks": Door(
        lambda folder: [b"120:first.png@2", b"a.png", b"0:x@1"], read_given, suffix=".txt", share=10
    ),
    "results folder": Door(_results.seeds, _results.read, suffix=".bin", share=10),
    "packed data set": Door(_records.seeds, _records.read, mutations.folder, ".zip", 10),
    "run of train.py": Door(_run.seeds, _run.read, mutations.folder, ".zip", 10),
}
