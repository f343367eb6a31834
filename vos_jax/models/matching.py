"""The matching layer: which proposal is which object, as a relaxed assignment.

Every layer is a plain function of ONE frame,

    layer(cost [N, P], null_cost [N], object_valid [N], proposal_valid [P], *, config)
        -> assignment [N, P + 1]

whose last column is the object's share of no proposal at all: the object is absent from this frame. Rows of
invalid objects are 1 there and 0 elsewhere; columns of invalid proposals are 0. DESIGN section 6; the layer
of the paper (supplement section 2) is `pgd`, taken over from DMM-Net.

**The extended problem.** Objects are rows; columns are the P proposals and, of static number K - P, columns
that stand for no proposal. A proposal column is shared: at most 1 in sum over the objects. What the others
are depends on `MatchingConfig.null`:

- `null=True`: every object has a null column of its own at its own cost, which nobody else may take. The
  N x N null block is therefore zero off its diagonal, and only the diagonal is stored: K = P + 1, the last
  column not shared. It makes "rows sum to 1" satisfiable whatever the number of proposals, so no padding is
  needed.
- `null=False`, DMM-Net's own problem: where valid proposals do not outnumber valid objects, zero-cost
  columns that all may take are appended up to one more than the valid objects. How many that is depends on
  data, so N + 1 are stored, K = P + N + 1, of which the surplus is masked.

Entries that may not be taken (invalid object, invalid proposal, surplus padding) are no variables: they are
0 at all times, and the projections divide by the number of entries that remain in the row (valid proposals
+ null) or in the column (valid objects; 1 in a null column). A large cost instead would be dragged along by
every gradient step and spread to the real entries by the next projection.
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vos_jax import checks
from vos_jax.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchingConfig:
    """Settings of the matching layers; each reads its own.

    Attributes:
      null: Whether each object has a null column, so that it may be absent.
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
    """`-[(1 - lambda) similarity + lambda iou]` with `lambda = sigmoid(lambda_logit)`, one per dataset.

    DESIGN section 6; "lambda is automatically tuned as a parameter for each dataset", paper supplement
    section 2.
    """
    weight = jax.nn.sigmoid(lambda_logit)
    return -((1 - weight) * similarity + weight * iou)


def mask_iou(masks_a: Array, masks_b: Array) -> Float[Array, "N P"]:
    """Intersection over union of every mask of one set with every mask of another, by one matrix product.

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
    """Relaxed assignment by projected gradient descent: the paper's layer, differentiable.

    Minimises `<C, X>` subject to `X 1 = 1`, `X' 1 <= 1`, `X >= 0` by `num_grad` steps `X <- X - step C`,
    each projected by `num_proj` cycles of Dykstra's algorithm, whose corrections persist from step to step.
    Starts from `initial_assignment`, returns the average of that and of the iterates before
    (`average="pre"`) or after their projection ("post"; only then do rows sum to 1). Entries averaged
    before projection are not confined to [0, 1]. DESIGN section 6.
    """
    problem = extend(cost, null_cost, object_valid, proposal_valid, config)
    start = initial_assignment(problem)

    def grad_step(carry, _):
        assignment, corrections, total = carry
        stepped = assignment - config.step * problem.cost
        assignment, corrections = _dykstra(stepped, corrections, problem, config.num_proj)
        return (assignment, corrections, total + (stepped if config.average == "pre" else assignment)), None

    corrections = (jnp.zeros_like(start),) * 3
    (_, _, total), _ = jax.lax.scan(grad_step, (start, corrections, start), None, length=config.num_grad)
    return _collect(total / (config.num_grad + 1), object_valid, cost.shape[1])


def hungarian(
    cost: Float[Array, "N P"],
    null_cost: Float[Array, " N"],
    object_valid: Bool[Array, " N"],
    proposal_valid: Bool[Array, " P"],
    *,
    config: MatchingConfig,
) -> Float[Array, "N P+1"]:
    """The optimal assignment, 0s and 1s; for test time, as no gradient passes. DESIGN section 6."""
    num_objects, num_proposals = cost.shape
    problem = extend(cost, null_cost, object_valid, proposal_valid, config)
    # N null columns that every valid object may take at its own cost: as there is one for each, whichever
    # it takes can be swapped for its own. So the null block needs no forbidden entries.
    copies = num_objects if config.null else 1

    def spread_null(x):
        return jnp.concatenate([x[:, :num_proposals], jnp.tile(x[:, num_proposals:], (1, copies))], axis=1)

    extended, allowed = spread_null(problem.cost), spread_null(problem.allowed)
    # Allowed entries alone always make an assignment, and one forbidden entry costs more than all of that.
    forbidden = 2 * num_objects * jnp.max(jnp.abs(extended)) + 1.0
    # Invalid objects have to go somewhere, too: for nothing to any column that they cannot take from a
    # valid object.
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
    """Entropic assignment, differentiable: `<C, X> - temperature * entropy(X)` under the same constraints.

    Alternating maximisation over the dual variables in the log domain; a shared column's is at most 0,
    because its sum may stay below 1. Ends on the rows, which sum to 1 exactly; the columns hold as far as
    the iterations converged.
    """
    problem = extend(cost, null_cost, object_valid, proposal_valid, config)
    # A finite "minus infinity" keeps the gradients of rows and columns without any allowed entry finite.
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
    """N times the cheapest pair that is left, 0s and 1s; no gradient passes."""
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
    """Keeps each row's (first) maximum at its value and zeroes the rest: what DMM-Net does at test time."""
    best = jnp.argmax(assignment, axis=-1)
    return assignment * jax.nn.one_hot(best, assignment.shape[-1], dtype=assignment.dtype)


class Problem(flax.struct.PyTreeNode):
    """The extended problem, see the top of the file."""

    cost: Float[Array, "N K"]  # 0 where not allowed
    allowed: Bool[Array, "N K"]  # the entries that may be taken
    shared: Bool[Array, " K"]  # the columns whose sum over the objects is at most 1


def initial_assignment(problem: Problem) -> Float[Array, "N K"]:
    """DMM-Net's start: each column keeps only its cheapest object, each object takes its cheapest remaining
    column.

    DMM-Net leaves open what an object takes that no column kept: here the left-over objects and columns
    repeat the rule until everybody has one. An object takes its null column only once no cheaper column is
    left for it, else whoever lost every comparison would be absent. No gradient passes. DESIGN section 6.
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
    """Appends the columns that stand for no proposal, and masks what does not exist."""
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
    """Sums all columns that stand for no proposal into one."""
    nothing = jnp.sum(assignment[:, num_proposals:], axis=1, keepdims=True)
    nothing = jnp.where(object_valid[:, None], nothing, 1.0)
    proposals = jnp.where(object_valid[:, None], assignment[:, :num_proposals], 0.0)
    return jnp.concatenate([proposals, nothing], axis=1)


def _dykstra(assignment, corrections, problem: Problem, num_cycles: int):
    """`num_cycles` cycles of Dykstra's projections onto X >= 0, columns <= 1, rows = 1, in this order."""
    allowed = problem.allowed.astype(assignment.dtype)
    row_count = jnp.maximum(jnp.sum(allowed, axis=1, keepdims=True), 1.0)
    column_count = jnp.maximum(jnp.sum(allowed, axis=0, keepdims=True), 1.0)
    shared = problem.shared[None, :]

    def nonnegative(x):
        return jax.nn.relu(x)

    def columns(x):
        # In a null column every object is alone with its own entry.
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

    return jax.lax.fori_loop(0, num_cycles, cycle, (assignment, corrections))
