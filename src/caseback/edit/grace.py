"""GRACE: a codebook beside one layer, with a ball for each fact. (PRIMER 5.4.26)

    inside the radius of the nearest key, the stored value stands in place of what the MLP writes

A key is what the output matrix reads at the prompt's last token. A new key that is farther from all others than its
radius and theirs gets a ball of its own; one with the same answer makes the nearest ball grow to it; one with another
answer makes both share the distance. Nothing is generalized by design: a paraphrase seldom falls into the ball.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caseback.edit.facts import Fact, spaced
from caseback.edit.knowledge_edit import KnowledgeEdit
from caseback.edit.places import Rows, expect_editable, in_contexts, states_at, write_site
from caseback.edit.rome import listed_facts
from caseback.edit.values import Search, optimized
from caseback.errors import EditError, OutOfRange
from caseback.model.registry import technique
from caseback.model.running.affine import Codebook
from caseback.model.running.model import Model

SEARCH = Search(steps=50, lr=1.0, kl=0.0, decay=0.0, replaced=True, at_end=True)


@technique(
    entry=("5.4.26",),
    citation="Hartvigsen et al. 2023",
    cost="steps passes forward and backward of each fact's last token from the layer on",
)
def grace(
    model: Model,
    facts: Sequence[Fact],
    layer: int,
    *,
    radius: float = 1.0,
    book: KnowledgeEdit | None = None,
    search: Search | None = None,
    check: bool = True,
    progress: bool = False,
) -> KnowledgeEdit:
    """Keep new facts in a codebook that answers where the model comes near a stored key.

    The codebook acts at every token whose key lies in a ball; the reference replaces the prompt's last token alone.

    Parameters
    ----------
    model
        The model, without the codebook that is added to.
    facts
        What is to be written, one after another.
    layer
        Beside whose MLP output matrix the codebook stands; late ones read most of the prompt.
    radius
        Of a new ball, in the distance of keys; 1 in the reference, whose keys have another scale than yours.
    book
        An earlier codebook at this layer, which is added to.
    search
        How values are looked for: 50 steps from zero by default, with no penalty.
    check
        Refuse facts that the model does not know or already answers as asked.
    progress
        Show a progress bar.

    Returns
    -------
    KnowledgeEdit
        With one codebook; all facts of the earlier one and the new ones.

    Raises
    ------
    EditError
        As ``rome``, and for an earlier edit that is no codebook of this layer.

    Notes
    -----
    Entry 5.4.26: Hartvigsen et al. 2023.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> edit = grace(model, [Fact("The capital of {} is", "Italy", "Oslo", "Rome")], 2)
    >>> model.text(edit.on(model).generate(["The capital of Italy is", "The capital of Spain is"], max_new_tokens=1))
    ['The capital of Italy is Oslo', 'The capital of Spain is Madrid']
    """
    if not 0 < radius < float("inf"):
        raise OutOfRange(f"radius is {radius}: expected a number above 0")
    facts, site = listed_facts(facts), write_site(model, layer)
    layer = layer % model.n_layers
    if check:
        expect_editable(model, facts)
    bare = in_contexts(model, facts, ())
    ends = Rows(bare.ids, [len(ids) - 1 for ids in bare.ids])
    keys, start = states_at(model, ends, [("mlp_post", layer), site])
    values, losses = optimized(model, facts, site, start, (), search or SEARCH, progress=progress)
    balls, answers = _book(book, site.name, keys, values)
    for key, value, fact in zip(keys, values.to(keys), facts, strict=True):
        balls, answers = with_key(balls, answers, key, value, spaced(fact.new), radius)
    codebook = Codebook(site.name, *balls)
    earlier = [] if book is None else book.facts
    checks = {"loss": losses.tolist(), "answers": answers}
    return KnowledgeEdit([codebook], [*earlier, *facts], "GRACE", {}, checks)


Balls = tuple[Tensor, Tensor, Tensor]
"""Keys (ball, neuron), values (ball, d_model) and radii (ball,)."""


def with_key(
    balls: Balls, answers: Sequence[str], key: Tensor, value: Tensor, answer: str, radius: float
) -> tuple[Balls, list[str]]:
    """A codebook with one more key.

    Examples
    --------
    >>> empty = (torch.zeros(0, 1), torch.zeros(0, 1), torch.zeros(0))
    >>> balls, answers = with_key(empty, [], torch.tensor([0.0]), torch.tensor([1.0]), " a", 1.0)
    >>> balls, answers = with_key(balls, answers, torch.tensor([1.5]), torch.tensor([2.0]), " b", 1.0)
    >>> balls[2].tolist(), answers
    ([0.75, 0.75], [' a', ' b'])
    """
    keys, values, radii = balls
    own = radius
    if len(keys):
        distance, i = (keys - key).norm(dim=-1).min(0)
        if distance <= radii[i] + radius:
            radii = radii.clone()
            if answers[int(i)] == answer:
                radii[i] = torch.maximum(radii[i], distance)
                return (keys, values, radii), list(answers)
            own = float(distance) / 2
            radii[i] = torch.minimum(radii[i], distance / 2)
    more = radii.new_tensor([own])
    return (torch.cat([keys, key[None]]), torch.cat([values, value[None]]), torch.cat([radii, more])), [
        *answers,
        answer,
    ]


def _book(book: KnowledgeEdit | None, site: str, keys: Tensor, values: Tensor) -> tuple[Balls, list[str]]:
    """An earlier codebook's balls and their answers; none where there is no earlier one."""
    if book is None:
        return (keys[:0], values[:0].to(keys), keys.new_zeros(0)), []
    first = book.edits[0] if len(book.edits) == 1 else None
    answers = book.checks.get("answers")
    if not isinstance(first, Codebook) or first.site != site or not answers:
        raise EditError(f"book is {book!r}: expected what grace gave for the layer of {site!r}")
    return (first.keys.to(keys), first.values.to(keys), first.radii.to(keys)), list(answers)
