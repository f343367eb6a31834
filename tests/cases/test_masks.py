"""Cases B01 to B21, B40 and B44: masks that were misread. A mask is what its colours show."""

import fractions
import io
import os
import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.cases import pictures
from tests.cases.pictures import BOX, DISC, GREEN, IDS, RED, SIZE, first, paint, read, refuse, same
from vos_jax import errors
from vos_jax.data import mask_files

LIME, BLUE, WHITE = (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------- indexed: what the colours show
def test_b01_a_quantised_mask_is_what_its_colours_show():
    image = Image.fromarray(paint()).quantize(8)
    assert image.getpalette()[:3] != [0, 0, 0]
    image.save("indexed.png")
    same(first("indexed.png"))
    same(mask_files.read_mask("indexed.png"))


@pytest.mark.parametrize("order", ["0bd", "bd0", "d0b", "db0", "0xdb", "xx0bd"])
@pytest.mark.parametrize("transparent", [False, True])
def test_b02_the_order_of_a_palette_does_not_matter(order, transparent):
    pictures.indexed("m.png", order, transparent=transparent)
    same(first("m.png"))
    same(mask_files.read_mask("m.png"))


def test_b02_only_the_second_object_is_still_the_second():
    pictures.indexed("m.png", "0d")
    same(first("m.png"), 2 * DISC)


def test_b02_the_official_shade_191_is_known_in_any_order():
    pictures.indexed("m.png", "d0b", box=(191, 0, 0))  # object 9
    same(first("m.png"), 9 * BOX + 2 * DISC)


@pytest.mark.parametrize("order", ["b0", "0b", "xb0", "b0x"])
@pytest.mark.parametrize("colour", [RED, (220, 40, 40)])
def test_b03_what_is_transparent_is_background(order, colour):
    pictures.indexed("m.png", order, box=colour, transparent=True)
    same(first("m.png"), BOX)


def test_b03_transparent_colours_other_than_black_are_background():
    image = Image.fromarray(BOX.astype(np.uint8))
    image.putpalette([255, 255, 255, *RED])
    image.save("m.png", transparency=0)
    same(first("m.png"), BOX)
    grey = Image.fromarray(np.where(BOX, np.uint8(255), np.uint8(7)))
    grey.save("g.png", transparency=7)
    same(first("g.png"), BOX)


def test_b03_half_transparent_indices_are_soft_edges():
    image = Image.fromarray(BOX.astype(np.uint8))
    image.putpalette([0, 0, 0, *RED])
    image.save("m.png", transparency=bytes([0, 128]))
    refuse("m.png", said="half-transparent")


def test_an_index_is_the_id_where_black_is_index_0_and_colours_are_the_users():
    pictures.indexed("m.png", "0xxbd", box=(250, 1, 2), disc=(3, 250, 4))
    same(first("m.png"), 3 * BOX + 4 * DISC)
    same(mask_files.read_mask("m.png"), 3 * BOX + 4 * DISC)


def test_a_palette_of_the_users_that_a_program_sorted_is_refused_where_nobody_can_be_asked():
    pictures.indexed("m.png", "bd0", box=(250, 1, 2), disc=(3, 250, 4))
    with pytest.raises(errors.VosError, match="black at index 2"):
        mask_files.read_mask("m.png")
    same(first("m.png"))


def test_a_palette_that_shows_nothing_leaves_the_index():
    image = Image.fromarray(IDS)
    image.putpalette([0] * 9)
    image.save("m.png")
    same(mask_files.read_mask("m.png"))


# ---------------------------------------------------------------- grey
@pytest.mark.parametrize("levels", [(50, 255), (1, 255), (127, 255), (64, 200), (127, 0), (1, 128), (200, 0)])
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_b05_b17_grey_levels_of_a_users_mask_are_asked_about(levels, mode):
    pictures.grey("m.png", *levels)
    with Image.open("m.png") as image:
        image.convert(mode).save("m.png")
    message = refuse("m.png", said=["these are not object ids", "1, 2, ..."])
    assert "@ID" in message
    same(first("m.png@1"), IDS > 0 if levels[1] else BOX)


def test_b05_white_beside_grey_ids_is_void_in_a_data_set_where_the_ids_are_dark():
    pictures.grey("m.png", 3, 255)
    same(mask_files.read_mask("m.png"), 3 * BOX)
    pictures.grey("m.png", 50, 255)
    with pytest.raises(errors.VosError, match="0, 50, 255"):
        mask_files.read_mask("m.png")


def test_b05_a_palette_of_greys_is_read_as_grey():
    image = Image.fromarray((50 * BOX + 255 * DISC).astype(np.uint8))
    image.putpalette([level for value in range(256) for level in (value,) * 3])
    image.save("m.png")
    refuse("m.png", said="0, 50, 255")


def soften(mask, top, size=5):
    return np.round(cv2.GaussianBlur(mask.astype(np.float32), (size, size), 0) * top).astype(np.uint8)


@pytest.mark.parametrize("top", [20, 60, 64, 100, 255])
def test_b17_soft_edges_are_refused(top):
    Image.fromarray(soften(BOX, top)).save("m.png")
    refuse("m.png", said="anti-aliased")
    refuse("m.png@1", said="anti-aliased")


@pytest.mark.parametrize("colours", [None, 8, 200])
def test_b17_soft_edges_of_coloured_masks_are_refused(colours):
    image = Image.fromarray(paint((255, 0, 0), LIME)).resize(SIZE[::-1], Image.Resampling.LANCZOS)
    image = image.resize((50, 33), Image.Resampling.BILINEAR)
    image = image if colours is None else image.quantize(colours)
    image.save("m.png")
    refuse("m.png", said="anti-aliased", size=(33, 50))


def test_b17_small_ids_beside_each_other_are_no_soft_edge():
    pictures.grey("m.png", 3, 7)
    same(first("m.png"), 3 * BOX + 7 * DISC)
    thin = np.zeros(SIZE, np.uint8)
    thin[10], thin[20, :9], thin[30:40, 50:60] = 2, 5, 9
    thin[10, 0] = 0
    Image.fromarray(thin).save("thin.png")
    same(first("thin.png"), thin)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_black_and_white_of_few_bits_is_black_and_white(bits):
    image = Image.fromarray(BOX.astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save("m.png", bits=bits)
    assert mask_files.read("m.png").is_binary
    same(mask_files.read_mask("m.png"), BOX)


# ---------------------------------------------------------------- background
@pytest.mark.parametrize("form", ["rgb", "indexed", "grey", "white"])
def test_b19_a_mask_without_black_is_refused(form):
    picture = paint(background=(0, 128, 0), disc=RED)
    if form == "indexed":
        image = Image.fromarray(BOX.astype(np.uint8))
        image.putpalette([200, 100, 50, *RED])
        image.save("m.png")
    elif form == "rgb":
        Image.fromarray(picture).save("m.png")
    else:
        Image.fromarray(np.where(BOX, np.uint8(2), np.uint8(1)) if form == "grey" else 255 + 0 * IDS).save(
            "m.png"
        )
    refuse("m.png", said=["no pixel is black", "paint the background black"])
    refuse("m.png@1", said="no pixel is black")
    if form == "rgb":  # the advice, followed
        picture[0, 0] = 0
        Image.fromarray(picture).save("m.png")
        assert np.unique(first("m.png")).tolist() == [0, 1, 2]


@pytest.mark.parametrize("form", ["inverted", "coloured"])
def test_b19_an_object_on_the_whole_border_is_mentioned(form):
    picture = (
        np.where(BOX, np.uint8(0), np.uint8(255)) if form == "inverted" else paint((0, 0, 0), RED, GREEN)
    )
    Image.fromarray(picture).save("m.png")
    notes = []
    first("m.png", notes=notes)
    assert len(notes) == 1 and "covers the whole border" in notes[0]
    Image.fromarray(paint()).save("m.png")
    notes = []
    first("m.png", notes=notes)
    assert not notes


# ---------------------------------------------------------------- own colours
def test_b40_pure_red_is_the_first_object():
    Image.fromarray(paint((255, 0, 0), (0, 0, 0))).save("m.png")
    notes = []
    same(first("m.png", notes=notes), BOX)
    assert notes == ["--masks 0:m.png: (255,0,0) is object 1"]


@pytest.mark.parametrize("form", ["RGB", "RGBA", "quantised", "sorted"])
def test_b40_own_colours_are_the_next_objects_however_they_are_saved(form):
    image = Image.fromarray(paint((255, 0, 0), LIME))
    if form == "sorted":
        pictures.indexed("m.png", "db0", box=(255, 0, 0), disc=LIME)
    else:
        (image.quantize(8) if form == "quantised" else image.convert(form)).save("m.png")
    same(first("m.png"))


def test_b40_one_colour_is_one_object_in_all_masks():
    Image.fromarray(paint((255, 0, 0), LIME)).save("a.png")
    Image.fromarray(paint((0, 0, 0), LIME)).save("b.png")
    Image.fromarray(paint(BLUE, LIME)).quantize(4).save("c.png")
    found = read("a.png", "1:b.png", "2:c.png")
    same(found[0]), same(found[1], 2 * DISC), same(found[2], 3 * BOX + 2 * DISC)


def test_b40_own_colours_beside_the_palettes_take_free_ids():
    Image.fromarray(paint((255, 0, 0), RED)).save("m.png")
    same(first("m.png"), 2 * BOX + DISC)


def test_b40_an_own_colour_after_a_mask_of_ids_is_asked_about():
    Image.fromarray(paint()).save("a.png")
    Image.fromarray(paint((255, 0, 0), (0, 0, 0))).save("b.png")
    refuse("a.png", "1:b.png", said=["is (255,0,0) a new object, or which of 1, 2", "1:b.png@1"])
    same(read("a.png", "1:b.png@1")[1], BOX)


def test_b40_white_among_colours_is_an_object_of_its_own():
    Image.fromarray(paint(WHITE, RED)).save("m.png")
    same(first("m.png"), 2 * BOX + DISC)


# ---------------------------------------------------------------- overlaps
def write_nested():
    Image.fromarray(255 * BOX.astype(np.uint8)).save("car.png")
    window = np.zeros(SIZE, np.uint8)
    window[20:30, 15:25] = 255
    Image.fromarray(window).save("window.png")
    return np.where(window > 0, 2, BOX.astype(np.uint8))


def test_b06_of_nested_masks_the_smaller_wins_in_any_order():
    wanted = write_nested()
    same(first("window.png@2", "car.png@1"), wanted)
    same(first("car.png@1", "window.png@2"), wanted)


def test_b06_a_mask_that_is_covered_whole_is_named():
    write_nested()
    refuse("car.png@1", "car.png@2", said=["object 2 would vanish", "masks of 1"])
    Image.fromarray(255 * (BOX & (np.indices(SIZE)[1] < 20)).astype(np.uint8)).save("left.png")
    Image.fromarray(255 * (BOX & (np.indices(SIZE)[1] >= 20)).astype(np.uint8)).save("right.png")
    refuse("left.png@1", "car.png@3", "right.png@2", said=["object 3 would vanish", "1, 2"])


def test_b06_three_levels_and_partial_overlaps():
    layers = [np.zeros(SIZE, np.uint8) for _ in range(3)]
    layers[0][5:60, 5:60], layers[1][20:50, 40:80], layers[2][25:30, 50:55] = 1, 1, 1
    for index, layer in enumerate(layers):
        Image.fromarray(255 * layer).save(f"{index}.png")
    wanted = np.where(layers[2], 3, np.where(layers[1], 2, layers[0]))
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]):
        same(first(*(f"{index}.png@{index + 1}" for index in order)), wanted)


