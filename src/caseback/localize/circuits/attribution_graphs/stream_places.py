"""Where features of dictionaries meet the stream, by weights alone: what each writes to it, and what each reads of it.

    written = w      read = N^T r      through head h:  read = N^T W_V W_O post^T c r

N and post are the norms before and behind attention or an MLP with their gains and centering, c the family's multiplier
of writes; what features write at ``attn_out`` and ``mlp_out`` is behind both. What depends on a prompt is left out: the
denominators of norms, and the factors of a dictionary that normalizes each token, which is taken at a state of mean 0
and mean square 1.

The stream is counted by the writes that it holds: 2l before layer l, one more behind its attention, two behind its MLP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import ArgumentError, LoadError, SiteAbsent
from caseback.model.algebra.folding import embedded
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.algebra.writes import Branch
from caseback.model.anatomy.dense import wide_matrix
from caseback.model.anatomy.feature_reads import FeatureDictionary
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site, as_site
from caseback.model.anatomy.stream import expect_sums, expect_token_embeddings
from caseback.model.graph.units import head_named
from caseback.model.running.model import Model

STREAM = ("resid_pre", "attn_in", "resid_mid", "mlp_in", "resid_post")
NORMED = ("attn_norm", "mlp_norm")
BRANCHES = ("attn_out", "mlp_out")


@dataclass(frozen=True)
class Features:
    """The features of a dictionary that read at one layer.

    Attributes
    ----------
    dictionary
        The dictionary, whose other features are of other layers where it is a cross-layer transcoder.
    site, target
        Where they read and, at this layer, write.
    first, count
        Which of the dictionary's they are.
    """

    model: Model
    dictionary: FeatureDictionary
    site: Site
    target: Site
    first: int
    count: int

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """Their numbers in the dictionary, a block at a time."""
        end = self.first + self.count
        return ((start, min(start + size, end)) for start in range(self.first, end, size))

    def read_at(self) -> int:
        """How many writes the stream holds that they read."""
        return depth_of(self.model, self.site)

    def written_at(self) -> int:
        """How many writes the stream holds, at least, that holds theirs."""
        return depth_of(self.model, self.target)

    def reads(self, start: int, end: int) -> Float[Tensor, "feature d_model"]:
        """What each reads of the stream."""
        asked = self._asked(start, end)
        rows = at_least_float32(self.dictionary.reads(*asked).detach())
        anatomy, layer = self.model.anatomy, self.site.layer or 0
        p = anatomy.layers[layer]
        module = {"attn_norm": p.attn_norm, "mlp_norm": p.mlp_norm}.get(self.site.name)
        return rows if module is None else anatomy.norms[module].pull(rows, rows.new_ones(1))

    def writes(self, start: int, end: int, depth: int) -> Float[Tensor, "feature d_model"]:
        """What each writes to the stream that holds so many writes."""
        rows = at_least_float32(self.dictionary.writes(*self._asked(start, end)).detach())
        layers = range(self.target.layer or 0, (self.target.layer or 0) + rows.shape[1])
        before = sum(depth_of(self.model, Site(self.target.name, layer)) <= depth for layer in layers)
        return rows[:, :before].sum(1)

    def _asked(self, start: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
        """A state of mean 0 and mean square 1, and these features at it."""
        model, layers = self.model, getattr(self.dictionary, "n_layers", 0)
        state = torch.linspace(-1, 1, model.d_model, dtype=torch.float64)
        state = (state / state.square().mean().sqrt()).to(model.device, model.weights.W_U.dtype)
        features = torch.arange(start, end, device=model.device)
        return state.expand(1, layers, -1) if layers else state[None], torch.zeros_like(features), features


@dataclass(frozen=True)
class Vocabulary:
    """Every token's embedding as a source: what writes to the stream before the first layer."""

    model: Model
    count: int

    def blocks(self, size: int) -> Iterator[tuple[int, int]]:
        """The tokens' ids, a block at a time."""
        return ((start, min(start + size, self.count)) for start in range(0, self.count, size))

    def written_at(self) -> int:
        """Before any other write."""
        return 0

    def writes(self, start: int, end: int, depth: int) -> Float[Tensor, "token d_model"]:
        """What each token's embedding is in the stream."""
        return embedded(self.model.anatomy, torch.arange(start, end, device=self.model.device))


def sources_of(model: Model, one: Any) -> Sequence[Features | Vocabulary]:
    """A dictionary's features as sources, or for ``"embed"`` the vocabulary.

    Raises
    ------
    ArgumentError, LoadError
        As ``features_of``.
    SiteAbsent
        For families whose tokens have no embedding by themselves.
    """
    if not isinstance(one, str) or one != "embed":
        return features_of(model, one, "source")
    expect_sums(model.anatomy, "a weight between tokens and features")
    expect_token_embeddings(model.anatomy)
    return [Vocabulary(model, len(model.weights.W_E))]


