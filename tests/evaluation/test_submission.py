"""Archives in each server's layout, and what a careless or hostile one gets to hear."""

import shutil
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests import layouts
from vos_jax import errors
from vos_jax.data import mask_files
from vos_jax.evaluation import submission
from vos_jax.tools import check_submission

FRAMES = [f"{5 * index:05d}" for index in range(6)]


@pytest.fixture
def dataset(tmp_path):
    root = layouts.youtube_vos(tmp_path / "data")
    return layouts.open_as("youtube_vos", root, split="valid", sequences=("cow",))


@pytest.fixture
def results(dataset, tmp_path):
    """Whole results of `dataset`."""
    video = dataset["cow"]
    layouts.write_masks(tmp_path / "results/cow", {name: video.prompts()[0] for name in FRAMES})
    return tmp_path / "results"


def message_of(call):
    with pytest.raises(errors.VosError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def repack(path, change):
    """The archive's members (name -> bytes) as `change` leaves them, packed anew."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_youtube_vos_layout(dataset, results, tmp_path, capsys):
    path = submission.pack(dataset, results, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"Annotations/cow/{name}.png" for name in FRAMES]
        with archive.open(archive.namelist()[0]) as file, Image.open(file) as image:
            assert image.mode == "P" and image.getpalette()[9:12] == [128, 128, 0]
            np.testing.assert_array_equal(np.unique(image), [0, 3])
    assert submission.pack(dataset, results, tmp_path / "b.zip").read_bytes() == path.read_bytes()
    arguments = [str(path), "--config", "ytvos19", "--data", str(tmp_path / "data")]
    assert check_submission.main([*arguments, "--config.data.sequences=cow"]) == 0
    assert "1 sequence(s), 6 masks, 2 object(s)" in capsys.readouterr().out
    assert check_submission.main(arguments) == 2, "duck is missing"
    assert "lacks Annotations/duck/00000.png (6 of 12" in capsys.readouterr().err


def test_davis_layout(tmp_path):
    dataset = layouts.open_as("davis", layouts.davis(tmp_path), split="test-dev")
    ids = dataset["cow"].prompts()[0]
    layouts.write_masks(tmp_path / "results/cow", {f"{i:05d}": ids for i in range(5)})
    path = submission.pack(dataset, tmp_path / "results", tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"cow/{i:05d}.png" for i in range(5)]
    assert submission.check(dataset, path) == submission.Counts(1, 5, 1)


def test_unfit_results_leave_no_archive(dataset, results, tmp_path):
    path = tmp_path / "out" / "a.zip"
    path.parent.mkdir()
    mask_files.write_mask(results / "cow/00010.png", np.full((50, 70), 9, np.uint8))
    assert "Annotations/cow/00010.png: object id(s) 9, but 'cow' has 3, 7" in message_of(
        lambda: submission.pack(dataset, results, path)
    )
    (results / "cow/00010.png").unlink()
    assert "cow/00010.png: cannot pack" in message_of(lambda: submission.pack(dataset, results, path))
    assert list(path.parent.iterdir()) == []


def _png(array, tmp_path, palette=None):
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)
    image.save(tmp_path / "mask.png")
    return (tmp_path / "mask.png").read_bytes()


IDS = np.full((50, 70), 3, np.uint8)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda folder: _png(IDS, folder), "not an indexed PNG"),
        (lambda folder: _png(IDS, folder, [0, 0, 0, 255, 0, 0] * 128), "palette"),
        (lambda folder: _png(IDS[:-1], folder, mask_files.PALETTE.tobytes()), "70x49"),
        (lambda folder: _png(IDS.astype(np.uint16), folder), "16-bit"),
        (lambda folder: b"GIF89a", "not a PNG"),
    ],
    ids=["grey", "palette", "size", "16-bit", "gif"],
)
def test_masks_that_a_server_would_misread(dataset, results, tmp_path, make, named):
    path = submission.pack(dataset, results, tmp_path / "a.zip")
    repack(path, lambda members: members.update({"Annotations/cow/00005.png": make(tmp_path)}))
    message = message_of(lambda: submission.check(dataset, path))
    assert "Annotations/cow/00005.png" in message and named in message


def test_archives_packed_one_folder_too_deep_or_with_more_in_them(dataset, results, tmp_path):
    path = submission.pack(dataset, results, tmp_path / "a.zip")
    deep = shutil.copy(path, tmp_path / "deep.zip")
    repack(deep, lambda m: [m.update({f"results/{name}": m.pop(name)}) for name in list(m)])
    assert "it is at results/Annotations/cow" in message_of(lambda: submission.check(dataset, deep))
    shallow = shutil.copy(path, tmp_path / "shallow.zip")
    repack(shallow, lambda m: [m.update({name.split("/", 1)[1]: m.pop(name)}) for name in list(m)])
    assert "it is at cow/00000.png" in message_of(lambda: submission.check(dataset, shallow))
    repack(path, lambda members: members.update({"__MACOSX/cow/._00000.png": b""}))
    assert "__MACOSX" in message_of(lambda: submission.check(dataset, path))


@pytest.mark.parametrize(
    "name",
    ["../cow/00000.png", "/etc/00000.png", "Annotations/../../x.png", "C:\\x.png", "a\\b.png", "a//b.png"],
)
def test_names_that_would_leave_a_folder_are_refused(dataset, results, tmp_path, name):
    path = submission.pack(dataset, results, tmp_path / "a.zip")
    repack(path, lambda members: members.update({name: b"x"}))
    assert "plain relative path" in message_of(lambda: submission.check(dataset, path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_links_duplicates_and_bombs_are_refused_unread(dataset, results, tmp_path, monkeypatch):
    def read(*_):
        raise AssertionError("read")

    path = submission.pack(dataset, results, tmp_path / "a.zip")
    monkeypatch.setattr(zipfile.ZipFile, "read", read)
    link = zipfile.ZipInfo("Annotations/cow/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    cases = {
        "a link": lambda archive: archive.writestr(link, "/etc/passwd"),
        "twice": lambda archive: archive.writestr("Annotations/cow/00000.png", b""),
        "no mask": lambda archive: archive.writestr("bomb.png", bytes(submission.MAX_BYTES + 1)),
    }
    other = tmp_path / "b.zip"
    for named, add in cases.items():
        shutil.copy(path, other)
        with zipfile.ZipFile(other, "a", zipfile.ZIP_DEFLATED) as archive:
            add(archive)
        assert named in message_of(lambda: submission.check(dataset, other))


def test_encrypted_members_are_refused(dataset, results, tmp_path):
    path = submission.pack(dataset, results, tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "is encrypted" in message_of(lambda: submission.check(dataset, path))


def test_broken_archives_are_named(dataset, results, tmp_path):
    path = submission.pack(dataset, results, tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:-30])
    assert "a.zip: not a complete zip archive" in message_of(lambda: submission.check(dataset, path))
    data[100] ^= 255
    path.write_bytes(data)
    assert "a.zip" in message_of(lambda: submission.check(dataset, path))
    assert "cannot read" in message_of(lambda: submission.check(dataset, tmp_path / "none.zip"))
