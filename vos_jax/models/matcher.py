"""The aligned matcher: assigns proposals to objects by aligned similarity and overlap (docs/method.md)."""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from vos_jax import user_code
from vos_jax.models import alignment as alignment_lib
from vos_jax.models import config as config_lib
from vos_jax.models import matching as matching_lib
from vos_jax.models import templates as templates_lib
from vos_jax.typing import Array, Bool, Float


class Match(flax.struct.PyTreeNode):
    """The assignment of P proposals to N objects, and the scores that it was made from."""

    attention: Float[Array, "N P S S"] | None  # of the alignment
    similarity: Float[Array, "N P"]
    iou: Float[Array, "N P"]
    cost: Float[Array, "N P"]
    null_cost: Float[Array, "N"]
    assignment: Float[Array, "N P+1"]  # the last column: no proposal


class AlignedMatcher(nn.Module):
    """Runs the alignment (`align`), then the cost and the matching layer (`assign`).

    Attributes:
      config: alignment, matching layer and the data set whose lambda is used.
      datasets: data sets with a lambda of their own; used by `init` only.
    """

    config: config_lib.ModelConfig
    datasets: tuple[str, ...] = ("default",)

    def setup(self) -> None:
        c = self.config
        self.projection = nn.Dense(c.match_size, dtype=c.compute_dtype)
        self.log_temperature = self.param("log_temperature", nn.initializers.constant(-2.3), ())
        self.null_cost = self.param("null_cost", nn.initializers.constant(-0.25), ())
        self.lambda_logit = self.param(
            "lambda_logit", lambda _: {name: jnp.zeros(()) for name in self.datasets}
        )

    def __call__(
        self,
        template: templates_lib.Template,
        regions: Float[Array, "P S Ce"],
        iou: Float[Array, "N P"],
        object_valid: Bool[Array, "N"],
        proposal_valid: Bool[Array, "P"],
        *,
        soft: bool,
    ) -> Match:
        """Assigns proposals to objects.

        Args:
          template: of N objects.
          regions: the proposals' embeddings on the template's grid.
          iou: mask IoU of each object's previous mask with each proposal.
          object_valid, proposal_valid: places that hold an object or a proposal.
          soft: keep the layer's soft assignment, as in training; else each object takes its best proposal.
        """
        similarity, attention = self.align(template, regions)
        match = self.assign(similarity, iou, object_valid, proposal_valid, soft=soft)
        return match.replace(attention=attention)

    def align(
        self, template: templates_lib.Template, regions: Float[Array, "P S Ce"]
    ) -> tuple[Float[Array, "N P"], Float[Array, "N P S S"] | None]:
        """Returns the similarity of every template and region after alignment, and the attention."""
        return alignment_lib.score_all(
            alignment_lib.resolve(self.config.alignment),
            self.projection(template.vectors),
            template.weights,
            self.projection(regions),
            jnp.exp(self.log_temperature),
        )

    def assign(
        self,
        similarity: Float[Array, "N P"],
        iou: Float[Array, "N P"],
        object_valid: Bool[Array, "N"],
        proposal_valid: Bool[Array, "P"],
        *,
        soft: bool,
    ) -> Match:
        """Runs the matching layer on the cost of similarity and IoU. Arguments as for `__call__`."""
        c = self.config
        layer = matching_lib.MATCHINGS[c.matching] if isinstance(c.matching, str) else c.matching
        cost = matching_lib.cost(similarity, iou, self.lambda_logit[c.dataset])
        null_cost = jnp.broadcast_to(self.null_cost, object_valid.shape)
        # The gradient through the soft masks only lowers the null cost: `losses.presence_loss` trains it.
        detached = jax.lax.stop_gradient(null_cost)
        problem = cost, detached, object_valid, proposal_valid
        if isinstance(c.matching, str):
            assignment = layer(*problem, config=c.matching_options)
        else:
            assignment = user_code.call("model.matching", layer, *problem, config=c.matching_options)
            wanted = {"assignment [N, P + 1]": (cost.shape[0], cost.shape[1] + 1)}
            user_code.check_shapes("model.matching", dict.fromkeys(wanted, assignment), wanted)
        return Match(
            attention=None,
            similarity=similarity,
            iou=iou,
            cost=cost,
            null_cost=null_cost,
            assignment=assignment if soft else matching_lib.hard(assignment),
        )
