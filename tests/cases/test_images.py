"""Cases A22, A23, A28, A32, A45 and A47: images read otherwise than shown, out of order, or left out."""

import logging
import os
import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.cases.films import SIZE, first_mask, picture
from vos_jax import errors, natural_order
from vos_jax.data import datasets, image_files, mask_files, media
from vos_jax.tools import check_data


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, "vos_jax")
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------- orientation
STORED = {  # what is stored, from what is shown
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image),
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: np.rot90(image, -1),
}


def write_turned(path, image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    more = {"quality": 98, "subsampling": 0} if path.endswith("jpg") else {}
    Image.fromarray(np.ascontiguousarray(STORED[orientation](image))).save(path, exif=exif, **more)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "avif"])
def test_a22_images_are_turned_upright(kind, orientation):
    for index in range(2):
        write_turned(f"frames/{index}.{kind}", picture(index), orientation)
    video = media.open_media("frames")
    assert video.size == SIZE
    for index, frame in enumerate(video.frames()):
        assert frame.shape == (*SIZE, 3)
        assert np.abs(frame.astype(int) - picture(index)).mean() < 8
        assert np.abs(image_files.read_frame(f"frames/{index}.{kind}", short_side=32).shape[0] - 32) == 0


def test_a22_orientation_behind_the_pixels_of_a_png():
    write_turned("a.png", picture(0), 6)
    data = pathlib.Path("a.png").read_bytes()
    at = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[at : at + 4], "big")
    end = data.index(b"IEND") - 4
    moved = data[:at] + data[at + length : end] + data[at : at + length] + data[end:]
    pathlib.Path("a.png").write_bytes(moved)
    np.testing.assert_array_equal(image_files.read_frame("a.png"), picture(0))
    assert image_files.frame_size("a.png") == SIZE


@pytest.mark.parametrize("size", [(64, 96), (80, 80)])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a23_masks_lie_on_turned_photos(size, orientation, capsys):
    os.makedirs("set/ant/masks")
    for index in range(3):
        write_turned(f"set/ant/{index:03d}.jpg", picture(index, size), orientation)
        mask_files.write_mask(f"set/ant/masks/{index:03d}.png", (first_mask(size) > 0).astype(np.uint8))
    assert check_data.main(["set"]) == 0, capsys.readouterr().err
    (video,) = datasets.open_training_videos(datasets.SourceConfig(root="set"))
    colour = video.frame(0)[video.mask(0) == 1].mean(0)
    np.testing.assert_allclose(colour, [220, 60, 60], atol=15)


# ---------------------------------------------------------------- names
@pytest.mark.parametrize(
    "names",
    [
        "t_0.05 t_0.1 t_0.15 t_0.2 t_0.25 t_1.05",
        "comp_-003 comp_-002 comp_-001 comp_000 comp_001 comp_002",
        "foo_-003|foo_-002|foo_-001",
        "foo -003|foo -002|foo -001|foo 0000|foo 0001",
        "a-2 a-1 a0 a1",
        "-2 -1 0 1 10",
        "x-1.5 x-1.0 x-0.5 x0.0 x0.5 x1.0 x1.5",
        "t_-0.25 t_-0.1 t_0.05 t_0.3",
        "t0,5 t0,75 t1,0 t1,25 t10,5",
        "s1.8 s1.9 s1.10 s1.11",
        "v1.2.9 v1.2.10",
        "img-1 img-2 img-10",
        "img -1|img -2|img -10",
        "2024-01-02 2024-01-10 2024-02-01",
        "2 10 0100",
        "clip.0001 clip.0002 clip.0010",
        "a1 a2 a10 b1",
        "shot1-9 shot1-10 shot2-1",
        "a1.2 a1.3 a1.4 a1.5 a1.11",
    ],
)
def test_a28_names_are_ordered_by_their_numbers(names):
    names = names.split("|") if "|" in names else names.split()
    paths = [pathlib.Path(f"{name}.png") for name in names]
    assert natural_order.sort(paths[::-1]) == natural_order.sort(paths) == paths


def test_a28_frames_and_masks_have_one_order():
    os.makedirs("frames")
    for index, number in enumerate(("-2", "-1", "0", "1")):
        Image.fromarray(picture(index)).save(f"frames/comp_{number}.png")
    for index, frame in enumerate(media.open_media("frames").frames()):
        np.testing.assert_array_equal(frame, picture(index))


