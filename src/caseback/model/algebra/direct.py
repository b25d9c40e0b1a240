"""What a metric reads off the final stream: the direction along which direct effects are measured.

    metric = sum_v a_v logit_v = final_norm(x) u + b,    u = scale * sum_v a_v W_U[:, v],  b = scale * sum_v a_v b_U[v]

x is the last stream at the metric's position. With the final norm's denominator held at a run's value, each component's
write has a share of the metric, what no write contributes is the biases' share, and the shares sum to the metric
(before any soft-cap of the logits). One pass gives all of it, and only the metric's position is unembedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.algebra.decompose import Row, rows_of, write_sites
from caseback.model.algebra.readout import Readout, picked, readout
from caseback.model.algebra.under_edits import END, expect_unedited_logits
from caseback.model.algebra.writes import attention_branch, mlp_branch
from caseback.model.anatomy.coerce import widest
from caseback.model.anatomy.dense import weight_matrix, wide_bias, wide_matrix
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.anatomy.stream import expect_sums
from caseback.model.graph.units import Component, Neuron, site_of
from caseback.model.running.edit import apply_edits
from caseback.model.running.edits import Edit
from caseback.model.running.frames import batch_frame
from caseback.model.running.metrics import Bound, Metric, expect_logits
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.targets import warn_of_spaces
from caseback.model.running.tokens import Tokens
from caseback.model.running.verify import under_edits

LAST = ("resid_post", -1)


@dataclass(frozen=True, eq=False)
class Direction:
    """A metric of some prompts as a direction in the normed stream.

    Attributes
    ----------
    vectors
        (batch, d_model), u for each prompt.
    unembed_bias
        (batch,), b for each prompt.
    pos
        The metric's position, as it was given.
    """

    model: Model
    metric: Metric
    bound: Bound
    pos: int | Tensor
    vectors: Float[Tensor, "batch d_model"]
    unembed_bias: Float[Tensor, " batch"]

    def at(self, x: Float[Tensor, "batch pos *rest"], tokens: Tokens) -> Float[Tensor, "batch *rest"]:
        """An activation at the metric's position."""
        return picked(x, tokens, self.pos)

    def stream(self, run: Run) -> Float[Tensor, "batch d_model"]:
        """An unedited run's last stream at the metric's position, in float32 at least."""
        stream = at_least_float32(self.at(run[LAST], run.tokens))
        warn_of_spaces(
            self.model.anatomy, self.metric.target, self.metric.foil, len(stream), lambda b: self._logits(stream[b])
        )
        return stream

    def reading(self, stream: Float[Tensor, "batch d_model"]) -> Readout:
        """This direction's readout, with the final norm's denominator held at its value for ``stream``."""
        return readout(self.model, self.vectors[:, None], stream)

    def constant(self, reading: Readout) -> Float[Tensor, " batch"]:
        """The part of the metric that does not depend on the stream: the final norm's bias and the unembedding's."""
        return reading.constant[:, 0] + self.unembed_bias

    @torch.no_grad()
    def measured(self, stream: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        """The metric before any soft-cap, by the model's own modules; rows may repeat the batch of prompts."""
        x = self._logits(stream)
        rows = torch.arange(len(x), device=x.device) % len(self.vectors)
        if self.bound.vocab is not None:
            x = x.gather(-1, self.bound.vocab.to(x.device)[rows])
        return self.bound.value(x, rows)

    @torch.no_grad()
    def _logits(self, stream: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row vocab"]:
        anatomy = self.model.anatomy
        x = stream.to(self.model.dtype)
        x = under_edits(anatomy, END, x if anatomy.final_norm is None else anatomy.final_norm(x))
        for module in (anatomy.unembed_project, anatomy.unembed):
            x = x if module is None else module(x)
        return x.to(stream.device) * anatomy.logit_scale

    def repeated(self, times: int) -> Direction:
        """The same direction for the whole batch repeated so many times, as in ``side_by_side``."""
        pos = self.pos.repeat(times) if isinstance(self.pos, Tensor) and self.pos.ndim else self.pos
        vectors, bias = self.vectors.repeat(times, 1), self.unembed_bias.repeat(times)
        return Direction(self.model, self.metric, self.bound, pos, vectors, bias)


def direction_of(model: Model, tokens: Tokens, metric: Metric) -> Direction:
    """A metric as a direction.

    Raises
    ------
    CasebackError
        For a metric that is not linear in the logits, or that reads more than one position.
    EditError
        For a model under edits of its logits.
    """
    if not isinstance(metric, Metric) or not isinstance(metric.pos, int | Tensor):
        raise CasebackError(
            "logit attribution needs a metric that reads one position, such as cb.logit_diff(target, foil)"
        )
    expect_logits(metric, "a direct effect")
    expect_sums(model.anatomy, "a direct effect")
    expect_unedited_logits(model.anatomy, "a direct effect")
    anatomy, bound = model.anatomy, metric.on(tokens, model.anatomy)
    weights, vocab = _linear_weights(bound, metric, len(tokens), model)
    matrix = weight_matrix(anatomy.unembed).detach()
    bias = wide_bias(anatomy.unembed, anatomy.device)
    if vocab is None:
        matrix = at_least_float32(matrix).to(anatomy.device)
        vectors = weights.to(matrix) @ matrix.T
    else:
        columns = at_least_float32(matrix.T[vocab.to(matrix.device)]).to(anatomy.device)
        vectors = torch.einsum("bk,bkd->bd", weights.to(columns), columns)
    if anatomy.unembed_project is not None:
        vectors = vectors @ wide_matrix(anatomy.unembed_project, anatomy.device).T
    of_bias = vectors.new_zeros(len(tokens))
    if bias is not None:
        of_bias = (weights.to(vectors) * (bias if vocab is None else bias[vocab])).sum(-1)
    scale = anatomy.logit_scale
    return Direction(model, metric, bound, metric.pos, vectors * scale, of_bias * scale)


def _linear_weights(
    bound: Bound, metric: Metric, batch: int, model: Model
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"] | None]:
    """A metric's weight on each vocabulary entry that it reads (None: all), by differentiating it."""
    width = model.anatomy.d_logits if bound.vocab is None else bound.vocab.shape[1]
    rows = torch.arange(batch, device=model.device)

    def value_and_weights(logits: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            logits = logits.clone().requires_grad_()
            value = bound.value(logits, rows)
            if not value.requires_grad:
                return value, torch.zeros_like(logits)
            return value.detach(), torch.autograd.grad(value.sum(), logits)[0]

    wide = widest(model.device)
    probe = torch.linspace(-3, 5, batch * width, dtype=wide, device=model.device).sin().view(batch, width)
    at_zero, weights = value_and_weights(torch.zeros_like(probe))
    linear = torch.allclose(at_zero, torch.zeros_like(at_zero), atol=1e-9)
    # in both directions, since a maximum or a rectifier is linear on one side
    for logits in (probe, -probe):
        value, again = value_and_weights(logits)
        linear &= torch.allclose(again, weights, atol=1e-6)
        linear &= torch.allclose(value, (weights * logits).sum(-1).to(value), atol=1e-4)
    if not linear:
        raise CasebackError(
            f"the metric {metric.name!r} is not linear in the logits, so it is not a sum of components' shares: "
            "use cb.logit or cb.logit_diff"
        )
    return weights, bound.vocab


def writes_run(model: Model, tokens: Tokens, also: Sequence[Any] = ()) -> Run:
    """A run that reads every component's write, and the sites ``also``."""
    return execute(model.anatomy, tokens, read=[*write_sites(model), *also], logits=False)


def shares_of(direction: Direction, run: Run, reading: Readout) -> tuple[list[Row], Float[Tensor, "component batch"]]:
    """Every component's share in computation order, and the biases' share last.

    ``run`` has read ``write_sites``; ``reading`` may be another run's, at whose final norm the shares are then held.
    """
    rows: list[Row] = []
    values: list[Tensor] = []
    for names, parts in rows_of(direction.model, run, direction.pos, reading.of, reading.of_heads):
        rows += names
        values.append(parts[..., 0])
    rows.append(("bias", "bias", -1, -1))
    return rows, torch.cat([*values, direction.constant(reading)[None]])


def direct_effects(
    direction: Direction, run: Run, reading: Readout, chosen: Sequence[Component], edits: Sequence[Edit]
) -> Float[Tensor, "component batch"]:
    """What the metric would lose if components were edited and nothing reacted: neither later parts nor any norm.

    ``run`` has read the sites where the components are cut. For zero ablation this is the component's share, for others
    its share minus that of what is put in its place.
    """
    effects: list[Tensor | None] = [None] * len(chosen)
    for site in dict.fromkeys(map(site_of, chosen)):
        mine = [i for i, c in enumerate(chosen) if site_of(c) == site]
        lost = _lost(direction, run, reading, site, [edits[i] for i in mine])
        for i in mine:
            effects[i] = lost if chosen[i][1] is None else lost[:, chosen[i][1]]
    return torch.stack([x for x in effects if x is not None])


def _lost(
    direction: Direction, run: Run, reading: Readout, site: tuple[str, int], edits: Sequence[Edit]
) -> Float[Tensor, "batch *unit"]:
    """What a layer's heads, neurons or MLP lose of their shares when all edits are made."""
    x, first = run[site], np.array([at for at, _ in run.tokens.extents])
    owned = [(0, edit) for edit in edits]
    # heads do not read one another, so all of a layer's edits are made at once
    new = apply_edits(owned, x.flatten(0, 1), batch_frame(run.tokens), Site(*site), lambda rows: first[rows.at[1]])
    change = direction.at(x - new.view_as(x), run.tokens)
    name, layer = site
    if name == "mlp_out":
        return reading.of(change)[..., 0]
    at = direction.at(x, run.tokens)
    if name == "z":
        return reading.of_heads(attention_branch(run.anatomy, layer, at), change)[..., 0]
    return reading.of_neurons(mlp_branch(run.anatomy, layer, at), change)[..., 0]


def row_of(component: Component, rows: Sequence[Row]) -> int:
    """The row in which a component's write is counted; a neuron's is in its MLP's row."""
    layer, index = component
    wanted = ("mlp", layer, -1) if index is None or isinstance(component, Neuron) else ("head", layer, index)
    return next(i for i, (_, kind, *at) in enumerate(rows) if (kind, *at) == wanted)


def direction_attrs(direction: Direction, metric: Metric, **more: Any) -> dict[str, Any]:
    """The attributes about the metric that every result along a direction has."""
    return {
        "metric": metric.name,
        "target": metric.target,
        "foil": metric.foil,
        "metric_pos": metric.pos,
        "softcap": direction.model.anatomy.logit_softcap,
        **more,
    }