# ---------------------------------------------------------------- black and white
def save_white(path, mask, form="grey"):
    white = 255 * mask.astype(np.uint8)
    if form == "indexed":
        image = Image.fromarray(mask.astype(np.uint8))
        image.putpalette([0, 0, 0, 255, 255, 255])
    elif form == "turned":
        image = Image.fromarray(1 - mask.astype(np.uint8))
        image.putpalette([255, 255, 255, 0, 0, 0])
    else:
        image = Image.fromarray(white)
        image = {"grey": image, "1bit": image.convert("1"), "rgb": image.convert("RGB")}[form]
    image.save(path)


FORMS = ["grey", "1bit", "rgb", "indexed", "turned"]


@pytest.mark.parametrize("form", FORMS)
def test_b09_a_black_and_white_correction_of_one_of_two_is_asked_about(form):
    Image.fromarray(paint()).save("first.png")
    save_white("fix.png", DISC, form)
    refuse("first.png", "2:fix.png", said=["black and white", "1, 2", "2:fix.png@3"])
    same(read("first.png", "2:fix.png@2")[2], 2 * DISC)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("object_id", [1, 2, 40])
def test_b10_a_black_and_white_correction_is_of_the_only_object(form, object_id):
    save_white("first.png", BOX)
    save_white("fix.png", DISC, form)
    found = read(f"first.png@{object_id}", "2:fix.png")
    same(found[0], object_id * BOX), same(found[2], object_id * DISC)


