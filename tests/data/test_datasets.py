"""DAVIS and folders: what a tracker may see, and one clear line for each kind of bad input."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from tests import layouts
from vos_jax import errors, files
from vos_jax.data import datasets, mask_files

SIZE = (24, 32)


def write_frame(path, size=SIZE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_ids(path, objects, size=SIZE):
    """A mask with one 4x4 square per object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.zeros(size, np.uint8)
    for n, object_id in enumerate(objects):
        ids[4:8, 4 * n : 4 * n + 4] = object_id
    mask_files.write_mask(path, ids)


def davis(root, **options) -> datasets.VideoDataset:
    return layouts.open_as("davis", root, **options)


def folder_of_folders(root, **options) -> datasets.VideoDataset:
    return layouts.open_as("folders", root, **options)


def make_davis(root, sequences=("cat", "dog"), length=4, objects=(1, 2), year=2017):
    for name in sequences:
        for i in range(length):
            write_frame(root / "JPEGImages/480p" / name / f"{i:05d}.jpg", seed=i)
            write_ids(root / "Annotations/480p" / name / f"{i:05d}.png", objects)
    listing = root / "ImageSets" / str(year) / "val.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("\n".join(sequences) + "\n")
    return root


def make_folders(root, masks_of, length=4):
    """`masks_of`: frame index -> objects."""
    for i in range(length):
        write_frame(root / "JPEGImages/cat" / f"{i:05d}.jpg", seed=i)
    for i, objects in masks_of.items():
        write_ids(root / "Annotations/cat" / f"{i:05d}.png", objects)
    return root


def message_of(call):
    with pytest.raises(errors.VosError) as caught:
        call()
    return str(caught.value)


def test_davis_2017(tmp_path):
    source = davis(make_davis(tmp_path), year=2017)
    assert (source.name, source.split, source.names) == ("davis2017", "val", ("cat", "dog"))
    video = source["dog"]
    video.check()
    assert (video.name, len(video), video.size) == ("dog", 4, SIZE)
    assert video.frame_names == ("00000", "00001", "00002", "00003")
    assert video.first_frames == {1: 0, 2: 0}
    assert video.frame(1).shape == (*SIZE, 3) and video.frame(1).dtype == np.uint8
    assert set(np.unique(video.mask(3))) == {0, 1, 2}
    assert list(video.prompts()) == [0]


def test_davis_2016_merges_objects(tmp_path):
    video = davis(make_davis(tmp_path, year=2016), year=2016)["dog"]
    assert video.merge_objects and video.first_frames == {1: 0}
    np.testing.assert_array_equal(
        video.mask(0), mask_files.read_mask(tmp_path / "Annotations/480p/dog/00000.png") > 0
    )


def test_davis_objects_that_come_later_are_ignored(tmp_path):
    write_ids(make_davis(tmp_path) / "Annotations/480p/cat/00002.png", (1, 2, 3))
    assert davis(tmp_path)["cat"].first_frames == {1: 0, 2: 0}


def test_davis_with_the_first_mask_only(tmp_path):
    make_davis(tmp_path)
    for i in (1, 2, 3):
        (tmp_path / f"Annotations/480p/cat/{i:05d}.png").unlink()
    video = davis(tmp_path)["cat"]
    video.check()
    assert video.mask(1) is None and video.mask(0) is not None


def test_davis_2016_listing_of_file_pairs(tmp_path):
    make_davis(tmp_path)
    old = tmp_path / "ImageSets/480p/val.txt"
    old.parent.mkdir()
    old.write_text(
        "".join(f"/JPEGImages/480p/cat/{i:05d}.jpg /Annotations/480p/cat/{i:05d}.png\n" for i in range(4))
    )
    assert davis(tmp_path, year=2016).names == ("cat",)


def test_chosen_sequences_keep_their_order(tmp_path):
    make_davis(tmp_path)
    assert davis(tmp_path, sequences=("dog", "cat", "dog")).names == ("dog", "cat")


def test_no_dataset_says_in_three_lines_what_to_do(tmp_path):
    message = message_of(lambda: davis(tmp_path / "none", year=2017))
    assert len(message.splitlines()) == 3
    for word in ("JPEGImages/480p", "ImageSets/2017/val.txt", "no such folder"):
        assert word in message.splitlines()[0]
    assert "davischallenge.org" in message and "--config davis17 --data DIR" in message
    assert "--config demo needs no data" in message


def test_another_resolution_or_layout_is_pointed_out(tmp_path):
    make_davis(tmp_path)
    message = message_of(lambda: davis(tmp_path, resolution="Full-Resolution"))
    assert "JPEGImages/Full-Resolution" in message and "480p" in message.splitlines()[0]
    assert folder_of_folders(tmp_path).names == davis(tmp_path).names, "the resolution's folder is found"


