"""Object alignment: scores how well a proposal's feature grid matches an object's template grid.

Every variant is a plain function of ONE template and ONE proposal,

    align(template [S, C], weights [S], proposal [S, C], *, temperature)
        -> (score [], aligned [S, C], attention [S, S] or None)

with S = s * s grid locations in row-major order. `weights` in [0, 1] is the share of each template location
that belongs to the object, `score` in [-1, 1] the matching score, and `aligned` the proposal's features in
the template's layout. `attention` [S, S] is each template location's distribution over the proposal's
locations (rows sum to 1), or None for a variant without attention. `score_all` maps a variant over all
objects and proposals of a frame.

A new variant is one function: add it to `ALIGNMENTS`, or pass any callable of this signature as the
setting (it may leave out `temperature`); see docs/experiments.md.

Source: paper, supplement section 6; docs/method.md, "Alignment".
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vos_jax import errors, user_code
from vos_jax.ops import target
from vos_jax.typing import Array, Float

# score [], aligned [S, C], attention [S, S] or None
Aligned = tuple[Array, Array, Array | None]


def adaptive(
    template: Float[Array, "S C"],
    weights: Float[Array, " S"],
    proposal: Float[Array, "S C"],
    *,
    temperature: Float[Array, ""] | float,
) -> Aligned:
    """Compares every template location with the weighted average of ALL locations of the proposal.

    `A = softmax_q(cos(x_p, y_q) / temperature)`, `aligned_p = sum_q A[p, q] y_q`. Cosines, because dot
    products would favour locations of high norm.

    Source: paper, supplement section 6.
    """
    attention = jax.nn.softmax(_cosines(template, proposal) / temperature, axis=-1)
    return _attended(template, weights, proposal, attention)


def none(
    template: Float[Array, "S C"], weights: Float[Array, " S"], proposal: Float[Array, "S C"]
) -> Aligned:
    """Compares every template location with the spatially corresponding one (paper, Fig. 3 right)."""
    return _score(template, weights, proposal), proposal, None


def pooled(
    template: Float[Array, "S C"], weights: Float[Array, " S"], proposal: Float[Array, "S C"]
) -> Aligned:
    """Compares mean vectors, as DMM-Net does: the template's over the object, the proposal's over the box."""
    wide = _wide(template)
    total = jnp.maximum(jnp.sum(weights.astype(wide.dtype)), _EPS)
    x = jnp.einsum("p,pc->c", weights.astype(wide.dtype), wide) / total
    y = jnp.mean(_wide(proposal), axis=0)
    score = jnp.sum(_unit(x) * _unit(y))
    return score, jnp.broadcast_to(y.astype(proposal.dtype)[None, :], proposal.shape), None


def topk(
    template: Float[Array, "S C"],
    weights: Float[Array, " S"],
    proposal: Float[Array, "S C"],
    *,
    temperature: Float[Array, ""] | float,
    k: int = 4,
) -> Aligned:
    """Restricts `adaptive` to the `k` most similar proposal locations of each template location.

    Locations of equal cosine count as one.
    """
    cosines = _cosines(template, proposal)
    # k passes of a maximum are ten times faster on CPU than `lax.top_k` for a small k.
    detached = jax.lax.stop_gradient(cosines)
    kth = jnp.max(detached, axis=-1, keepdims=True)
    for _ in range(k - 1):
        below = jnp.max(detached, axis=-1, keepdims=True, initial=-jnp.inf, where=detached < kth)
        kth = jnp.where(jnp.isfinite(below), below, kth)
    attention = jax.nn.softmax(jnp.where(detached >= kth, cosines / temperature, -jnp.inf), axis=-1)
    return _attended(template, weights, proposal, attention)


def transport(
    template: Float[Array, "S C"],
    weights: Float[Array, " S"],
    proposal: Float[Array, "S C"],
    *,
    temperature: Float[Array, ""] | float,
    num_iterations: int = 5,
) -> Aligned:
    """Aligns by entropic optimal transport, which uses the proposal's locations evenly.

    Runs Sinkhorn iterations between the object's weights on the template and the uniform measure on the
    proposal, at cost `1 - cos` and entropy `temperature`. `attention` is the plan with each row divided by
    its mass, so rows of weight 0 are defined too. The last update satisfies the row constraint; the column
    constraint holds approximately.
    """
    logits = _cosines(template, proposal) / temperature
    mass = weights.astype(logits.dtype) / jnp.maximum(jnp.sum(weights.astype(logits.dtype)), _EPS)
    potential = jnp.zeros_like(logits, shape=(proposal.shape[0],))
    for _ in range(num_iterations):  # few and static: XLA fuses the unrolled loop
        attention = jax.nn.softmax(logits + potential[None, :], axis=-1)
        received = jnp.maximum(jnp.einsum("p,pq->q", mass, attention), 1e-12)
        # The uniform 1/S is common to all columns and cancels in the softmax.
        potential = potential - jnp.log(received)
    attention = jax.nn.softmax(logits + potential[None, :], axis=-1)
    return _attended(template, weights, proposal, attention)


ALIGNMENTS: dict[str, Callable[..., Aligned]] = {
    "adaptive": adaptive,
    "none": none,
    "pooled": pooled,
    "topk": topk,
    "transport": transport,
}


def resolve(alignment: Any) -> Callable[..., Aligned]:
    """Returns the alignment of this name, or the user's own callable, with one calling convention.

    The result is called as `align(template, weights, proposal, temperature=...)`. `temperature` is passed
    on only to functions that have it.

    Raises:
        VosError: an unknown name, something not callable, or a callable that cannot take three arrays.
    """
    if isinstance(alignment, str):
        if alignment not in ALIGNMENTS:
            raise errors.VosError(
                f"alignment: unknown variant {alignment!r}; choose one of {', '.join(ALIGNMENTS)}, or pass a"
                " callable"
            )
        alignment = ALIGNMENTS[alignment]
    if not callable(alignment):
        raise errors.VosError(f"alignment: expected a name or a callable, found {alignment!r}")
    align: Any = alignment  # `_check` tests what it returns when it is called
    try:
        signature = inspect.signature(align)
        named = signature.parameters.values()
        tempered = any(p.name == "temperature" or p.kind is p.VAR_KEYWORD for p in named)
        signature.bind(None, None, None, **({"temperature": None} if tempered else {}))
    except (TypeError, ValueError) as error:
        raise errors.VosError(
            f"alignment: {_name(alignment)} must take (template [S, C], weights [S], proposal [S, C]) and,"
            f" optionally, temperature ({error})"
        ) from error
    if tempered:
        return align

    def untempered(template, weights, proposal, *, temperature):
        del temperature
        return align(template, weights, proposal)

    untempered.__name__ = _name(align)
    return untempered


def score_all(
    align: Callable[..., Aligned],
    templates: Float[Array, "N S C"],
    weights: Float[Array, "N S"],
    proposals: Float[Array, "P S C"],
    temperature: Float[Array, ""] | float,
    *,
    chunk: int | None = None,
) -> tuple[Float[Array, "N P"], Float[Array, "N P S S"] | None]:
    """Scores every object's template against every proposal of a frame.

    Args:
        align: as `resolve` returns it. templates: the objects' templates; an invalid object's are any
            finite numbers. weights: object weights in [0, 1]. proposals: the proposals' features on the
            same grid. temperature: > 0, in units of cosine. chunk: proposals scored at a time, which limits
            the memory to N * chunk attentions; the result does not depend on it. Default: 1 on CPU, where
            one proposal's attentions stay in the cache (2.5 times faster than all at once), all elsewhere.

    Returns:
        Scores, and the attention or None. Under `jit` an unused attention is not stored; the backward pass
        computes it again (on CPU 2 times faster than reading it back, with 1/20 of the memory).

    Raises:
        VosError: `align` returns anything but (score [], aligned [S, C], attention [S, S] or None).
    """
    if chunk is None:
        chunk = 1 if target.is_cpu() else proposals.shape[0]

    def one(template, weight, proposal):
        found = user_code.call("model.alignment", align, template, weight, proposal, temperature=temperature)
        _check(align, found, proposal.shape)
        return found[0], found[2]

    def per_proposal(proposal):
        return jax.vmap(one, in_axes=(0, 0, None))(templates, weights, proposal)

    per_proposal = jax.checkpoint(per_proposal, prevent_cse=False)
    batch_size = None if chunk == 1 else min(chunk, proposals.shape[0])
    scores, attention = jax.lax.map(per_proposal, proposals, batch_size=batch_size)
    return scores.T, None if attention is None else jnp.swapaxes(attention, 0, 1)


_EPS = 1e-6


def _wide(x: Array) -> Array:
    """Casts to fp32, or keeps a wider type."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _unit(x: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """Normalises vectors to length 1; a vector of length 0 stays 0, with gradient 0 instead of 1/eps."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    has_length = squared > _EPS**2
    return jnp.where(has_length, x * jax.lax.rsqrt(jnp.where(has_length, squared, 1.0)), 0.0)


