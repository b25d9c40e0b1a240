"""Causal scrubbing: give every activation whatever the hypothesis says makes no difference (PRIMER 3.2.31).

    input of node v on prompt x  =  for an edge (u -> v) in the hypothesis:  u scrubbed, on a prompt that agrees with x
                                    in what u is said to compute
                                    for all other edges:                     their writers on a random prompt
    recovered  =  (m(scrubbed) - m(random)) / (m(model) - m(random))

The hypothesis is a circuit, and for some of its nodes one label per prompt: prompts of one label may stand in for one
another there. The graph is unrolled into a tree, so that every path draws its own prompts: two readers of a node need
not see the same scrubbed write. Without labels a node inside must run on x itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, TokensError, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.faithfulness import recovered
from caseback.localize.circuits.machinery.bootstrap import interval
from caseback.localize.circuits.machinery.circuit_runs import tiled, tiled_metric
from caseback.localize.circuits.machinery.writes import heads_of, sites_of_writes, writes
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit, Node
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Apply, Edit
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike, Tokens

Refs = Int[Tensor, " row"]
"""For each row, the prompt that it is about."""
DRAWS = ("each", "one")


@technique(
    role="circuit",
    entry=("3.2.31",),
    citation="Chan et al. 2022",
    cost="1 forward per node of the unrolled tree and sample",
)
def causal_scrubbing(
    model: Model,
    prompts: PromptsLike,
    metric: Metric,
    hypothesis: Circuit,
    *,
    agree: Mapping[str, Sequence[Hashable]] | Mapping[str | Node, Sequence[Hashable]] | None = None,
    draws: str = "each",
    samples: int = 4,
    most: int = 2000,
    inputs: tuple[str, ...] = ("embed",),
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Test a hypothesis by resampling all that it calls irrelevant.

    Parameters
    ----------
    model
        The model.
    prompts
        The distribution: prompts of one length, token-aligned with one another.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It is what should be kept; in the paper,
        the loss. Targets are those of the prompt at the output.
    hypothesis
        The edges that matter.
    agree
        By node of the hypothesis, one label per prompt: what the node is said to compute. It may run on any prompt of
        the same label. A node that is not named runs on the prompt at hand.
    draws
        ``"each"``: every reader of the tree draws a random prompt for its edges outside the hypothesis. ``"one"``: one
        prompt for all of them in a sample, which, without labels, is the circuit with that prompt as counterfactual.
    samples
        How often everything is drawn for each prompt.
    most
        The most nodes that the unrolled hypothesis may have.
    inputs
        As for ``edge_attribution``.
    resamples, level
        Of the bootstrap over prompts.
    seed
        Same seed, same result. It draws the stand-in prompts and the bootstrap's samples.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``metric`` and ``random`` (variant, batch), a variant being a sample; beside them ``whole``, the model's own.
        Attributes ``recovered`` with ``recovered_low`` and ``recovered_high``, and ``nodes``, the tree's size.

    Raises
    ------
    TokensError
        For prompts of several lengths.
    OutOfRange
        For a tree of more than ``most`` nodes.
    CasebackError
        For a hypothesis about another model, a label for a node that it lacks, or a wrong number of labels.

    Notes
    -----
    Behind a norm after attention (Gemma-2) a head's write keeps the denominator of the row in which it is run.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> template = "Friends {A} and {B} found a {thing} at the {place}. {S2} gave it to"
    >>> ioi = cb.tasks.ioi(templates=(template,)).prompts(model, 8)
    >>> everything = Graph.of(model.anatomy).circuit(Graph.of(model.anatomy).exists)
    >>> for hypothesis in (everything, cb.Circuit()):
    ...     print(round(abs(causal_scrubbing(model, ioi.clean, ioi.metric, hypothesis).attrs["recovered"]), 4))
    1.0
    0.0
    """
    if draws not in DRAWS:
        raise CasebackError(f"draws {draws!r} is unknown. {did_you_mean(draws, DRAWS)}")
    if samples < 1 or most < 1:
        raise OutOfRange(f"samples={samples}, most={most}: expected at least 1")
    graph = Graph.of(model.anatomy, inputs)
    tokens = model.tokens(prompts)
    lengths = sorted(set(tokens.lengths.tolist()))
    if len(lengths) > 1:
        raise TokensError(
            f"prompts of {', '.join(map(str, lengths))} tokens: scrubbing puts one prompt's activations in another's "
            "places, so all need one length; scrub each length by itself"
        )
    generator = torch.Generator().manual_seed(seed)
    tree = _Tree(model, graph, tokens, hypothesis, agree or {}, draws == "one", most, generator)
    refs = torch.arange(len(tokens)).repeat(samples)
    random = torch.randint(len(tokens), (len(refs),), generator=generator)
    with progress_bar(what="nodes", show=progress) as tree.bar:
        scrubbed = tree.stream(len(graph.readers) - 1, refs, random)
    nothing = tree.unlike(len(graph.readers) - 1, refs, random, graph.exists[:, -1])
    scrubbed_values, chance = (_metrics(model, tokens, metric, stream, samples) for stream in (scrubbed, nothing))
    whole = measured(model.anatomy, tokens, metric)[1].detach().cpu().double().numpy()
    arrays = [scrubbed_values.mean(0), chance.mean(0), whole]
    if np.isclose(arrays[1].mean(), whole.mean(), rtol=1e-9, atol=0):
        raise CasebackError("the metric is the same on random prompts: there is nothing to recover; give more of them")
    low, high = interval(recovered, *arrays, resamples=resamples, level=level, seed=seed)
    share = float(recovered(*(part.mean() for part in arrays)))
    attrs = {
        "technique": causal_scrubbing,
        "model": model,
        "metric": metric.name,
        "draws": draws,
        "seed": seed,
        "nodes": tree.count,
        "recovered": share,
        "recovered_low": float(low),
        "recovered_high": float(high),
    }
    coords = {"whole": ("batch", whole)}
    variables = {
        name: labelled(value, ["variant", "batch"], coords, **attrs)
        for name, value in (("metric", scrubbed_values), ("random", chance))
    }
    return xr.Dataset(variables, attrs=variables["metric"].attrs)


