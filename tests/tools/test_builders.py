"""Packing into ArrayRecord and reading it back: what comes out is what the folder holds, bit for bit."""

import json
import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tensorflow_datasets.video  # noqa: F401 (registers davis)
from tensorflow_datasets.core import registered

from tests.data import tiny_training
from vos_jax import errors
from vos_jax.data import config as data_config
from vos_jax.data import datasets, pipeline
from vos_jax.data.datasets import records
from vos_jax.tools import builders, pack_data

tfds.disable_progress_bar()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    tiny_training.write_davis(root, sequences=2, objects=2, suffix=".jpg")
    tiny_training.write_sequence(root, "sparse", 2, annotated={1, 4}, holding={4}, suffix=".jpg")
    return root


@pytest.fixture(scope="module")
def packed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed")
    builders.pack(config(folder, unannotated=True), out, name="videos")
    return out


def config(root, **options) -> datasets.SourceConfig:
    return datasets.SourceConfig(root=str(root), **options)


def videos(root, **options):
    return datasets.open_training_videos(config(root, **options))


def names(root, **options) -> tuple[str, ...]:
    return tuple(video.name for video in videos(root, **options))


def make_pipeline(source: datasets.SourceConfig, *, batch: int) -> pipeline.BatchIterator:
    data = data_config.ClipDataConfig(sources=tiny_training.drawn(source), crop=32, batch=batch)
    return pipeline.make_pipeline(data, dataset_names=("default",))


def test_packed_videos_read_back_bit_for_bit(folder, packed):
    assert names(packed) == names(folder) == ("sparse", "video0", "video1")
    for read, file in zip(videos(packed), videos(folder), strict=True):
        assert len(read) == len(file) == 6 and read.annotated == file.annotated and read.size == file.size
        for time in (0, 5):
            np.testing.assert_array_equal(read.frame(time), file.frame(time))
        for time in range(6):
            np.testing.assert_array_equal(read.mask(time), file.mask(time))
    assert [video.with_objects for video in videos(packed)] == [(4,), *[(0, 1, 2, 3, 4, 5)] * 2]


def test_packed_videos_can_be_segmented_and_scored(folder, packed):
    dataset = datasets.open_dataset(datasets.EvalDatasetConfig(kind="auto", root=str(packed), split="train"))
    assert (dataset.name, dataset.names) == ("videos", ("sparse", "video0", "video1"))
    for video, file in zip(dataset, videos(folder), strict=True):
        video.check() if video.name != "sparse" else None
        assert video.size == file.size
    assert video.first_frames == file.first_frames == {1: 0, 2: 0} and video.scored_frames(1) == (1, 2, 3, 4)


def test_any_tfds_reader_sees_plain_images(folder, packed):
    builder = tfds.builder_from_directory(packed / "packed_sequences" / "videos" / "1.0.0")
    example = builder.as_data_source("train")[7]
    np.testing.assert_array_equal(example["ids"][..., 0], videos(folder)[1].mask(1))
    assert example["frame"].shape == (48, 64, 3) and example["sequence"] == b"video0"
    assert example["time"] == 1 and example["annotated"]


def test_the_pipeline_gives_the_same_batches_from_records_and_files(folder, packed):
    batches = []
    for source in (
        config(folder, exclude=("sparse",)),
        config(packed, exclude=("sparse",)),
    ):
        iterator = make_pipeline(source, batch=3)
        batches.append(next(iterator))
        iterator.close()
    for name in batches[0]:
        np.testing.assert_array_equal(batches[0][name], batches[1][name])


def test_records_pickle_without_their_handles(packed):
    import pickle

    (video,) = videos(packed, sequences=("video1",))
    frame = video.frame(3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(video)).frame(3), frame)


def test_photos_are_packed_shrunk_and_make_pseudo_clips(tmp_path):
    tiny_training.write_static(tmp_path / "photos", photos=3)
    builders.pack(config(tmp_path / "photos", short_side=24), tmp_path / "out")
    photos = videos(tmp_path / "out")
    assert names(tmp_path / "out") == ("photo0", "photo1", "photo2")
    assert photos[0].frame(0).shape == (24, 32, 3) and photos[0].mask(0).shape == (24, 32)
    source = config(tmp_path / "out")
    iterator = make_pipeline(source, batch=2)
    assert next(iterator)["object_valid"].any(1).all()
    iterator.close()


def test_fewer_bytes_by_quality_and_by_every_nth_frame(folder, tmp_path):
    arguments = ["--root", str(folder), "--out", str(tmp_path)]
    assert pack_data.main([*arguments, "--name", "few", "--every", "2", "--jpeg-quality", "30"]) == 0
    assert pack_data.main([*arguments, "--name", "wrong", "--jpeg-quality", "0"]) == 2
    assert pack_data.main([*arguments, "--name", "wrong", "--every", "0"]) == 2
    found = videos(tmp_path, unannotated=True)
    file = videos(folder)[1]
    assert records.packed_names(tmp_path) == [video.name for video in found] == ["sparse", "video0", "video1"]
    assert [len(video) for video in found] == [3, 3, 3]
    # Of the masks of frames 1 and 4 the second is kept, and is frame 2 now.
    assert found[0].annotated == found[0].with_objects == (2,)
    np.testing.assert_array_equal(found[1].mask(1), file.mask(2))
    difference = np.abs(found[1].frame(1).astype(int) - file.frame(2))
    assert 0 < difference.mean() < 10
    assert records.packed_names(folder) is None


def test_a_missing_shard_is_named(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "packed")
    (shard,) = tmp_path.rglob("*.array_record-*")
    shard.unlink()
    with pytest.raises(errors.VosError, match=r"cannot open split 'train' \(it has 0 of 1 files\)"):
        videos(tmp_path / "packed")