def test_b10_black_and_white_in_the_first_frame_is_a_new_object():
    save_white("a.png", BOX), save_white("b.png", DISC)
    same(first("a.png@2", "b.png"), 2 * BOX + DISC)
    refuse("a.png@1", "b.png", said="b.png@2")
    same(first("a.png@1", "b.png@2"), BOX + 2 * DISC)


# ---------------------------------------------------------------- sizes
def test_b21_a_thin_object_survives_resizing():
    large = np.zeros((256, 384), np.uint8)
    large[40:200, 40:140], large[20:230, 301:304] = 1, 2
    mask_files.write_mask("m.png", large)
    found = first("m.png", resize=True)
    assert found.shape == SIZE and np.unique(found).tolist() == [0, 1, 2]


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_b21_no_object_is_lost_in_any_size(factor):
    large = np.zeros((64 * factor, 96 * factor), np.uint8)
    large[0, 0], large[5, 5:9], large[30 * factor, :], large[:, 7] = 1, 2, 3, 4
    mask_files.write_mask("m.png", large)
    assert np.unique(first("m.png", resize=True)).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("aspect", [(4, 3), (3, 4), (16, 11), (2, 1)])
def test_b36_a_mask_of_the_size_that_is_shown_fits(aspect):
    aspect = fractions.Fraction(*aspect)
    shown = (round(96 * aspect), 64)
    mask_files.write_mask("m.png", cv2.resize(IDS, shown, interpolation=cv2.INTER_NEAREST))
    refuse("m.png", said=[f"shown as {shown[0]}x64", "--resize-masks"], aspect=aspect)
    found = first("m.png", resize=True, aspect=aspect)
    assert np.mean(found == IDS) > 0.97
    same(first("m.png", resize=True, aspect=aspect), found)
    mask_files.write_mask("m.png", np.ascontiguousarray(IDS.T))
    if abs(aspect - 1) > 0.5 and aspect != 2:
        refuse("m.png", said="the shape differs", resize=True, aspect=aspect)


