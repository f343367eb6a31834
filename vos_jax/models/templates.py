"""Templates: an object's features on a fixed grid, which the alignment compares with proposals.

Every variant is a plain function of ONE object,

    make_template(context, *, size) -> Template

A new variant is one function in `TEMPLATES`; all variants get the same `TemplateContext`. See docs/method.md,
"Templates".
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax.numpy as jnp

from vos_jax import errors, geometry, user_code
from vos_jax.ops import boxes as box_lib
from vos_jax.ops import masks, roi_align
from vos_jax.typing import Array, Bool, Float, Int

ENLARGED = 1.25  # size of the reference box relative to the box of the propagated mask


class Template(flax.struct.PyTreeNode):
    """An object's features on a grid of S = size * size locations, row-major."""

    vectors: Float[Array, "S Ce"]
    weights: Float[Array, " S"]  # the object's share of each location, in [0, 1]; all 0: no template
    box: Float[Array, "4"]  # of the grid, in the frame that it was sampled from


class TemplateContext(flax.struct.PyTreeNode):
    """The inputs of a template: the read for the current frame and the memory."""

    read_embed: Float[Array, "h w Ce"]  # R^e_o: the embedding read for this frame
    read_prob: Float[Array, "h w"]  # R^p_o: the propagated mask
    prev_prob: Float[Array, "H4 W4"]  # the previous frame's mask at stride 4
    last_box: Float[Array, "4"]  # the object's last box; empty if there is none yet
    frame_size: Float[Array, "2"]  # height and width in pixels without padding
    memory_embed: Float[Array, "M h w Ce"]
    memory_prob: Float[Array, "M h w"]  # this object's mask in every slot
    in_slot: Bool[Array, " M"]  # slots that are filled and not older than this object
    slot_frame: Int[Array, " M"]
    first_slot: Int[Array, ""]  # the slot of this object's first annotation; -1: none


_AXES: dict[str, Any] = dict(
    read_embed=0,
    read_prob=0,
    prev_prob=0,
    last_box=0,
    frame_size=None,
    memory_embed=None,
    memory_prob=0,
    in_slot=0,
    slot_frame=None,
    first_slot=0,
)
OBJECT_AXES = TemplateContext(**_AXES)
"""`jax.vmap(make_template, in_axes=(OBJECT_AXES,))` maps over objects: frame and memory frames are shared."""


def dynamic(context: TemplateContext, *, size: int = 14) -> Template:
    """Samples the embedding read for the current frame in the reference box.

    `X_o = RoIAlign(R^e_o, box_o)`, weighted by `w_o = RoIAlign(R^p_o, box_o)`.

    Source: paper, supplement section 5; docs/method.md, "Templates".
    """
    box = reference_box(context)
    return _sample(context.read_embed, context.read_prob, box, context.frame_size, size)


def first(context: TemplateContext, *, size: int = 14) -> Template:
    """Samples the frame of the object's first annotation over its mask there, as in the paper's figures."""
    there = context.in_slot & (context.slot_frame >= 0)
    oldest = jnp.argmin(jnp.where(there, context.slot_frame, jnp.iinfo(jnp.int32).max))
    # A correction may have made the memory forget the object's first annotation (`corrections.forget`).
    forgotten = (context.first_slot >= 0) & jnp.any(there) & ~there[context.first_slot]
    return _from_slot(context, jnp.where(forgotten, oldest, context.first_slot), size)


def previous(context: TemplateContext, *, size: int = 14) -> Template:
    """Samples the most recent frame in memory over the object's mask there."""
    newest = jnp.argmax(jnp.where(context.in_slot, context.slot_frame, -1))
    return _from_slot(context, jnp.where(jnp.any(context.in_slot), newest, -1), size)


def mean(context: TemplateContext, *, size: int = 14) -> Template:
    """Averages `first` and `previous` per location, as DMM-Net does; a missing one is left out.

    The box is that of `previous`.
    """
    one, other = first(context, size=size), previous(context, size=size)
    known_one, known_other = (jnp.any(t.weights > 0).astype(jnp.float32) for t in (one, other))
    share = known_one / jnp.maximum(known_one + known_other, 1.0)

    def average(a, b):
        return (share * a + (1 - share) * b).astype(b.dtype)

    return Template(
        vectors=average(one.vectors, other.vectors),
        weights=average(one.weights, other.weights),
        box=other.box,
    )


