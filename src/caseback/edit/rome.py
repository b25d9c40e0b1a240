"""ROME: one fact written into one MLP's output matrix, exactly at one key. (PRIMER 5.4.26)

    W' = W + (v* - W k*) (C^-1 k*)^T / (k* . C^-1 k*)

k* is what the matrix reads at the subject's last token, averaged over contexts, and v* the value there under which the
model gives the new answer. As published, direction and divisor come from two keys, the mean one and the bare prompt's;
the edit then holds at the bare prompt alone, and some edits break the model. One key everywhere is the default here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.edit.closed_forms import least, two_keys
from caseback.edit.facts import Fact
from caseback.edit.key_moments import KeyMoments
from caseback.edit.knowledge_edit import KnowledgeEdit
from caseback.edit.places import expect_editable, in_contexts, sampled_contexts, states_at, write_site
from caseback.edit.values import Search, optimized
from caseback.errors import EditError
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.running.affine import SideTerm
from caseback.model.running.model import Model

CONTEXTS = (5,) * 10 + (10,) * 10


@technique(
    entry=("5.4.26",),
    citation="Meng et al. 2022; Gupta et al. 2024",
    cost="steps x passes forward and backward of contexts x facts, from the edited layer and the subject on",
)
def rome(
    model: Model,
    facts: Sequence[Fact],
    layer: int,
    *,
    moments: KeyMoments | None = None,
    ridge: float = 0.0,
    published: bool = False,
    contexts: Sequence[str] | None = None,
    search: Search | None = None,
    check: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> list[KnowledgeEdit]:
    """Edit single facts, each by an edit of its own.

        dW = (v* - W k*) (C^-1 k*)^T / (k* . C^-1 k*)

    Parameters
    ----------
    model
        The model; it may stand under earlier edits, which then count as its own.
    facts
        What is to be written. Their values are looked for together, and each edit is that of its fact alone.
    layer
        Whose MLP output matrix is edited.
    moments
        C, from ``key_moments``. None: the update without C^-1, as many published settings have it.
    ridge
        Added to C's diagonal, as a share of its mean; 0 as in the reference.
    published
        Direction from the mean key, residual and divisor from the bare prompt's, as the reference does.
    contexts
        Texts to put before the prompts; by default 20 that the model writes, 10 of 5 tokens and 10 of 10.
    search
        How values are looked for; the reference's settings by default.
    check
        Refuse facts that the model does not know or already answers as asked.
    seed
        Same seed, same result. It draws the contexts.
    progress
        Show a progress bar.

    Returns
    -------
    list of KnowledgeEdit
        One a fact, each with one side term of rank 1. That an edit succeeds at a layer does not say that the fact was
        stored there (Hase et al. 2023).

    Raises
    ------
    EditError
        For a fact that the model does not know, with its rank, or a layer without one MLP output matrix.

    Notes
    -----
    Entry 5.4.26: Meng et al. 2022; one key everywhere: Gupta et al. 2024.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> fact = Fact("The capital of {} is", "Italy", "Oslo", "Rome")
    >>> edit, = rome(model, [fact], 0, contexts=["The dog ran."])
    >>> model.text(edit.on(model).generate(fact.text, max_new_tokens=1))[0]
    'The capital of Italy is Oslo'
    """
    facts, site = listed_facts(facts), write_site(model, layer)
    layer = layer % model.n_layers
    if check:
        expect_editable(model, facts)
    texts = sampled_contexts(model, CONTEXTS, seed=seed) if contexts is None else list(contexts)
    keys, written = keys_in(model, facts, layer, texts, bare_share=1 / (1 + len(texts)))
    own, start = keys_in(model, facts, layer, (), bare_share=1.0)
    delta, losses = optimized(model, facts, site, start, texts, search or Search(), progress=progress)
    target = start + delta.to(start)
    whitened = (lambda k: k) if moments is None else (lambda k: moments.solved(layer, k, ridge))
    if published:
        right, residual = two_keys(own, whitened(keys)), target - start
    else:
        right = torch.cat([least(k[None], w[None]) for k, w in zip(keys, whitened(keys), strict=True)])
        residual = target - written
    norms = residual.norm(dim=-1) * right.norm(dim=-1)
    name = f"ROME{' as published' if published else ''}{'' if moments is not None else ' without C'}"
    return [
        KnowledgeEdit(
            [SideTerm(site.name, residual[i : i + 1], right[i : i + 1])],
            [fact],
            name,
            {layer: keys[i : i + 1]},
            {"loss": float(losses[i]), "norm": float(norms[i])},
        )
        for i, fact in enumerate(facts)
    ]


def listed_facts(facts: Sequence[Fact]) -> list[Fact]:
    """Facts as a list of one or more."""
    facts = list(facts)
    if not facts or not all(isinstance(fact, Fact) for fact in facts):
        raise EditError(f"facts are {facts!r}: expected Fact(prompt, subject, new, true), one or more")
    return facts


@checked
def keys_in(
    model: Model, facts: Sequence[Fact], layer: int, contexts: Sequence[str], *, bare_share: float
) -> tuple[Float[Tensor, "fact neuron"], Float[Tensor, "fact d_model"]]:
    """What a layer's MLP output matrix reads and writes at each fact's subject, in float64.

    Parameters
    ----------
    model, facts, layer
        As for ``rome``.
    contexts
        Texts before the prompts; what is read there is averaged.
    bare_share
        The share of the bare prompt in the average.
    """
    site = write_site(model, layer)
    keys, written = states_at(model, in_contexts(model, facts, contexts), [("mlp_post", layer), site])
    if not contexts:
        return keys, written
    weights = torch.full((1 + len(contexts),), (1 - bare_share) / len(contexts)).to(keys)
    weights[0] = bare_share
    mean = lambda x: torch.einsum("c,fcd->fd", weights, x.unflatten(0, (len(facts), -1)))  # noqa: E731
    return mean(keys), mean(written)
