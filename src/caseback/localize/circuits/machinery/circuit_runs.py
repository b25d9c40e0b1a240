"""Prompts on which many circuits run side by side, with what their edges carry where they are cut.

    input_v = stream + sum over edges (u -> v) outside the circuit of  (other_u - u)

``circuits.running`` has the technique, and what other_u can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.machinery.cutting import Cuts, tokens_at
from caseback.localize.circuits.machinery.masks import Masks, placed_all
from caseback.localize.circuits.machinery.optimal_writes import optimal_writes
from caseback.localize.circuits.machinery.writes import sites_of_writes, writes
from caseback.model.arguments import checked
from caseback.model.graph.graph import Graph
from caseback.model.prompts.pairs import pairs
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Bound, Metric, kl
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike, Tokens

ABLATIONS = ("resample", "mean", "mean_by_position", "optimal", "zero")


class CircuitRuns:
    """Prompts on which circuits are run, with what their edges carry where they are cut.

    Attributes
    ----------
    whole
        (batch,) the metric of the model itself.
    empty
        (batch,) the metric with every edge cut.
    """

    def __init__(
        self,
        model: Model,
        graph: Graph,
        clean: PromptsLike,
        corrupt: PromptsLike | None,
        metric: Metric,
        *,
        ablation: str | Float[Tensor, "writer d_model"] = "resample",
        over: PromptsLike | None = None,
        places: Sequence[str] = (),
        positions: Mapping[str, Any] | None = None,
    ):
        if isinstance(ablation, str) and ablation not in ABLATIONS:
            raise CasebackError(f"ablation {ablation!r} is unknown. {did_you_mean(ablation, ABLATIONS)}")
        if isinstance(ablation, str) and ablation == "resample" and corrupt is None:
            raise CasebackError("resampling needs corrupt=, counterfactuals aligned with the clean prompts")
        self.model, self.graph, self.metric = model, graph, metric
        self.tokens = model.tokens(clean)
        other = None
        if corrupt is not None:
            self.tokens, other = pairs(model, self.tokens, corrupt)
        self.places = tokens_at(placed_all(places, positions, self.tokens), self.tokens.lengths.tolist())
        self.against = [other, None if over is None else model.tokens(over), ablation]
        self.cut = self._cut(ablation, other, over)

    def job(self) -> dict[str, Any]:
        """What runs of circuits depend on, for a checkpoint."""
        return {
            "prompts": [self.tokens, *self.against],
            "metric": [self.metric, self.whole],
            "edges": [str(edge) for edge in self.graph.edges],
            "model": self.model,
        }

    def _cut(
        self, ablation: str | Tensor, other: Tokens | None, over: PromptsLike | None
    ) -> Float[Tensor, "writer token d_model"] | Float[Tensor, ""]:
        """What cut edges carry at each own token of each prompt."""
        count, width = int(self.tokens.lengths.sum()), (len(self.graph.writers), self.model.d_model)
        self.optimal = isinstance(ablation, str) and ablation == "optimal"
        if isinstance(ablation, Tensor):
            if ablation.shape != width:
                given = tuple(ablation.shape)
                raise CasebackError(f"constants of shape {given}: expected (writer, d_model), {width}")
            return ablation.to(self.model.device)[:, None].expand(-1, count, -1)
        if ablation == "zero":
            return torch.zeros((), device=self.model.device)
        reference = other if ablation == "resample" else self.tokens if over is None else self.model.tokens(over)
        assert reference is not None
        written = written_in(self.model, self.graph, reference)
        if ablation == "resample":
            return written
        if ablation == "mean_by_position":
            return by_position(written, reference, self.tokens)
        return written.mean(1, keepdim=True).expand(-1, count, -1)

    @cached_property
    def whole(self) -> Float[Tensor, " batch"]:
        return _number(measured(self.model.anatomy, self.tokens, self.metric)[1])

    @cached_property
    def empty(self) -> Float[Tensor, " batch"]:
        return self.metrics(torch.zeros_like(self.graph.exists)[None])[0]

    def metrics(self, masks: Masks, *, progress: bool = False) -> Float[Tensor, "variant batch"]:
        """The metric of each circuit on each prompt; masks are (variant, [place,] writer, reader)."""
        if len(masks) == 0:
            raise OutOfRange("no circuit to run: the list is empty")
        masks = masks[:, None] if masks.ndim == 3 else masks
        if self.optimal:
            return torch.cat([self._optimal(mask) for mask in progress_bar(masks, "circuits", show=progress)])
        # as many prompts as the budget holds with one circuit, then as many circuits beside each other on those
        numbers = len(self.graph.writers) * self.model.d_model * self.tokens.shape[1]
        prompts = max(1, min(len(self.tokens), limit("circuit_numbers") // numbers))
        at_once = max(1, limit("circuit_numbers") // (numbers * prompts))
        chunks = masks.split(at_once)
        rows = [slice(i, i + prompts) for i in range(0, len(self.tokens), prompts)]
        values = []
        with progress_bar(total=len(masks) * len(self.tokens), what="circuits x prompts", show=progress) as bar:
            for chunk in chunks:
                beside = []
                for some in rows:
                    beside.append(self._run(chunk, some, self.cut))
                    bar.update(beside[-1].numel())
                values.append(torch.cat(beside, 1))
        return torch.cat(values)

    def _run(self, masks: Masks, rows: slice, cut: Tensor) -> Float[Tensor, "variant batch"]:
        starts = [0, *self.tokens.lengths.cumsum(0).tolist()]
        own = slice(starts[rows.start], starts[min(rows.stop, len(self.tokens))])
        tokens, metric = self.tokens[rows], self.metric.of_rows(self.tokens, rows)
        copies, metric = tiled(tokens, len(masks)), tiled_metric(metric, tokens, len(masks))
        places = None if masks.shape[1] == 1 else self.places[own]
        cuts = Cuts(self.model, self.graph, masks, cut if cut.ndim == 0 else cut[:, own], places)
        values = measured(self.model.anatomy, copies, metric, edits=cuts.edits())[1]
        return _number(values).view(len(masks), -1)

    def _optimal(self, mask: Bool[Tensor, "place writer reader"]) -> Float[Tensor, "1 batch"]:
        """One circuit with the constants that suit it best."""
        target = kl(self.model.run(self.tokens))
        constants = optimal_writes(
            self.model, self.graph, self.tokens, target, mask, start=self.cut[:, 0], places=self.places
        )
        cut = constants[:, None].expand(-1, int(self.tokens.lengths.sum()), -1)
        return self._run(mask[None], slice(0, len(self.tokens)), cut)


def written_in(model: Model, graph: Graph, tokens: Tokens) -> Float[Tensor, "writer token d_model"]:
    """What every writer writes at every own token of the prompts, padding left out."""
    run = execute(model.anatomy, tokens, read=sites_of_writes(model, graph), logits=False)
    own, count = tokens.mask, int(tokens.lengths.sum())
    written: Tensor | None = None
    at = 0
    for part in writes(model, run, graph):
        written = part.new_empty(len(graph.writers), count, model.d_model) if written is None else written
        written[at : at + len(part)] = part[:, own.to(part.device)] if tokens.padded else part.flatten(1, 2)
        at += len(part)
    assert written is not None
    return written


@checked
def mean_writes(
    model: Model, prompts: PromptsLike, *, inputs: tuple[str, ...] = ("embed",)
) -> Float[Tensor, "writer d_model"]:
    """The mean of what every writer writes, over prompts and their positions: what mean-ablated edges carry."""
    return written_in(model, Graph.of(model.anatomy, inputs), model.tokens(prompts)).mean(1)


def _number(values: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return values.detach().cpu().double()


def by_position(
    written: Float[Tensor, "writer token d_model"], reference: Tokens, tokens: Tokens
) -> Float[Tensor, "writer token d_model"]:
    """The mean write of reference prompts at each position, at the own tokens of other prompts.

    Raises
    ------
    CasebackError
        Where the prompts go on past the longest reference prompt.
    """
    longest = int(reference.lengths.max())
    if longest < int(tokens.lengths.max()):
        raise CasebackError(
            f"the reference prompts have at most {longest} tokens, the prompts up to {int(tokens.lengths.max())}: "
            "their later positions have no mean"
        )
    at, here = (
        torch.cat([torch.arange(n) for n in t.lengths.tolist()]).to(written.device) for t in (reference, tokens)
    )
    total = written.new_zeros(len(written), longest, written.shape[2]).index_add_(1, at, written)
    return (total / torch.bincount(at, minlength=longest)[:, None])[:, here]


def tiled(tokens: Tokens, times: int) -> Tokens:
    """The batch as a whole, repeated a number of times."""
    return Tokens(tokens.ids.repeat(times, 1), tokens.mask.repeat(times, 1), tokens.text * times)


def tiled_metric(metric: Metric, tokens: Tokens, times: int) -> Metric:
    """A metric of a batch as the metric of its tiles."""

    def bind(_: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        bound = metric.bind(tokens, tokenizer, d_vocab)
        columns = None if bound.columns is None else bound.columns.repeat(times)
        vocab = None if bound.vocab is None else bound.vocab.repeat(times, 1)
        return Bound(columns, vocab, lambda x, rows: bound.value(x, rows % len(tokens)))

    return replace(metric, bind=bind)