# ---------------------------------------------------------------- kinds of files
def test_a32_frames_and_masks_of_other_formats(caplog):
    """Every kind that OpenCV or Pillow reads is a frame; a mask that would be left out is refused."""
    for name, kinds in (("ant", "jpg jpg tif jpg"), ("bee", "tif tif tif tif"), ("cow", "jpg jpg jpg jpg")):
        os.makedirs(f"set/{name}/masks")
        for index, kind in enumerate(kinds.split()):
            Image.fromarray(picture(index)).save(f"set/{name}/{index:05d}.{kind}")
            kind = "bmp" if name == "cow" and index else "png"
            cv2.imwrite(f"set/{name}/masks/{index:05d}.{kind}", first_mask() // 255)
    dataset = datasets.open_dataset(datasets.EvalDatasetConfig(kind="folders", root="set"))
    assert [len(dataset[name]) for name in ("ant", "bee")] == [4, 4] and dataset.names == (
        "ant",
        "bee",
        "cow",
    )
    with pytest.raises(errors.VosError, match="cow/masks/00001.bmp: masks are PNGs"):
        dataset["cow"]
    assert not caplog.records


@pytest.mark.parametrize(
    "kind", ["jpe", "jfif", "tif", "tiff", "ppm", "bmp", "webp", "tga", "jp2", "avif", "TIF"]
)
def test_a32_every_kind_of_image_is_a_frame(kind):
    os.makedirs("frames")
    pillow = {"jpe": "JPEG", "jfif": "JPEG", "jp2": "JPEG2000"}.get(kind)
    for index in range(2):
        Image.fromarray(picture(index)).save(f"frames/{index}.{kind}", pillow)
    for index, frame in enumerate(media.open_media("frames").frames()):
        assert np.abs(frame.astype(int) - picture(index)).mean() < 8


@pytest.mark.parametrize("kind", ["heic", "exr", "dng", "CR2", "psd", "gif", "mov"])
def test_a32_files_that_are_not_read_are_named(kind, caplog):
    os.makedirs("set/ant/masks"), os.makedirs("set/bee")
    for index in range(3):
        Image.fromarray(picture(index)).save(f"set/ant/{index}.png")
    pathlib.Path(f"set/ant/3.{kind}").write_bytes(b"x"), pathlib.Path(f"set/bee/0.{kind}").write_bytes(b"x")
    pathlib.Path("set/ant/notes.txt").write_text("x")
    assert media.open_media("set/ant").num_frames == 3
    assert f"3.{kind}" in caplog.text and "notes" not in caplog.text
    caplog.clear()
    dataset = datasets.open_dataset(datasets.EvalDatasetConfig(kind="folders", root="set"))
    assert dataset.names == ("ant",) and "set/bee: no sequence" in caplog.text
    len(dataset["ant"])
    assert "set/ant: 1 file(s) left out" in caplog.text
    with pytest.raises(errors.VosError, match=f"holds no images .*0.{kind}"):
        media.open_media("set/bee")


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("grey", [True, False])
@pytest.mark.parametrize("used", [12, 16])
def test_a32_images_of_12_and_16_bits_are_as_bright_as_they_look(kind, grey, used, caplog):
    os.makedirs("frames")
    for index in range(2):
        deep = picture(index).astype(np.uint16)[..., ::-1] << (used - 8)
        cv2.imwrite(f"frames/{index}.{kind}", deep[..., 0] if grey else deep)
    for index, frame in enumerate(media.open_media("frames").frames()):
        wanted = np.repeat(picture(index)[..., 2:], 3, axis=2) if grey else picture(index)
        assert np.abs(frame.astype(int) - wanted).max() <= 1
    assert ("12 bits" in caplog.text) == (used == 12)


@pytest.mark.parametrize("kind", ["tif", "ppm", "avif", "jp2", "tga"])
def test_a_truncated_image_is_refused(kind):
    Image.fromarray(picture(0, noise=90)).save(f"a.{kind}", "JPEG2000" if kind == "jp2" else None)
    os.truncate(f"a.{kind}", os.path.getsize(f"a.{kind}") * 6 // 10)
    with pytest.raises(errors.VosError, match=f"^a.{kind}: "):
        image_files.frame_size(f"a.{kind}")
        image_files.read_frame(f"a.{kind}")


# ---------------------------------------------------------------- animations
@pytest.mark.parametrize("kind", ["webp", "png", "tif", "avif", "gif"])
def test_a45_an_animation_is_no_frame_but_a_video(kind):
    """The advice works: the file itself is read whole."""
    os.makedirs("frames")
    images = [Image.fromarray(picture(index)) for index in range(8)]
    images[0].save(f"frames/clip.{kind}", save_all=True, append_images=images[1:], duration=80)
    said = "not read as a frame" if kind == "gif" else r"an animation of 8 pictures.*segment.py frames/clip"
    with pytest.raises(errors.VosError, match=said):
        media.open_media("frames")
    video = media.open_media(f"frames/clip.{kind}")
    frames = list(video.frames())
    assert len(frames) == video.num_frames == 8 and len(list(video.frames(5))) == 3
    for index, frame in enumerate(frames):
        assert np.abs(frame.astype(int) - picture(index)).mean() < 10
    with video.open() as reader:
        times = [float(item.time) for item in reader]
    assert times == sorted(times) and len(set(times)) == 8
    if kind != "tif":
        assert times[7] == pytest.approx(0.56, abs=0.02) and float(video.rate) == pytest.approx(12.5, abs=0.2)


def test_a45_previews_in_an_image_are_no_animation():
    """A telephone's JPEG holds a second picture, a TIFF a smaller copy."""
    os.makedirs("frames")
    one, two = Image.fromarray(picture(0)), Image.fromarray(picture(1))
    one.save("frames/0.jpg", "MPO", save_all=True, append_images=[two])
    one.save("frames/1.tif", save_all=True, append_images=[one.resize((24, 16))])
    with Image.open("frames/0.jpg") as image:
        assert image.n_frames == 2
    data = bytearray(pathlib.Path("frames/1.tif").read_bytes())
    assert len(data) and image_files.frame_size("frames/0.jpg") == SIZE


# ---------------------------------------------------------------- names in other encodings
def test_a47_names_that_are_no_text(capsys):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    os.makedirs(name)
    for index in range(2):
        Image.fromarray(picture(index)).save(f"{name}/{index}.png")
    assert media.open_media(name).num_frames == 2 and media.open_media(name).identity()