class _Tree:
    """The hypothesis unrolled: each node's scrubbed write on the prompts asked for."""

    def __init__(
        self,
        model: Model,
        graph: Graph,
        tokens: Tokens,
        hypothesis: Circuit,
        agree: Mapping[Any, Sequence[Hashable]],
        one: bool,
        most: int,
        generator: torch.Generator,
    ):
        self.model, self.graph, self.tokens, self.one = model, graph, tokens, one
        self.mask, self.most, self.generator = graph.mask(hypothesis), most, generator
        listed = {_node(node): self._labels(node, labels) for node, labels in agree.items()}
        self.labels = {graph.writers.index(node): labels for node, labels in listed.items()}
        self.length, self.count = int(tokens.lengths[0]), 0
        self.bar: Any = None
        self.cached: dict[int, Tensor] = {}
        layers = range(model.n_layers)
        self.inputs = [Site(name, layer) for layer in layers for name in ("attn_in", "mlp_in")]
        self.inputs.append(Site("resid_post", model.n_layers - 1))
        run = execute(model.anatomy, tokens, read=[*sites_of_writes(model, graph), *self.inputs], logits=False)
        self.streams = {site: self._own(at_least_float32(run[site.name, site.layer].detach())) for site in self.inputs}
        self.written = torch.stack([self._own(part) for block in writes(model, run, graph) for part in block])
        self.clean = self._clean()

    def _labels(self, node: str | Node, listed: Sequence[Hashable]) -> Sequence[Hashable]:
        known = {writer for w, writer in enumerate(self.graph.writers) if bool(self.mask[w].any())}
        if _node(node) not in known:
            raise CasebackError(
                f"{str(node)!r} writes along no edge of the hypothesis: expected some of "
                f"{', '.join(str(n) for n in sorted(known))[:120]}"
            )
        if len(listed) != len(self.tokens):
            raise CasebackError(f"{len(listed)} labels of {node} for {len(self.tokens)} prompts: give one per prompt")
        return listed

    def _own(self, x: Float[Tensor, "batch pos *unit"]) -> Tensor:
        """Without padding."""
        return x[self.tokens.mask.to(x.device)].unflatten(0, (len(self.tokens), self.length))

    def _clean(self) -> list[bool]:
        """Whether a writer's scrubbed write is its own on the prompt at hand: nothing below it is drawn."""
        clean = [True] * len(self.graph.inputs)
        for w in range(len(self.graph.inputs), len(self.graph.writers)):
            into = [r for r, _ in self._readers(w)]
            exact = bool((self.mask[:, into] == self.graph.exists[:, into]).all())
            below = self.graph.exists[:, into].any(1).nonzero()[:, 0].tolist()
            clean.append(exact and all(clean[b] and b not in self.labels for b in below))
        return clean

    def _readers(self, w: int) -> list[tuple[int, str]]:
        """What a writer reads through: numbers of readers, with their slots."""
        node = self.graph.writers[w]
        return [(r, slot) for r, (other, slot) in enumerate(self.graph.readers) if node in self.graph.fed_by(other)]

    def stream(self, r: int, refs: Refs, random: Refs) -> Float[Tensor, "row pos d_model"]:
        """A reader's scrubbed input."""
        x = self.unlike(r, refs, random)
        for w in self.mask[:, r].nonzero()[:, 0].tolist():
            x = x + (self.value(w, self.agreeing(w, refs), random) - self.written[w, refs])
        return x

    def unlike(
        self, r: int, refs: Refs, random: Refs, cut: Bool[Tensor, " writer"] | None = None
    ) -> Float[Tensor, "row pos d_model"]:
        """A reader's input with all edges outside the hypothesis, or others, carrying random prompts' writes."""
        node = self.graph.readers[r][0]
        name = {"mlp": "mlp_in", "logits": "resid_post"}.get(node.kind, "attn_in")
        site = Site(name, self.model.n_layers - 1 if node.kind == "logits" else node.layer)
        out = (self.graph.exists[:, r] & ~self.mask[:, r] if cut is None else cut).nonzero()[:, 0]
        return self.streams[site][refs] + (self.written[out][:, random] - self.written[out][:, refs]).sum(0)

    def agreeing(self, w: int, refs: Refs) -> Refs:
        """Prompts drawn among those that agree with each in what a writer is said to compute."""
        if w not in self.labels:
            return refs
        labels = self.labels[w]
        same = torch.tensor([[labels[a] == labels[b] for b in range(len(labels))] for a in range(len(labels))])
        return torch.multinomial(same.double()[refs], 1, generator=self.generator)[:, 0]

    def value(self, w: int, refs: Refs, random: Refs) -> Float[Tensor, "row pos d_model"]:
        """A writer's scrubbed write."""
        if self.clean[w]:
            return self.written[w, refs]
        if w in self.cached:
            return self.cached[w]
        self.count += 1
        if self.count > self.most:
            raise OutOfRange(
                f"the hypothesis unrolls into more than most={self.most} nodes: take a smaller circuit, draws='one', "
                "or a larger most"
            )
        if self.bar is not None:
            self.bar.update()
        edits: list[Edit] = []
        node = self.graph.writers[w]
        for r, slot in self._readers(w):
            x = self.stream(r, refs, random if self.one else self.draw(refs))
            edits.append(_put(f"{slot}_in" if slot else "mlp_in", x, self.graph.readers[r][0]))
        written = self._write(node, refs, edits)
        # without labels and with one random prompt, every reader of a node sees the same write: run it once
        if self.one and not self.labels:
            self.cached[w] = written
        return written

    def draw(self, refs: Refs) -> Refs:
        return torch.randint(len(self.tokens), (len(refs),), generator=self.generator)

    def _write(self, node: Node, refs: Refs, edits: list[Edit]) -> Float[Tensor, "row pos d_model"]:
        """What a node writes where its inputs are given."""
        tokens = self.tokens[refs]
        anatomy = self.model.anatomy
        if node.kind == "mlp":
            run = execute(anatomy, tokens, read=[Site("mlp_out", node.layer)], edits=edits, logits=False)
            written = at_least_float32(run["mlp_out", node.layer].detach())
        else:
            site = Site(anatomy.head_site, node.layer)
            run = execute(anatomy, tokens, read=[site], edits=edits, logits=False)
            written = heads_of(self.model, run, node.layer)[:, :, node.index]
        return written[tokens.mask.to(written.device)].unflatten(0, (len(refs), self.length))


def _put(name: str, value: Float[Tensor, "row pos d_model"], node: Node) -> Apply:
    """A reader's input replaced, row by row."""
    rows = value.flatten(0, 1)
    head = None if node.kind == "mlp" else node.index
    return Apply(name, lambda old: rows.view_as(old).to(old), layer=node.layer, head=head)


def _metrics(
    model: Model, tokens: Tokens, metric: Metric, stream: Float[Tensor, "row pos d_model"], samples: int
) -> Float[np.ndarray, "variant batch"]:
    rows = stream.flatten(0, 1)
    edit = Apply("resid_post", lambda old: rows.view_as(old).to(old), layer=model.n_layers - 1)
    copies, tiles = tiled(tokens, samples), tiled_metric(metric, tokens, samples)
    values = measured(model.anatomy, copies, tiles, edits=[edit])[1]
    return values.detach().cpu().double().view(samples, -1).numpy()


def _node(node: str | Node) -> Node:
    return Node.parse(node) if isinstance(node, str) else node