# ---------------------------------------------------------------- folders
def test_b44_a_folder_holds_masks_named_like_their_frames():
    os.mkdir("masks")
    mask_files.write_mask("masks/000.png", IDS)
    mask_files.write_mask("masks/001.png", 0 * IDS)
    mask_files.write_mask("masks/002.png", 2 * DISC.astype(np.uint8))
    found = read("masks")
    assert list(found) == [0, 2]
    same(found[0]), same(found[2], 2 * DISC)
    seventh = read("masks@7")
    assert list(seventh) == [0, 2], "the black mask does not say that object 7 is absent"
    same(seventh[0], 7 * (IDS > 0))
    mask_files.write_mask("masks/000.png", 0 * IDS)
    assert list(read("masks@7")) == [2]


def test_b44_a_folder_that_does_not_fit_is_refused():
    os.mkdir("masks")
    refuse("masks", said="holds no PNG")
    refuse("1:masks", said="is a folder")
    mask_files.write_mask("masks/000.png", 0 * IDS)
    refuse("masks", said="no mask holds an object")
    mask_files.write_mask("masks/0001.png", IDS)
    refuse("masks", said=["0001.png", "--masks FRAME:masks/0001.png"])
    assert list(read("1:masks/0001.png")) == [1]


def test_every_form_of_one_picture_is_the_same_mask():
    """Grey, indexed in six orders, RGB, RGBA, quantised: the objects are the same."""
    Image.fromarray(paint()).save("0.png")
    Image.fromarray(paint()).convert("RGBA").save("1.png")
    Image.fromarray(paint()).quantize(16).save("2.png")
    Image.fromarray(paint()).convert("P", palette=Image.Palette.ADAPTIVE, colors=3).save("3.png")
    Image.fromarray(IDS).save("4.png")
    mask_files.write_mask("5.png", IDS)
    for index in range(6):
        same(first(f"{index}.png"))
        same(mask_files.read_mask(f"{index}.png"))
    data = io.BytesIO(pathlib.Path("2.png").read_bytes())
    same(mask_files.decode_mask(data.getvalue(), "x"))


@pytest.mark.parametrize("name", ["a.png", "a.png@2"])
def test_the_value_255_alone_is_white_whatever_its_palette_shows(name):
    mask_files.write_mask("a.png", BOX * np.uint8(255))
    same(first(name) > 0, BOX)
    mask_files.write_mask("a.png", BOX * np.uint8(255) + DISC)
    same(first(name) > 0, DISC)