def test_the_command_line_packs_and_refuses_in_one_line(folder, tmp_path, capsys):
    arguments = ["--root", str(folder), "--out", str(tmp_path), "--name", "a"]
    assert pack_data.main([*arguments, "--sequences", "video1"]) == 0
    target = tmp_path / "packed_sequences" / "a" / "1.0.0"
    assert capsys.readouterr().out.splitlines()[-1] == str(target)
    assert pack_data.main(arguments) == 2
    assert "exists already; --overwrite" in capsys.readouterr().err
    assert pack_data.main([*arguments, "--overwrite"]) == 0
    assert len(json.loads((target / "metadata.json").read_text())["sequences"]) == 3
    capsys.readouterr()
    assert pack_data.main(["--kind", "youtube_vos", "--root", str(folder), "--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "meta.json" in message and message.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed_sequences"]


def test_a_broken_file_is_named_and_nothing_is_left_behind(tmp_path):
    tiny_training.write_davis(tmp_path / "videos", sequences=2, suffix=".jpg")
    broken = tmp_path / "videos" / "JPEGImages" / "video1" / "00003.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(errors.VosError, match=r"video1/00003.jpg: the JPEG is truncated"):
        builders.pack(config(tmp_path / "videos"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(errors.VosError, match="file: cannot write the packed dataset"):
        builders.pack(config(folder), tmp_path / "file")
    with pytest.raises(errors.VosError, match="dataset name 'a/b'"):
        builders.pack(config(folder), tmp_path / "out", name="a/b")


def test_only_files_are_packed(packed, tmp_path):
    with pytest.raises(errors.VosError, match="holds records"):
        builders.pack(config(packed), tmp_path)


def test_a_wrong_split_is_named(packed):
    with pytest.raises(errors.VosError, match="cannot open split 'validation'"):
        videos(packed, split="validation")


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"start": -1}),
        (1, {"start": "0"}),
        (1, {"length": 0}),
        (2, {"length": 7}),
        (0, {"annotated": [4, 1]}),
        (0, {"annotated": [1, 6]}),
        (0, {"holding": [True]}),
        (0, {"holding": 4}),
        (2, {"name": 3}),
        (2, None),
    ],
)
def test_an_index_that_contradicts_its_records_is_refused(packed, tmp_path, number, change):
    """Found by fuzzing: tracebacks, or frames of another video under this one's name."""
    shutil.copytree(packed, tmp_path / "packed")
    (path,) = tmp_path.rglob("metadata.json")
    metadata = json.loads(path.read_text())
    entry = metadata["sequences"][number]
    metadata["sequences"][number] = change and entry | change
    path.write_text(json.dumps(metadata))
    with pytest.raises(errors.VosError, match=rf"metadata\.json: sequence {number} is damaged"):
        videos(tmp_path / "packed")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dataset_info.json", "cannot open split 'train'"),
        ("metadata.json", r"no index of sequences \(metadata.json\)"),
        ("*.array_record-*", "unreadable|cannot open split"),
    ],
)
def test_what_tfds_cannot_read_is_said_in_words(packed, tmp_path, name, told):
    """Found by fuzzing: errors of protobuf and of array_record came out as they were."""
    shutil.copytree(packed, tmp_path / "packed")
    (path,) = tmp_path.rglob(name)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(errors.VosError, match=told):
        videos(tmp_path / "packed")[0].frame(0)


def test_records_without_images_are_named(packed, monkeypatch):
    found = videos(packed)[1]
    for record in ({"ids": b""}, {"frame": None}, {"frame": 10**12}):
        monkeypatch.setattr(type(found.records), "__getitem__", lambda *_, record=record: record)
        with pytest.raises(errors.VosError, match="video0 frame 2: its record has no image at frame"):
            found.frame(2)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """The davis/480p of TFDS, prepared from two tiny videos without TensorFlow."""
    with registered.skip_registration():

        class Davis(tfds.video.davis.Davis):
            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self, path=None):
                for number, length in enumerate((5, 1, 4)):
                    pairs = [tiny_training.frame_and_ids(number, t, objects=2) for t in range(length)]
                    video = {
                        "frames": [encode(frame[..., ::-1], ".png") for frame, _ in pairs],
                        "segmentations": [encode(ids, ".png") for _, ids in pairs],
                    }
                    head = {"num_frames": length, "video_name": f"clip{number}"}
                    yield f"clip{number}", {"video": video, "metadata": head}

    def encode(image, extension):
        return cv2.imencode(extension, np.ascontiguousarray(image))[1].tobytes()

    root = tmp_path_factory.mktemp("catalogue")
    Davis(data_dir=root, config="480p", file_format="array_record").download_and_prepare()
    return root


def test_the_catalogues_davis_is_read_frame_by_frame(catalogue, caplog):
    found = {video.name: video for video in videos(catalogue, kind="tfds")}
    assert sorted(found) == ["clip0", "clip2"] and "clip1 (a single frame)" in caplog.text
    video = found["clip2"]
    assert len(video) == 4 and video.annotated == (0, 1, 2, 3)
    frame, ids = tiny_training.frame_and_ids(2, 3, objects=2)
    np.testing.assert_array_equal(video.frame(3), frame)
    np.testing.assert_array_equal(video.mask(3), ids)
    iterator = make_pipeline(config(catalogue, kind="tfds"), batch=2)
    assert next(iterator)["object_valid"].any(1).all()
    iterator.close()


def test_kinds_of_records_are_not_confused(catalogue, packed):
    with pytest.raises(errors.VosError, match="kind='tfds'"):
        videos(catalogue, kind="array_record")
    with pytest.raises(errors.VosError, match="not the davis of TFDS"):
        videos(packed, kind="tfds")