def features_of(model: Model, one: Any, side: str) -> list[Features]:
    """A dictionary's features, those of each layer by themselves; ``side`` is what they are to do, read or write.

    Raises
    ------
    ArgumentError
        For what is no dictionary, or one that does not do this at the stream.
    LoadError
        For one of other layers or another width than the model's.
    """
    expect_sums(model.anatomy, "a weight between features")
    if not all(hasattr(one, name) for name in ("facts", "encode", "reads", "writes", "n_features")):
        raise ArgumentError(f"{side}={one!r} is no dictionary of features: expected one dictionary")
    given = one.facts.site, one.facts.target or one.facts.site
    if not all(given):
        raise ArgumentError(f"{one!r} does not say which site it reads: give it Facts(site='resid_post.5')")
    site, target = (as_site(each) for each in given)
    across = getattr(one, "n_layers", 0)
    allowed = (*STREAM, *NORMED, "attn_out") if side == "target" else (*STREAM, *BRANCHES)
    place = site if side == "target" else target
    if place.name not in allowed:
        does = "reads" if side == "target" else "writes"
        raise ArgumentError(f"{one!r} {does} {place}, which is not the stream: expected one of {', '.join(allowed)}")
    if across and across != model.n_layers:
        raise LoadError(f"{one!r} is of {across} layers, the model has {model.n_layers}")
    if not across and (site.layer is None or site.layer != target.layer):
        raise ArgumentError(f"{one!r} reads {site} and writes {target}: expected sites of one layer")
    widths = getattr(one, "d_in", model.d_model), getattr(one, "d_out", model.d_model)
    if widths != (model.d_model,) * 2:
        raise LoadError(f"{one!r} is of widths {widths[0]} and {widths[1]}, the model of {model.d_model}")
    layers = range(across) if across else [site.layer or 0]
    count = one.n_features // len(layers)
    groups = [
        Features(model, one, Site(site.name, layer), Site(target.name, layer), number * count, count)
        for number, layer in enumerate(layers)
    ]
    for each in (s for group in groups for s in (group.site, group.target)):
        list(model.anatomy.sites(each))  # refuses one that the model lacks, by name
    return groups


@dataclass(frozen=True)
class Head:
    """One head as a map of the stream, by its weights.

    Attributes
    ----------
    read_at, written_at
        How many writes the stream holds that it reads, and with its own.
    """

    model: Model
    layer: int
    values: Float[Tensor, "d_model d_z"]
    branch: Branch
    read_at: int
    written_at: int

    def pull(self, rows: Float[Tensor, "feature d_model"]) -> Float[Tensor, "feature d_model"]:
        """Directions read of the stream above it as directions of the stream that it reads."""
        kind = torch.promote_types(rows.dtype, self.values.dtype)
        rows = self.branch.pull(rows.to(kind)) @ self.branch.weight.T.to(kind) @ self.values.T.to(kind)
        norm = self.model.anatomy.layers[self.layer].attn_norm
        return rows if norm is None else self.model.anatomy.norms[norm].pull(rows, rows.new_ones(1))


def head_of(model: Model, name: Any) -> Head:
    """A head by its name.

    Raises
    ------
    ArgumentError
        For what names no head of this model.
    SiteAbsent
        For families whose values are not linear in the stream, or whose heads do not write z W_O.
    """
    try:
        layer, index = head_named(model, name)
    except ArgumentError as error:
        raise ArgumentError(f"through={error}, or None") from None
    anatomy = model.anatomy
    p = anatomy.layers[layer]
    if "v_in" in anatomy.lacks or anatomy.head_site == "head_out":
        why = anatomy.lacks.get("v_in") or f"{anatomy.before_write} stands between z and what they write"
        raise SiteAbsent(f"heads of this model ({anatomy.model_type}) are no matrices: {why}")
    through = {"attn_in", "attn_norm", "v_in", "v", "z", "head_out", "attn_out"}
    expect_in_weights(anatomy, "what a head carries by its weights", through)
    values = at_least_float32(model.weights.W_V[layer].detach())
    own = wide_matrix(p.o, anatomy.device).unflatten(0, (p.dims.n_heads, p.d_z))[index]
    post = None if p.attn_post_norm is None else anatomy.norms[p.attn_post_norm]
    branch = Branch(own, None, anatomy.residual_scale, post, None)
    above = depth_of(model, Site("attn_out", layer))
    value = values[index * len(values) // p.dims.n_heads]
    return Head(model, layer, value, branch, depth_of(model, Site("attn_in", layer)), above)


def depth_of(model: Model, site: Site) -> int:
    """How many writes the stream holds at a site; behind a branch, in which its write is the last."""
    layer = site.layer or 0
    parallel = model.anatomy.layers[layer].parallel
    within = {"resid_pre": 0, "attn_in": 0, "attn_norm": 0, "resid_mid": 1, "mlp_out": 2, "resid_post": 2}
    within |= {"attn_out": 2 if parallel else 1} | dict.fromkeys(("mlp_in", "mlp_norm"), 0 if parallel else 1)
    return 2 * layer + within[site.name]