def test_unknown_split_names_those_there_are(tmp_path):
    assert "has val" in message_of(lambda: davis(make_davis(tmp_path), split="vla"))


def test_unknown_sequence_names_its_neighbours(tmp_path):
    make_davis(tmp_path, ("blackswan", "camel", "dog"))
    message = message_of(lambda: davis(tmp_path, sequences=("blakswan",)))
    assert "'blakswan'" in message and "did you mean blackswan?" in message and "camel, dog" in message
    assert "dog" in message_of(lambda: davis(tmp_path)["dogs"])


@pytest.mark.parametrize("name", ["..", "../dog", "/etc", "a/b", "a\\b", "", ".", "a\0b"])
def test_names_cannot_leave_their_folder(tmp_path, name):
    make_davis(tmp_path)
    assert "no sequence matches" in message_of(lambda: davis(tmp_path, sequences=(name,)))
    assert "plain name" in message_of(lambda: files.safe_name(name))
    if name.strip():
        (tmp_path / "ImageSets/2017/val.txt").write_text(f"dog\n{name}\n")
        assert "val.txt" in message_of(lambda: davis(tmp_path))


def test_sequence_without_images(tmp_path):
    make_davis(tmp_path)
    for path in (tmp_path / "JPEGImages/480p/cat").iterdir():
        path.unlink()
    message = message_of(lambda: davis(tmp_path)["cat"])
    assert "480p/cat" in message and "no images" in message
    (tmp_path / "JPEGImages/480p/cat").rmdir()
    assert "no such folder" in message_of(lambda: davis(tmp_path)["cat"])


def test_mask_without_its_frame(tmp_path):
    make_davis(tmp_path)
    (tmp_path / "JPEGImages/480p/cat/00002.jpg").unlink()
    message = message_of(lambda: davis(tmp_path)["cat"])
    assert "JPEGImages/480p/cat/00002.jpg" in message and "missing" in message


def test_two_frames_of_one_name(tmp_path):
    make_davis(tmp_path)
    write_frame(tmp_path / "JPEGImages/480p/cat/00002.png")
    assert "'00002'" in message_of(lambda: davis(tmp_path)["cat"])


def test_truncated_jpeg_is_found_before_work_starts(tmp_path):
    make_davis(tmp_path)
    path = tmp_path / "JPEGImages/480p/cat/00003.jpg"
    path.write_bytes(path.read_bytes()[:-40])
    video = davis(tmp_path)["cat"]
    assert "00003.jpg: the JPEG is truncated" in message_of(video.check)
    assert "00003.jpg" in message_of(lambda: video.frame(3))


def test_frames_of_two_sizes(tmp_path):
    write_frame(make_davis(tmp_path) / "JPEGImages/480p/cat/00002.jpg", size=(24, 40))
    video = davis(tmp_path)["cat"]
    message = message_of(video.check)
    assert "00002.jpg" in message and "40x24" in message and "32x24" in message


@pytest.mark.parametrize("index", [0, 2])
def test_mask_of_another_size(tmp_path, index):
    write_ids(make_davis(tmp_path) / f"Annotations/480p/cat/{index:05d}.png", (1,), size=(12, 16))
    message = message_of(davis(tmp_path)["cat"].check)
    assert f"{index:05d}.png" in message and "16x12" in message and "32x24" in message


def test_first_mask_without_objects(tmp_path):
    write_ids(make_davis(tmp_path) / "Annotations/480p/cat/00000.png", ())
    message = message_of(davis(tmp_path)["cat"].check)
    assert "00000.png" in message and "no object" in message
    folders = make_folders(tmp_path / "folders", {0: (), 1: (1,)})
    video = folder_of_folders(folders)["cat"]
    video.check()
    assert video.first_frames == {1: 1}, "elsewhere the objects may appear later"


def test_no_first_mask(tmp_path):
    (make_davis(tmp_path) / "Annotations/480p/cat/00000.png").unlink()
    assert "00000.png: missing" in message_of(davis(tmp_path)["cat"].check)


def test_no_mask_at_all(tmp_path):
    video = folder_of_folders(make_folders(tmp_path, {}))["cat"]
    message = message_of(video.check)
    assert "'cat'" in message and "no mask" in message


def test_more_objects_than_can_be_tracked(tmp_path):
    folders = make_folders(tmp_path, {0: (1,)}, length=3)
    for i in range(3):
        ids = np.zeros(SIZE, np.uint8)
        ids[0, :30] = 1 + 30 * i + np.arange(30)
        mask_files.write_mask(folders / f"Annotations/cat/{i:05d}.png", ids)
    message = message_of(folder_of_folders(folders)["cat"].check)
    assert "'cat'" in message and "90 objects" in message and "64" in message