def _cosines(template: Float[Array, "S C"], proposal: Float[Array, "S C"]) -> Float[Array, "S S"]:
    return jnp.einsum("pc,qc->pq", _unit(_wide(template)), _unit(_wide(proposal)))


def _score(
    template: Float[Array, "S C"], weights: Float[Array, " S"], aligned: Float[Array, "S C"]
) -> Float[Array, ""]:
    """Returns `sum_p w_p cos(x_p, aligned_p) / sum_p w_p`; 0 if all weights are 0."""
    cosines = jnp.sum(_unit(_wide(template)) * _unit(_wide(aligned)), axis=-1)
    weights = weights.astype(cosines.dtype)
    return jnp.sum(weights * cosines) / jnp.maximum(jnp.sum(weights), _EPS)


def _attended(
    template: Float[Array, "S C"],
    weights: Float[Array, " S"],
    proposal: Float[Array, "S C"],
    attention: Float[Array, "S S"],
) -> Aligned:
    aligned = jnp.einsum("pq,qc->pc", attention, _wide(proposal))
    return _score(template, weights, aligned), aligned.astype(proposal.dtype), attention


def _name(align: Callable) -> str:
    return getattr(align, "__name__", repr(align))


def _check(align: Callable, found: object, shape: tuple[int, int]) -> None:
    what = f"alignment: {_name(align)} must return (score [], aligned [S, C], attention [S, S] or None)"
    if not isinstance(found, tuple) or len(found) != 3:
        raise errors.VosError(f"{what}, not {type(found).__name__}")
    score, aligned, attention = found
    wanted = ((), shape, None if attention is None else (shape[0], shape[0]))
    given = tuple(None if x is None else jnp.shape(x) for x in (score, aligned, attention))
    if given != wanted:
        raise errors.VosError(f"{what}, here of shapes {wanted}; found {given}")
