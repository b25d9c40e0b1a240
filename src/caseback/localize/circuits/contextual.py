"""Contextual decomposition for Transformers: what a writer made, followed apart through every layer (CD-T, B.41).

    x = rel + irrel         at the source  rel = its write less what it writes in the counterfactual
    norm, W, pattern v      act on both, denominators and patterns held; a bias goes by |rel| : |irrel|
    act                     rel' = act(rel + irrel) - act(irrel),    irrel' = act(irrel)

Each step keeps rel + irrel = x, so that no part is lost on the way; since x is known only rel is carried. All sources
go side by side, as many as the budget holds. Unlike published code this has no step that gives all of a number whose
parts have opposite signs to the larger part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, SiteAbsent, did_you_mean
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.machinery.writes import changes, sites_of_writes
from caseback.localize.circuits.selecting import name_of_reader
from caseback.model.algebra.direct import direction_of
from caseback.model.algebra.under_edits import (
    END,
    QUERIES,
    STARTS,
    attended,
    expect_followed,
    pushed_through_end,
)
from caseback.model.algebra.weights import Weights
from caseback.model.algebra.writes import Branch, attention_branch, mlp_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.backward.linearised import sites, value_slopes
from caseback.model.graph.graph import Graph
from caseback.model.prompts.copies import repeated
from caseback.model.prompts.per_token import expect_metric
from caseback.model.prompts.run_pair import run_pair
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike
from caseback.model.running.verify import under_edits

ACTIVATIONS = ("removed", "shapley")
Parts = Float[Tensor, "writer batch pos d_model"]


@technique(
    role="decomposition",
    entry=("3.2.21", "B.41"),
    citation="Hsu et al. 2024",
    cost="2 forwards + for each writer the linear maps of one",
)
def contextual_decomposition(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    *,
    activation: str = "removed",
    inputs: tuple[str, ...] = ("embed",),
    batch_size: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Follow what each writer wrote through the model: its part of what every later component reads, and of the metric.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned; a writer's relevant part is what it writes on the first less
        what it writes on the second. Corrupt None: all that it writes. (Published code takes the mean over prompts.)
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must be linear in the logits of one
        position.
    activation
        ``"removed"``: what an activation loses without the relevant part, as published code has it; ``"shapley"``: the
        mean of that and of what the relevant part alone makes, by which both parts are treated alike.
    inputs
        As for ``edge_attribution``.
    batch_size
        Prompts at a time, which bounds memory.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``relevance`` (writer, reader, batch): the l1 norm of the relevant part of what a reader reads (queries, keys
        and values before rotation, an MLP's normed input), over all positions, as a share of that of both parts; of the
        logits, the metric's. NaN where a reader does not come after the writer. ``effect`` (writer, batch): the part of
        the metric that is relevant, along all paths on which patterns and denominators stand still.
        ``relevance_direct`` and ``effect_direct``: the same of the writer's own write, without what others make of it.

    Raises
    ------
    TokensError
        For counterfactuals that are not token-aligned.
    SiteAbsent
        For mixtures of experts, latent attention, and MLPs that are not an activation between two maps.
    CasebackError
        For an unknown activation, or a metric that is not linear in the logits.
    EditError
        For a model under edits that the decomposition does not follow.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> parts = contextual_decomposition(model, *pair, cb.logit_diff(" Mary", " John"))
    >>> parts.relevance.dims, parts.effect.dims, float(parts.relevance.max()) <= 1
    (('writer', 'reader', 'batch'), ('writer', 'batch'), True)
    """
    metric = expect_metric(metric)
    if activation not in ACTIVATIONS:
        raise CasebackError(f"activation {activation!r} is unknown. {did_you_mean(activation, ACTIVATIONS)}")
    batch_size = limit("attribution_prompts", given=batch_size)
    if batch_size < 1:
        raise OutOfRange(f"batch_size={batch_size}: expected at least 1")
    expect_followed(model.anatomy, "a contextual decomposition", STARTS | QUERIES, ("v", "z", "final_norm"))
    graph = Graph.of(model.anatomy, inputs)
    tokens = model.tokens(clean)
    other = None if corrupt is None else model.tokens(corrupt)
    if other is not None and len(other) > len(tokens) == 1:
        tokens = repeated(tokens, len(other))
    gated = any(p.w_gate is not None or p.gate_up is not None for p in model.anatomy.layers)
    reads = [*sites_of_writes(model, graph), *sites(model), *(["mlp_gate"] if gated else [])]
    shares, effects = [], []
    for start in progress_bar(range(0, len(tokens), batch_size), "decomposition", unit="batch", show=progress):
        rows = slice(start, start + batch_size)
        theirs = other if other is None or len(other) == 1 else other[rows]
        mine = metric.of_rows(tokens, rows)
        with torch.no_grad():
            pair = run_pair(model, tokens[rows], theirs, mine, reads, "noising", grad=False)
            whole = _Whole(model, pair.base, graph, activation)
            relevant = -changes(model, pair.base, pair.source, graph).transpose(0, 1)
            numbers = relevant[0].numel() * (model.anatomy.d_mlp // model.d_model + 2)
            some = max(1, limit("circuit_numbers") // numbers)
            parts = [whole.follow(relevant, slice(i, i + some), mine) for i in range(0, len(relevant), some)]
        shares.append(torch.cat([share for share, _ in parts], 1))
        effects.append(torch.cat([effect for _, effect in parts], 1))
    relevance = torch.cat(shares, 2).permute(0, 1, 3, 2)
    relevance = relevance.masked_fill(~graph.exists.to(relevance.device)[..., None], torch.nan)
    coords = {"writer": [str(node) for node in graph.writers]}
    readers = {"reader": [name_of_reader(reader) for reader in graph.readers]}
    about = {"technique": contextual_decomposition, "model": model, "metric": metric.name, "activation": activation}
    about["patch"] = "zero" if corrupt is None else "resample"
    arrays = {}
    for i, suffix in enumerate(("", "_direct")):
        dims, name = ["writer", "reader", "batch"], f"relevance{suffix}"
        arrays[name] = labelled(relevance[i], dims, coords | readers, name=name, **about)
        name = f"effect{suffix}"
        arrays[name] = labelled(torch.cat(effects, 2)[i], ["writer", "batch"], coords, name=name, **about)
    return xr.Dataset(arrays, attrs=arrays["effect"].attrs)


@technique(
    role="circuit finder",
    entry=("3.2.21", "B.41"),
    citation="Hsu et al. 2024",
    cost="as contextual_decomposition",
)
def cdt(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    *,
    activation: str = "removed",
    inputs: tuple[str, ...] = ("embed",),
    batch_size: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """Score every edge by contextual decomposition: the writer's share of what the reader reads, times its effect.

        score(u -> v) = relevance_direct(u -> v) |effect(v)|,        score(u -> logits) = - effect_direct(u)

    The paper goes from the logits back, again and again taking the heads of most relevance to those it has; the product
    puts all such choices on one scale, the metric's, so that ``select(..., how="greedy")`` makes them. Edges are direct
    reads, so the share is that of the writer's own write.

    Parameters
    ----------
    model, clean, corrupt, metric, activation, inputs, batch_size, progress
        As for ``contextual_decomposition``.

    Returns
    -------
    xr.DataArray
        (writer, reader, batch), NaN where there is no edge. Only scores of edges into the logits have a sign: there,
        positive where losing the edge raises the metric, as ``edge_attribution`` has it.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> cdt(model, *pair, cb.logit_diff(" Mary", " John")).dims
    ('writer', 'reader', 'batch')
    """
    options = {"activation": activation, "inputs": inputs, "batch_size": batch_size, "progress": progress}
    parts = contextual_decomposition(model, clean, corrupt, metric, **options)
    graph = Graph.of(model.anatomy, inputs)
    at = {node: i for i, node in enumerate(graph.writers)}
    effect = parts["effect"].values
    fed = [[at[node] for node in graph.fed_by(reader)] for reader, _ in graph.readers[:-1]]
    scores = parts["relevance_direct"].values.copy()
    for r, nodes in enumerate(fed):
        scores[:, r] *= abs(effect[nodes]).sum(0)
    scores[:, -1] = -parts["effect_direct"].values
    coords = {name: parts[name].values for name in ("writer", "reader")}
    about = {key: parts.attrs[key] for key in ("metric", "activation", "patch")}
    about |= {"name": "score", "technique": cdt, "model": model, "direction": "noising"}
    return labelled(
        scores,
        ["writer", "reader", "batch"],
        coords,
        **about,
    )


@dataclass(frozen=True)
class _Whole:
    """A run of some prompts, through which relevant parts are followed."""

    model: Model
    run: Run
    graph: Graph
    activation: str

    def follow(self, sources: Parts, rows: slice, metric: Metric) -> tuple[Tensor, Tensor]:
        """Shares (writer, batch, reader) and effects (writer, batch) of some of the writers' own parts."""
        model, run = self.model, self.run
        own, first = sources[rows], rows.start
        starts = range(first, first + len(own))
        rel = torch.zeros_like(own)
        at = len(self.graph.inputs)
        self._begin(rel, own, starts, range(at))
        alone, shares = rel.clone(), list[Tensor]()  # without what others make of it
        for layer, p in enumerate(model.anatomy.layers):
            heads = range(at, at + p.dims.n_heads)
            read, whole = self._normed(p.attn_norm, "attn_in", layer, rel)
            both = self._read_by_heads(layer, read, whole)
            near = self._read_by_heads(layer, self._normed(p.attn_norm, "attn_in", layer, alone)[0], whole)
            shares.append(torch.stack([both, near]))
            written = self._attention(layer, read, whole)
            self._begin(written, own, starts, heads)
            middle, before = rel + written, alone.clone()
            self._begin(alone, own, starts, heads)
            read, whole = self._normed(p.mlp_norm, "mlp_in", layer, rel if p.parallel else middle)
            near = self._normed(p.mlp_norm, "mlp_in", layer, before if p.parallel else alone)[0]
            shares.append(torch.stack([self._share(part, whole)[..., None] for part in (read, near)]))
            written = self._mlp(layer, read, whole)
            self._begin(written, own, starts, range(heads.stop, heads.stop + 1))
            self._begin(alone, own, starts, range(heads.stop, heads.stop + 1))
            rel, at = middle + written, heads.stop + 1
        direction = direction_of(model, run.tokens, metric)
        norm, stream = model.anatomy.final_norm, at_least_float32(run["resid_post", -1])
        effects = []
        for part in (rel, alone):
            read = part if norm is None else self._through(model.anatomy.norms[norm], part, stream)[0]
            read = pushed_through_end(model.anatomy, read)
            ends = torch.stack([direction.at(x, run.tokens) for x in read])
            effects.append((ends * direction.vectors.to(ends)).sum(-1))
        whole = under_edits(model.anatomy, END, stream if norm is None else model.anatomy.norms[norm](stream))
        total = (direction.at(whole, run.tokens) * direction.vectors.to(whole)).sum(-1)
        effect = torch.stack(effects)
        shares.append(_part(effect, total - effect)[..., None])
        return torch.cat(shares, -1), effect

    def _begin(self, rel: Parts, own: Parts, starts: range, writers: range) -> None:
        """Add to streams what these writers write themselves, each to its own."""
        here = [i for i, writer in enumerate(starts) if writer in writers]
        rel[here] += own[here]

    def _through(self, norm: Any, rel: Parts, x: Tensor) -> tuple[Parts, Tensor]:
        """A norm of the relevant part, and of the whole."""
        out = norm.frozen(rel, norm.scale(x))
        if norm.beta is not None:
            out = out + norm.beta * _part(rel, x - rel)
        return out, norm(x)

    def _normed(self, module: Any, name: str, layer: int, rel: Parts) -> tuple[Parts, Tensor]:
        x = at_least_float32(self.run[name, layer])
        return (rel, x) if module is None else self._through(self.model.anatomy.norms[module], rel, x)

    def _share(self, rel: Tensor, whole: Tensor) -> Float[Tensor, "writer batch *head"]:
        """The l1 norm of the relevant part over that of both, of the prompts' own positions."""
        mask = self.run.tokens.mask.to(rel.device)
        mask = mask.view(*mask.shape, *[1] * (whole.ndim - 2))
        sizes = [(part.abs() * mask).sum((2, -1)) for part in (rel, whole - rel)]
        return sizes[0] / (sizes[0] + sizes[1]).clamp_min(_tiny(rel))

    def _read_by_heads(self, layer: int, read: Parts, whole: Tensor) -> Float[Tensor, "writer batch reader"]:
        weights, shares = Weights(self.model.anatomy), []
        for which in "QKV":
            matrix = at_least_float32(getattr(weights, f"W_{which}")[layer])
            bias = at_least_float32(getattr(weights, f"b_{which}")[layer])
            rel = torch.einsum("vbpd,hde->vbphe", read, matrix)
            total = torch.einsum("bpd,hde->bphe", whole, matrix) + bias
            shares.append(self._share(_with_bias(rel, total, bias), total))
        return torch.cat(shares, -1)

    def _attention(self, layer: int, read: Parts, whole: Tensor) -> Parts:
        run, p, weights = self.run, self.model.anatomy.layers[layer], Weights(self.model.anatomy)
        matrix, bias = at_least_float32(weights.W_V[layer]), at_least_float32(weights.b_V[layer])
        total = torch.einsum("bpd,hde->bphe", whole, matrix) + bias
        v = _with_bias(torch.einsum("vbpd,hde->vbphe", read, matrix), total, bias)
        v = v.repeat_interleave(p.dims.n_heads // v.shape[3], 3) * value_slopes(self.model, run, layer)
        z = torch.einsum("bhqk,vbkhe->vbqhe", attended(run, layer), v)
        branch = attention_branch(self.model.anatomy, layer, run["z", layer])
        return self._written(branch, z.flatten(-2), at_least_float32(run["z", layer]).flatten(-2))

    def _mlp(self, layer: int, read: Parts, whole: Tensor) -> Parts:
        run, weights, p = self.run, Weights(self.model.anatomy), self.model.anatomy.layers[layer]
        gated = p.w_gate is not None or p.gate_up is not None
        rel, total = [], []
        for name, which in (("mlp_pre", "in"), *([("mlp_gate", "gate")] if gated else [])):
            bias = at_least_float32(getattr(weights, f"b_{which}")[layer])
            total.append(at_least_float32(run[name, layer]))
            matrix = at_least_float32(getattr(weights, f"W_{which}")[layer])
            rel.append(_with_bias(read @ matrix, total[-1], bias))
        neurons = at_least_float32(run["mlp_post", layer])
        self._expect(layer, total, neurons)
        irrel = [whole - part for whole, part in zip(total, rel, strict=True)]
        out = neurons - self._activated(layer, irrel)
        if self.activation == "shapley":
            nothing = self._activated(layer, [torch.zeros_like(part) for part in total])
            out = (out + self._activated(layer, rel) - nothing) / 2
        return self._written(mlp_branch(self.model.anatomy, layer, neurons), out, neurons)

    def _activated(self, layer: int, pre: list[Tensor]) -> Tensor:
        act = self.model.anatomy.layers[layer].act
        assert act is not None
        return act(pre[0]) if len(pre) == 1 else act(pre[1]) * pre[0]

    def _expect(self, layer: int, pre: list[Tensor], neurons: Tensor) -> None:
        off = 1e-3 * float(neurons.abs().max())
        act = self.model.anatomy.layers[layer].act
        if act is None or not torch.allclose(self._activated(layer, pre), neurons, rtol=1e-3, atol=off):
            raise SiteAbsent(
                f"this model ({self.model.anatomy.model_type}) has no contextual decomposition: the MLP of layer "
                f"{layer} is not an activation between two maps"
            )

    def _written(self, branch: Branch, rel: Tensor, inner: Tensor) -> Parts:
        """What a branch writes of the relevant part of its units, with its share of the branch's constants."""
        weight = branch.weight.flatten(0, -2)
        out = branch.push((rel @ weight).permute(1, 2, 0, 3)).permute(2, 0, 1, 3)
        whole = branch.push(inner @ weight)
        constant = branch.constant(whole)
        return out if constant is None else out + constant * _part(out, whole - out)


def _tiny(like: Tensor) -> float:
    return torch.finfo(like.dtype).tiny


def _part(rel: Tensor, irrel: Tensor) -> Tensor:
    """|rel| / (|rel| + |irrel|): how much of a constant is the relevant part's; 0 where both are."""
    return rel.abs() / (rel.abs() + irrel.abs()).clamp_min(_tiny(rel))


def _with_bias(rel: Tensor, total: Tensor, bias: Tensor) -> Tensor:
    """A map's relevant part with its share of the bias; ``total`` has all of it."""
    return rel + bias * _part(rel, total - bias - rel)
