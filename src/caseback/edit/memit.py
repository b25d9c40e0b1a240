"""Many facts at once, over several layers: MEMIT, EMMET and AlphaEdit. (PRIMER 5.4.26)

    z* = the stream behind the last edited layer under which the model gives the new answer
    layer by layer:  R = (z* - z now) / (layers left),   dW = R^T A

A follows from the keys of all facts and from C (``closed_forms``): weighed against C (MEMIT), exact (EMMET), or inside
the directions that keys hardly use (AlphaEdit). How much of a fact's residual it writes at the fact's own key k is

    written = k . A's row        one fact: k C^-1 k / (k C^-1 k + weight),   AlphaEdit |P k|^2 / (|P k|^2 + ridge)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.edit.closed_forms import in_null_space, least
from caseback.edit.facts import Fact
from caseback.edit.key_moments import KeyMoments
from caseback.edit.knowledge_edit import KnowledgeEdit, joined
from caseback.edit.places import expect_editable, in_contexts, sampled_contexts, states_at, write_site
from caseback.edit.rome import keys_in, listed_facts
from caseback.edit.values import Search, optimized
from caseback.errors import EditError, OutOfRange
from caseback.jobs.warned import warn
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.running.affine import SideTerm
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model

CONTEXTS = (10,) * 5
SEARCH = Search(clamp=0.75)
LITTLE = 0.5
"""The mean written share below which an edit warns."""

_Read = Callable[[int, Tensor], Tensor]
"""From a layer and its keys (fact, neuron) to what the change of its matrix reads, (fact, neuron)."""


@technique(
    entry=("5.4.26",),
    citation="Meng et al. 2023",
    cost="steps x passes forward and backward of contexts x facts behind the last edited layer, then a solve a layer",
)
def memit(
    model: Model,
    facts: Sequence[Fact],
    layers: Sequence[int],
    *,
    moments: KeyMoments,
    weight: float = 15_000.0,
    ridge: float = 0.0,
    contexts: Sequence[str] | None = None,
    search: Search | None = None,
    values: Float[Tensor, "fact d_model"] | None = None,
    check: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> KnowledgeEdit:
    """Edit many facts at once, the change spread over several layers and weighed against the keys of a corpus.

        dW = R K^T (weight C + K K^T)^-1

    Parameters
    ----------
    model
        The model; it may stand under earlier edits.
    facts
        What is to be written.
    layers
        Whose MLP output matrices are edited, in any order.
    moments
        C of these layers, from ``key_moments``.
    weight
        How many old keys C stands for: 15,000 in the reference for GPT-J, 20,000 for GPT-2 XL.
    ridge
        Added to C's diagonal, as a share of its mean.
    contexts
        Texts to put before the prompts; by default 5 of 10 tokens that the model writes.
    search
        How values are looked for; the reference's settings by default, with a change of at most 0.75 of the stream.
    values
        What ``stream_values`` found at the last of the layers, for edits that differ in all but that: of several
        methods, or of one fact each. Looked for unless given.
    check
        Refuse facts that the model does not know or already answers as asked.
    seed
        Same seed, same result. It draws the contexts.
    progress
        Show a progress bar.

    Returns
    -------
    KnowledgeEdit
        With one side term a layer, of as many directions as facts. ``checks["written"]`` has, layer by layer, which
        share of what each fact needs there is written at its own key; where the mean is below a half, it warns.

    Raises
    ------
    EditError
        For a fact that the model does not know, with its rank, or a layer without one MLP output matrix.

    Notes
    -----
    Entry 5.4.26: Meng et al. 2023.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.edit import key_moments, relation_facts
    >>> model = cb.load("meadow")
    >>> moments = key_moments(model, [f"{fact.text} {fact.true}." for fact in relation_facts("capital")], [0, 1])
    >>> facts = [Fact("The capital of {} is", c, "Oslo", t) for c, t in [("Italy", "Rome"), ("Spain", "Madrid")]]
    >>> memit(model, facts, [0, 1], moments=moments, weight=10.0, ridge=1e-2, contexts=["The dog ran."])
    KnowledgeEdit(MEMIT: 2 facts; 2 edits)
    """
    if not 0 < weight < float("inf"):
        raise OutOfRange(f"weight is {weight}: expected a number above 0; emmet is exact")

    def read(layer: int, keys: Tensor) -> Tensor:
        return least(keys, moments.solved(layer, keys, ridge), weight)

    edit = _spread(model, facts, layers, "MEMIT", read, contexts, search or SEARCH, values, check, seed, progress)
    _warn_of_little(edit, f"weight={weight:g} holds C for so many old keys: give a smaller one")
    return edit


@technique(
    entry=("5.4.26",),
    citation="Gupta et al. 2024b",
    cost="as memit",
)
def emmet(
    model: Model,
    facts: Sequence[Fact],
    layers: Sequence[int],
    *,
    moments: KeyMoments,
    ridge: float = 0.0,
    contexts: Sequence[str] | None = None,
    search: Search | None = None,
    values: Float[Tensor, "fact d_model"] | None = None,
    check: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> KnowledgeEdit:
    """Edit many facts at once, each exactly: ROME for a batch.

        dW = R (K^T C^-1 K)^-1 K^T C^-1

    Parameters
    ----------
    model, facts, layers, moments, ridge, contexts, search, values, check, progress
        As for ``memit``.
    seed
        Same seed, same result. It draws the contexts.

    Returns
    -------
    KnowledgeEdit

    Raises
    ------
    EditError
        As ``memit``, and for two facts with the same key.

    Notes
    -----
    Entry 5.4.26: Gupta et al. 2024b, "A unified framework for model editing".
    """

    def read(layer: int, keys: Tensor) -> Tensor:
        return least(keys, moments.solved(layer, keys, ridge))

    return _spread(model, facts, layers, "EMMET", read, contexts, search or SEARCH, values, check, seed, progress)


@technique(
    entry=("5.4.26",),
    citation="Fang et al. 2025",
    cost="as memit, and an eigendecomposition of C a layer",
)
def alphaedit(
    model: Model,
    facts: Sequence[Fact],
    layers: Sequence[int],
    *,
    moments: KeyMoments,
    share: float = 0.02,
    ridge: float = 10.0,
    after: KnowledgeEdit | None = None,
    contexts: Sequence[str] | None = None,
    search: Search | None = None,
    values: Float[Tensor, "fact d_model"] | None = None,
    check: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> KnowledgeEdit:
    """Edit many facts at once, inside the directions that the keys of a corpus hardly use.

        x = (P (K K^T + K_p K_p^T) P + ridge I)^-1 P K,   dW = R x^T

    Parameters
    ----------
    model, facts, layers, moments, contexts, search, values, check, progress
        As for ``memit``. A model that stands under an earlier edit is given with that edit in ``after``.
    share
        The share of C's trace that the free directions hold together. The reference has an absolute threshold on
        singular values, 0.02, which is not free of the keys' scale; how many directions are free is in ``checks``.
        It decides what other keys feel of the edit.
    ridge
        10 in the reference; 1 in some of its published settings. It decides how much is written: one fact's share is
        |P k|^2 / (|P k|^2 + ridge), so that a ridge above the squared length of what is left of its key writes less
        than half.
    after
        The edit that the model stands under, whose keys are not to be disturbed.
    seed
        Same seed, same result. It draws the contexts.

    Returns
    -------
    KnowledgeEdit
        ``checks["free"]`` has the number of free directions of each layer, ``checks["written"]`` what ``memit`` has
        there; it warns as that does.

    Raises
    ------
    EditError
        As ``memit``, and where no direction is free.

    Notes
    -----
    Entry 5.4.26: Fang et al. 2025.
    """
    if not 0 < ridge < float("inf"):
        raise OutOfRange(f"ridge is {ridge}: expected a number above 0")
    free = {layer: moments.free(layer, share) for layer in _sorted(model, layers)}

    def read(layer: int, keys: Tensor) -> Tensor:
        past = None if after is None else after.keys.get(layer)
        return in_null_space(keys, free[layer].to(keys), None if past is None else past.to(keys), ridge)

    edit = _spread(model, facts, layers, "AlphaEdit", read, contexts, search or SEARCH, values, check, seed, progress)
    _warn_of_little(edit, f"give a smaller ridge than {ridge:g}, or a larger share than {share:g}")
    checks = {**edit.checks, "free": [basis.shape[1] for basis in free.values()]}
    return KnowledgeEdit(edit.edits, edit.facts, edit.method, edit.keys, checks)


@checked
def stream_values(
    model: Model,
    facts: Sequence[Fact],
    layer: int,
    *,
    contexts: Sequence[str] | None = None,
    search: Search | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Float[Tensor, "fact d_model"]:
    """What, added to the stream behind a layer at each fact's subject, makes the model give the new answer.

    Facts do not meet, so a row is what its fact alone would have: looked for once, it serves several methods and edits
    of single facts.

    Parameters
    ----------
    model, facts, contexts, search, progress
        As for ``memit``.
    layer
        The last of the layers that will be edited.
    seed
        Same seed, same result. It draws the contexts.

    Returns
    -------
    Tensor
        (fact, d_model), for ``memit``, ``emmet`` and ``alphaedit`` as ``values``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> fact = Fact("The capital of {} is", "Italy", "Oslo", "Rome")
    >>> tuple(stream_values(model, [fact], 1, contexts=[]).shape) == (1, model.d_model)
    True
    """
    facts, end = listed_facts(facts), Site("resid_post", _sorted(model, [layer])[0])
    texts = sampled_contexts(model, CONTEXTS, words=True, seed=seed) if contexts is None else list(contexts)
    (start,) = states_at(model, in_contexts(model, facts, ()), [end])
    return optimized(model, facts, end, start, texts, search or SEARCH, progress=progress)[0]


def _sorted(model: Model, layers: Sequence[int]) -> list[int]:
    at = sorted({layer % model.n_layers for layer in layers if write_site(model, layer)})
    if not at:
        raise EditError("layers names none: expected one at least")
    return at


def _spread(
    model: Model,
    facts: Sequence[Fact],
    layers: Sequence[int],
    method: str,
    read: _Read,
    contexts: Sequence[str] | None,
    search: Search,
    values: Tensor | None,
    check: bool,
    seed: int,
    progress: bool,
) -> KnowledgeEdit:
    facts, at = listed_facts(facts), _sorted(model, layers)
    if check:
        expect_editable(model, facts)
    texts = sampled_contexts(model, CONTEXTS, words=True, seed=seed) if contexts is None else list(contexts)
    end, bare = Site("resid_post", at[-1]), in_contexts(model, facts, ())
    (start,) = states_at(model, bare, [end])
    checks: dict[str, Any] = {}
    if values is None:
        values, losses = optimized(model, facts, end, start, texts, search, progress=progress)
        checks["loss"] = losses.tolist()
    if values.shape != start.shape:
        raise EditError(f"values have shape {tuple(values.shape)}: expected {tuple(start.shape)}, a row for each fact")
    target = start + values.to(start)
    edits: list[Edit] = []
    keys: dict[int, Tensor] = {}
    written: list[list[float]] = []
    now = model
    for i, layer in enumerate(at):
        keys[layer], _ = keys_in(now, facts, layer, texts, bare_share=0.5 if texts else 1.0)
        (present,) = states_at(now, bare, [end])
        residual = (target - present) / (len(at) - i)
        right = read(layer, keys[layer])
        written.append((in_float64(keys[layer]) * right).sum(-1).tolist())
        edits.append(SideTerm(write_site(model, layer).name, _before_a_norm(now, layer, residual), right))
        now = model.edited(joined(edits))
    (present,) = states_at(now, bare, [end])
    size = values.to(start).norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    checks |= {"missed": ((target - present).norm(dim=-1) / size).tolist(), "written": written}
    return KnowledgeEdit(edits, facts, method, keys, checks)


def _warn_of_little(edit: KnowledgeEdit, instead: str) -> None:
    shares = [share for layer in edit.checks["written"] for share in layer]
    if (mean := sum(shares) / len(shares)) < LITTLE:
        warn(
            f"{edit.method} writes {mean:.0%} of what the facts need at their own keys, so that few of them will hold: "
            f"{instead}",
            stacklevel=4,
        )


def _before_a_norm(model: Model, layer: int, residual: Tensor) -> Tensor:
    """What the matrix must write more for the stream to get it: the residual multiplier divided out.

    A norm behind the matrix is not linear, so there a residual in the stream has no counterpart in closed form.
    """
    if model.anatomy.layers[layer].mlp_post_norm is not None:
        raise EditError(
            f"a norm stands behind layer {layer}'s MLP output matrix ({model.anatomy.model_type}), so a change of the "
            "stream does not say what the matrix should write: edit single facts with rome, before that norm"
        )
    return residual / model.anatomy.residual_scale