TEMPLATES: dict[str, Callable[..., Template]] = {
    "dynamic": dynamic,
    "first": first,
    "previous": previous,
    "mean": mean,
}


def call(make: Callable[..., Any], context: TemplateContext, *, size: int) -> Template:
    """Returns the template of a user's function of one object; VosError where it is no template."""
    found = user_code.call("model.template", make, context)
    if not isinstance(found, Template):
        raise errors.VosError(
            f"model.template: the function returned a {type(found).__name__}, not a templates.Template of "
            "vectors [S, Ce], weights [S] and box [4]"
        )
    cells = size * size
    wanted = {
        "vectors [S, Ce]": (cells, context.read_embed.shape[-1]),
        "weights [S]": (cells,),
        "box [4]": (4,),
    }
    arrays = dict(zip(wanted, (found.vectors, found.weights, found.box), strict=True))
    user_code.check_shapes("model.template", arrays, wanted)
    return found


def reference_box(context: TemplateContext) -> Float[Array, "4"]:
    """Returns the box (y0, x0, y1, x1) of the object in the current frame, in pixels, without padding.

    The box of the propagated mask R^p_o > 0.5, enlarged 1.25 times about its centre and clipped to the
    frame; if that mask is empty, the previous mask's box; then the last box; then the whole frame.
    """
    size = context.frame_size
    propagated, propagated_found = _mask_box(context.read_prob > 0.5, geometry.MEMORY_STRIDE, size)
    before, before_found = _mask_box(context.prev_prob > 0.5, geometry.MASK_STRIDE, size)
    last = _clip(context.last_box, context.frame_size)
    box = jnp.where(_has_extent(last), last, _whole(context.frame_size))
    box = jnp.where(before_found, before, box)
    return jnp.where(propagated_found, enlarge(propagated, ENLARGED, context.frame_size), box)


def enlarge(box: Float[Array, "4"], factor: float, frame_size: Float[Array, "2"]) -> Float[Array, "4"]:
    """Scales a box about its centre and clips it to the frame of `frame_size` (height, width) pixels."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return _clip(jnp.concatenate([centre - factor * half, centre + factor * half]), frame_size)


def _sample(embed, prob, box, frame_size, size: int) -> Template:
    def sample(x: Array) -> Array:
        grid = roi_align.roi_align(x, box, size=size, stride=geometry.MEMORY_STRIDE, frame_size=frame_size)
        return grid.reshape(size * size, -1)

    return Template(vectors=sample(embed), weights=sample(prob[..., None])[:, 0], box=box)


def _from_slot(context: TemplateContext, slot: Int[Array, ""], size: int) -> Template:
    """Samples one memory slot over the object's mask in it; the weights are 0 for no slot (-1)."""
    embed, prob = context.memory_embed[slot], context.memory_prob[slot]
    prob = jnp.where(slot >= 0, prob, jnp.zeros_like(prob))
    # An object smaller than half a cell never reaches 0.5 at this stride.
    threshold = jnp.minimum(0.5, jnp.max(prob) / 2)
    box, found = _mask_box(prob > threshold, geometry.MEMORY_STRIDE, context.frame_size)
    box = jnp.where(found, enlarge(box, ENLARGED, context.frame_size), _whole(context.frame_size))
    return _sample(embed, prob, box, context.frame_size, size)


def _mask_box(mask, stride: int, frame_size) -> tuple[Array, Array]:
    """Returns the box of a mask inside the frame, ignoring padding, and whether there is one."""
    inside = mask & masks.pixel_valid(frame_size, mask.shape, stride)
    box, found = box_lib.of_mask(inside, stride=stride)
    return _clip(box, frame_size), found


def _clip(box, frame_size):
    return jnp.clip(box, 0.0, jnp.tile(frame_size.astype(box.dtype), 2))


def _whole(frame_size):
    return jnp.concatenate([jnp.zeros(2), frame_size.astype(jnp.float32)])


def _has_extent(box):
    return jnp.all(box[2:] > box[:2])