def test_folders_give_each_object_once_where_it_first_appears(tmp_path):
    folders = make_folders(tmp_path, {1: (3,), 2: (3, 5), 3: (5, 7)})
    video = folder_of_folders(folders)["cat"]
    video.check()
    assert video.first_frames == {3: 1, 5: 2, 7: 3}
    given = video.prompts()
    assert {i: set(np.unique(ids)) - {0} for i, ids in given.items()} == {1: {3}, 2: {5}, 3: {7}}
    np.testing.assert_array_equal(given[2] == 5, video.mask(2) == 5)
    assert video.mask(0) is None


def test_folders_with_masks_beside_the_frames(tmp_path):
    for i in (1, 2, 10):
        write_frame(tmp_path / "cat" / f"frame{i}.png", seed=i)
    write_ids(tmp_path / "cat/masks/frame1.png", (4,))
    write_ids(tmp_path / "empty/masks/frame1.png", (4,))
    source = folder_of_folders(tmp_path, merge_objects=True)
    assert source.names == ("cat", "empty")
    assert "no images" in message_of(lambda: source["empty"])
    video = source["cat"]
    video.check()
    assert video.frame_names == ("frame1", "frame2", "frame10")  # natural order
    assert video.first_frames == {1: 0}


def test_hidden_files_are_ignored(tmp_path):
    make_davis(tmp_path)
    for folder in ("JPEGImages", "Annotations"):
        for name in (".DS_Store", "._00000.jpg", "._00009.png"):
            (tmp_path / folder / "480p/cat" / name).write_bytes(b"junk")
    assert len(davis(tmp_path)["cat"]) == 4


def test_folders_without_sequences(tmp_path):
    assert "SEQUENCE/*.jpg" in message_of(lambda: folder_of_folders(tmp_path))
    assert "no such folder" in message_of(lambda: folder_of_folders(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    assert "no such folder" in message_of(lambda: folder_of_folders(tmp_path / "file"))


def test_opening_reads_no_image(tmp_path, monkeypatch):
    make_davis(tmp_path)

    def read(self):
        raise AssertionError(f"read {self}")

    monkeypatch.setattr(pathlib.Path, "read_bytes", read)
    assert len(davis(tmp_path)["cat"]) == 4


def test_real_davis(shared_data):
    source = davis(shared_data / "DAVIS", year=2016)
    assert len(source) == 10
    video = source["blackswan"]
    video.check()
    assert (video.size, len(video), video.first_frames) == ((480, 854), 50, {1: 0})
    assert set(np.unique(video.prompts()[0])) == {0, 1}


def test_real_folder_of_folders(shared_data):
    video = folder_of_folders(shared_data / "multi-object")["tabletop"]
    video.check()
    assert (len(video), len(video.first_frames)) == (77, 7)


def test_every_layout_is_detected(tmp_path):
    make_davis(tmp_path / "davis")
    make_folders(tmp_path / "folders", {0: (1,)})
    write_frame(tmp_path / "photos/people/images/a.jpg")
    layouts.youtube_vos(tmp_path / "youtube_vos")
    for folder, index in (("tfds", False), ("array_record", True)):
        (tmp_path / folder / "name/1.0.0").mkdir(parents=True)
        for name in ("dataset_info.json", "metadata.json")[: 1 + index]:
            (tmp_path / folder / "name/1.0.0" / name).write_text("{}")
    found = {path.name: datasets.detect(path) for path in tmp_path.iterdir()}
    assert found == {name: name for name in datasets.DATASETS if name != "rendered"}
    assert layouts.open_as("auto", tmp_path / "davis").name == "davis2017"


def test_the_head_of_a_video_is_a_video_of_its_own(tmp_path):
    root = layouts.youtube_vos(tmp_path, truth=True)
    dataset = layouts.open_as("youtube_vos", root, split="valid", all_frames=str(root / "valid_all_frames"))
    video = dataset["cow"]
    head = video.head(12)
    head.check()
    assert len(head) == 12 and head.required_names == ("00000", "00005", "00010")
    assert head.first_frames == video.first_frames == {3: 0, 7: 10} and head.scored_frames(3) == (5, 10)
    assert video.head(10).first_frames == {3: 0} and set(video.head(10).prompts()) == {0}
    assert video.head(99) == video
    folder = folder_of_folders(make_folders(tmp_path / "folders", dict.fromkeys(range(4), (1,))))["cat"]
    assert folder.scored_frames(1) == (1, 2) and folder.head(3).scored_frames(1) == (1,)


def test_videos_are_left_out_by_name_or_pattern(tmp_path):
    make_davis(tmp_path, ("camel", "cat", "dog"))
    assert davis(tmp_path, sequences=("dog", "ca*"), exclude=("camel",)).names == ("dog", "cat")
    assert "no sequence matches 'bird*'" in message_of(lambda: davis(tmp_path, exclude=("bird*",)))
