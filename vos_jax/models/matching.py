"""The matching layers: assign proposals to objects, as a relaxed assignment.

Every layer is a plain function of ONE frame,

    layer(cost [N, P], null_cost [N], object_valid [N], proposal_valid [P], *, config)
        -> assignment [N, P + 1]

whose last column is the object's share of "no proposal": the object is absent from this frame. Rows of
invalid objects are 1 in the last column and 0 elsewhere; columns of invalid proposals are 0. The paper's
layer (supplement section 2) is `pgd`, which comes from DMM-Net; see docs/method.md, "Matching".

**The extended problem.** Rows are objects. Columns are the P proposals and K - P (a static number) columns
that stand for "no proposal". A proposal column is shared: its sum over the objects is at most 1. The other
columns depend on `MatchingConfig.null`:

- `null=True`: every object has a null column of its own at its own cost, which no other object may take. The
  N x N null block is therefore zero off its diagonal, and only the diagonal is stored: K = P + 1, the last
  column not shared. With it, "rows sum to 1" is satisfiable for any number of proposals, so no padding is
  needed.
- `null=False`, DMM-Net's own problem: if there are at most as many valid proposals as valid objects, shared
  zero-cost columns are appended, up to one more column than valid objects. Their number depends on the
  data, so N + 1 are stored (K = P + N + 1) and the surplus is masked.

Masked entries (invalid object, invalid proposal, surplus padding) are not variables: they are always 0, and
the projections divide by the number of remaining entries in the row (valid proposals + null) or in the
column (valid objects; 1 in a null column). With a large cost instead of a mask, every gradient step would
move these entries, and the next projection would spread the change to the real entries.
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vos_jax import checks
from vos_jax.ops import target
from vos_jax.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """Settings of the matching layers.

    Attributes:
      null: Whether each object has a null column, so that it can be absent.
      num_grad: "pgd": gradient steps (the paper's: 10).
      num_proj: "pgd": Dykstra cycles after each gradient step (the paper's: 5).
      step: "pgd": length of a gradient step (the paper's: 0.1).
      average: "pgd": whether iterates are averaged before ("pre", DMM-Net) or after ("post") projection.
      sinkhorn_temperature: "sinkhorn": strength of the entropy, in units of cost.
      sinkhorn_iterations: "sinkhorn": pairs of column and row updates.

    Raises:
      VosError: a value out of range.
    """

    null: bool = True
    num_grad: int = 10
    num_proj: int = 5
    step: float = 0.1
    average: str = "pre"
    sinkhorn_temperature: float = 0.05
    sinkhorn_iterations: int = 50

    def __post_init__(self):
        checks.one_of(self, "average", ("pre", "post"))
        checks.at_least(self, 1, "num_grad", "num_proj", "sinkhorn_iterations")
        checks.above(self, 0, "step", "sinkhorn_temperature")


def cost(
    similarity: Float[Array, "N P"], iou: Float[Array, "N P"], lambda_logit: Float[Array, ""]
) -> Float[Array, "N P"]:
    """Returns `-[(1 - lambda) similarity + lambda iou]` with `lambda = sigmoid(lambda_logit)`.

    Source: paper, supplement section 2: "lambda is automatically tuned as a parameter for each dataset".
    """
    weight = jax.nn.sigmoid(lambda_logit)
    return -((1 - weight) * similarity + weight * iou)


def mask_iou(masks_a: Array, masks_b: Array) -> Float[Array, "N P"]:
    """Returns the IoU of every mask of one set with every mask of another, by one matrix product.

    Args:
        masks_a: [N, ...] bool, or 0 and 1 as any dtype.
        masks_b: [P, ...] of the same resolution.

    Returns:
        IoU in [0, 1]; 0 where both masks are empty.
    """
    a = masks_a.reshape(masks_a.shape[0], -1).astype(jnp.float32)
    b = masks_b.reshape(masks_b.shape[0], -1).astype(jnp.float32)
    intersection = jnp.einsum("nx,px->np", a, b)
    union = jnp.sum(a, axis=-1)[:, None] + jnp.sum(b, axis=-1)[None, :] - intersection
    return intersection / jnp.maximum(union, 1.0)


def pgd(
    cost: Float[Array, "N P"],
    null_cost: Float[Array, " N"],
    object_valid: Bool[Array, " N"],
    proposal_valid: Bool[Array, " P"],
    *,
    config: MatchingConfig,
) -> Float[Array, "N P+1"]:
    """Computes a relaxed assignment by projected gradient descent: the paper's layer, differentiable.

    Minimises `<C, X>` subject to `X 1 = 1`, `X' 1 <= 1`, `X >= 0` by `num_grad` steps `X <- X - step C`,
    each projected by `num_proj` cycles of Dykstra's algorithm. The corrections persist from step to step.
    Starts from `initial_assignment`. Returns the average of the start and of the iterates before their
    projection (`average="pre"`; entries may leave [0, 1]) or after it ("post"; rows sum to 1).

    Source: paper, supplement section 2; docs/method.md, "Matching".
    """
    problem = extend(cost, null_cost, object_valid, proposal_valid, config)
    start = initial_assignment(problem)

    def grad_step(carry, _):
        assignment, corrections, total = carry
        stepped = assignment - config.step * problem.cost
        assignment, corrections = _dykstra(stepped, corrections, problem, config.num_proj)
        return (assignment, corrections, total + (stepped if config.average == "pre" else assignment)), None

    corrections = (jnp.zeros_like(start),) * 3
    # The arrays are tiny: off the CPU the launches of a loop's body would take nearly all of the time.
    unroll = 1 if target.is_cpu() else config.num_grad
    carry = start, corrections, start
    (_, _, total), _ = jax.lax.scan(grad_step, carry, None, length=config.num_grad, unroll=unroll)
    return _collect(total / (config.num_grad + 1), object_valid, cost.shape[1])


def hungarian(
    cost: Float[Array, "N P"],
    null_cost: Float[Array, " N"],
    object_valid: Bool[Array, " N"],
    proposal_valid: Bool[Array, " P"],
    *,
    config: MatchingConfig,
) -> Float[Array, "N P+1"]:
    """Computes the optimal assignment, of 0s and 1s, without a gradient: for test time."""
    num_objects, num_proposals = cost.shape
    problem = extend(cost, null_cost, object_valid, proposal_valid, config)
    # N null columns that every valid object may take at its own cost. There is one per object, so an object
    # can swap the one it takes for its own: the null block needs no forbidden entries.
    copies = num_objects if config.null else 1

    def spread_null(x):
        return jnp.concatenate([x[:, :num_proposals], jnp.tile(x[:, num_proposals:], (1, copies))], axis=1)

    extended, allowed = spread_null(problem.cost), spread_null(problem.allowed)
    # An assignment of allowed entries always exists, and one forbidden entry costs more than all of it.
    forbidden = 2 * num_objects * jnp.max(jnp.abs(extended)) + 1.0
    # Invalid objects need a column, too: at no cost, any column that no valid object can use.
    contested = jnp.any(allowed, axis=0)
    if config.null:
        contested &= jnp.arange(extended.shape[1]) < num_proposals
    filled = jnp.where(allowed, extended, forbidden)
    filled = jnp.where(object_valid[:, None], filled, jnp.where(contested, forbidden, 0.0)[None, :])
    rows, columns = optax.assignment.hungarian_algorithm(jax.lax.stop_gradient(filled))
    assignment = jnp.zeros_like(filled).at[rows, columns].set(1.0)
    return _collect(assignment, object_valid, num_proposals)


def sinkhorn(
    cost: Float[Array, "N P"],
    null_cost: Float[Array, " N"],
    object_valid: Bool[Array, " N"],
    proposal_valid: Bool[Array, " P"],
    *,
    config: MatchingConfig,
) -> Float[Array, "N P+1"]:
    """Minimises `<C, X> - temperature * entropy(X)` under the same constraints as `pgd`; differentiable.

    Alternates between the row and column duals in the log domain. The dual of a shared column is at most 0,
    because its sum may stay below 1. The last update is of the rows, which sum to 1 exactly; the column
    constraint holds up to convergence.
    """
    problem = extend(cost, null_cost, object_valid, proposal_valid, config)
    # -1e9 instead of -inf keeps gradients finite for rows and columns without an allowed entry.
    logits = jnp.where(problem.allowed, -problem.cost / config.sinkhorn_temperature, -1e9)

    def row_duals(column_duals):
        return jnp.where(object_valid, -jax.nn.logsumexp(logits + column_duals[None, :], axis=1), 0.0)

    def iteration(column_duals, _):
        scaled = logits + row_duals(column_duals)[:, None]
        bound = jnp.minimum(-jax.nn.logsumexp(scaled, axis=0), 0.0)
        return jnp.where(problem.shared, bound, 0.0), None

    start = jnp.zeros_like(logits, shape=(logits.shape[1],))
    column_duals, _ = jax.lax.scan(iteration, start, None, length=config.sinkhorn_iterations)
    assignment = jnp.exp(logits + row_duals(column_duals)[:, None] + column_duals[None, :])
    assignment = jnp.where(problem.allowed, assignment, 0.0)
    return _collect(assignment, object_valid, cost.shape[1])


def greedy(
    cost: Float[Array, "N P"],
    null_cost: Float[Array, " N"],
    object_valid: Bool[Array, " N"],
    proposal_valid: Bool[Array, " P"],
    *,
    config: MatchingConfig,
) -> Float[Array, "N P+1"]:
    """Takes the cheapest remaining pair N times. Returns 0s and 1s, without a gradient."""
    problem = extend(cost, null_cost, object_valid, proposal_valid, config)

    def take(carry, _):
        assignment, left = carry
        masked = jnp.where(left, problem.cost, jnp.inf)
        row, column = jnp.unravel_index(jnp.argmin(masked), masked.shape)
        assignment = assignment.at[row, column].add(jnp.where(left[row, column], 1.0, 0.0))
        blocked = problem.shared & (jnp.arange(masked.shape[1]) == column)
        left = left & (jnp.arange(masked.shape[0]) != row)[:, None] & ~blocked[None, :]
        return (assignment, left), None

    start = (jnp.zeros_like(problem.cost), problem.allowed)
    (assignment, _), _ = jax.lax.scan(take, start, None, length=cost.shape[0])
    return _collect(assignment, object_valid, cost.shape[1])


MATCHINGS: dict[str, Callable[..., Array]] = {
    "pgd": pgd,
    "hungarian": hungarian,
    "sinkhorn": sinkhorn,
    "greedy": greedy,
}


def hard(assignment: Float[Array, "*b K"]) -> Float[Array, "*b K"]:
    """Keeps each row's (first) maximum at its value and zeroes the rest, as DMM-Net does at test time."""
    best = jnp.argmax(assignment, axis=-1)
    return assignment * jax.nn.one_hot(best, assignment.shape[-1], dtype=assignment.dtype)


class Problem(flax.struct.PyTreeNode):
    """The extended problem, see the top of the file."""

    cost: Float[Array, "N K"]  # 0 where not allowed
    allowed: Bool[Array, "N K"]  # the entries that may be taken
    shared: Bool[Array, " K"]  # the columns whose sum over the objects is at most 1


def initial_assignment(problem: Problem) -> Float[Array, "N K"]:
    """Returns DMM-Net's start: a column keeps its cheapest object, an object takes its cheapest column left.

    DMM-Net does not define the choice of an object that no column kept. Here the remaining objects and
    columns repeat the rule until every object has a column. An object takes its null column only when no
    cheaper column is left, else an object that lost every comparison would be absent. Without a gradient.

    Source: docs/method.md, "Matching".
    """
    cost = jax.lax.stop_gradient(problem.cost)
    shared = problem.shared[None, :]
    objects, columns = (jnp.arange(n) for n in cost.shape)

    def place(_, carry):
        assignment, left = carry
        masked = jnp.where(left, cost, jnp.inf)
        kept = left & ((objects[:, None] == jnp.argmin(masked, axis=0)[None, :]) | ~shared)
        choice = jnp.argmin(jnp.where(kept, cost, jnp.inf), axis=1)
        ready = problem.shared[choice] | (choice == jnp.argmin(masked, axis=1))
        chosen = kept & (choice[:, None] == columns[None, :]) & ready[:, None]
        taken = jnp.any(chosen & shared, axis=0, keepdims=True)
        return assignment | chosen, left & ~taken & ~jnp.any(chosen, axis=1, keepdims=True)

    # Each round places at least the object of the cheapest entry that is left.
    start = (jnp.zeros_like(problem.allowed), problem.allowed)
    return jax.lax.fori_loop(0, len(objects), place, start)[0].astype(cost.dtype)


def extend(
    cost: Float[Array, "N P"],
    null_cost: Float[Array, " N"],
    object_valid: Bool[Array, " N"],
    proposal_valid: Bool[Array, " P"],
    config: MatchingConfig,
) -> Problem:
    """Appends the columns that stand for "no proposal" and masks invalid entries."""
    num_objects, num_proposals = cost.shape
    dtype = jnp.promote_types(cost.dtype, jnp.float32)
    if config.null:
        extra_cost, extra_valid = null_cost[:, None], jnp.ones(1, bool)
    else:
        valid_objects, valid_proposals = jnp.sum(object_valid), jnp.sum(proposal_valid)
        extra_cost = jnp.zeros((num_objects, num_objects + 1), dtype)
        extra_valid = jnp.arange(num_objects + 1) < valid_objects + 1 - valid_proposals
    costs = jnp.concatenate([cost.astype(dtype), extra_cost.astype(dtype)], axis=1)
    allowed = object_valid[:, None] & jnp.concatenate([proposal_valid, extra_valid])[None, :]
    shared = jnp.arange(costs.shape[1]) < (num_proposals if config.null else costs.shape[1])
    return Problem(cost=jnp.where(allowed, costs, 0.0), allowed=allowed, shared=shared)


def _collect(assignment, object_valid, num_proposals: int) -> Float[Array, "N P+1"]:
    """Sums all columns that stand for "no proposal" into one."""
    nothing = jnp.sum(assignment[:, num_proposals:], axis=1, keepdims=True)
    nothing = jnp.where(object_valid[:, None], nothing, 1.0)
    proposals = jnp.where(object_valid[:, None], assignment[:, :num_proposals], 0.0)
    return jnp.concatenate([proposals, nothing], axis=1)


def _dykstra(assignment, corrections, problem: Problem, num_cycles: int):
    """Runs `num_cycles` cycles of Dykstra's projections: onto X >= 0, columns <= 1, rows = 1."""
    allowed = problem.allowed.astype(assignment.dtype)
    row_count = jnp.maximum(jnp.sum(allowed, axis=1, keepdims=True), 1.0)
    column_count = jnp.maximum(jnp.sum(allowed, axis=0, keepdims=True), 1.0)
    shared = problem.shared[None, :]

    def nonnegative(x):
        return jax.nn.relu(x)

    def columns(x):
        # A null column stores one entry per object, each with a bound of its own.
        total = jnp.where(shared, jnp.sum(x, axis=0, keepdims=True), x)
        return x - allowed * jax.nn.relu(total - 1.0) / jnp.where(shared, column_count, 1.0)

    def rows(x):
        return x - allowed * (jnp.sum(x, axis=1, keepdims=True) - 1.0) / row_count

    def cycle(_, carry):
        x, old = carry
        new = []
        for project, correction in zip((nonnegative, columns, rows), old, strict=True):
            lifted = x + correction
            x = project(lifted)
            new.append(lifted - x)
        return x, tuple(new)

    unroll = 1 if target.is_cpu() else num_cycles
    return jax.lax.fori_loop(0, num_cycles, cycle, (assignment, corrections), unroll=unroll)
