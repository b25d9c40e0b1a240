"""Superposition (PRIMER 4.2.12): more features than dimensions, as almost orthogonal directions, yet read exactly.

    bag_i = sum_{h < active} f(t_{i-h})                  one head per step back; f: n unit vectors in m < n dimensions
    on_u  = (relu(f_u . bag - low) - relu(f_u . bag - high)) / (high - low)             1 where word u is in the bag
    low = active max_{u != w} f_u . f_w,     high = 1 + (active - 1) min_{u != w} f_u . f_w          (both clipped at 0)

A word outside the bag shows at most ``low``, the others' interference, and a word inside at least ``high``, so that a
pair of neurons tells them apart without error while low < high. The model predicts the word of the bag that comes first
in the list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit, Node
from caseback.organisms.compiled.draft import SHARP, Draft
from caseback.organisms.compiled.organism import Organism, Variable

STEPS = 200
"""How many steps the descent takes; further ones lower the largest interference by no more than a hundredth."""


def superposition(
    features: int = 5, dimensions: int = 2, *, active: int = 1, max_length: int = 9, seed: int = 0
) -> Organism:
    """A model whose words share fewer dimensions than there are words.

    Parameters
    ----------
    features
        n, one per word.
    dimensions
        m, the width of the part of the stream that they share.
    active
        How many of the last words are in the bag.
    max_length
        The longest prompt in words.
    seed
        Same seed, same result. Draws the directions.

    Returns
    -------
    Organism
        Its variable ``"bag"`` is the dictionary: one row per feature, in the stream between the heads and the MLP.

    Raises
    ------
    CasebackError
        If the features interfere too much to be told apart.

    References
    ----------
    Elhage et al. 2022, "Toy models of superposition".

    Examples
    --------
    >>> superposition(5, 2).predict([["f3", "f0", "f4"]])
    [['f3', 'f0', 'f4']]
    >>> superposition(12, 8, active=2).predict([["f3", "f0", "f4", "f7"]])
    [['f3', 'f0', 'f0', 'f4']]
    """
    if active < 1 or max_length < active:
        raise CasebackError(f"active {active}: expected 1 to max_length, which is {max_length}")
    f = directions(features, dimensions, seed=seed)
    low, high = thresholds(f, active)
    if not low < high - 0.01:
        raise CasebackError(
            f"{features} features in {dimensions} dimensions cannot be told apart, {active} at once: interference "
            f"reaches {low:.2f} and leaves {high:.2f} of a feature; use more dimensions or fewer features"
        )
    words, n_places = [f"f{u}" for u in range(features)], max_length + 1
    draft = Draft(words, max_length, {"word": dimensions, "place": n_places, "bag": dimensions, "on": features})
    draft.embed("word", words, f)
    draft.place("place", range(n_places))
    for back in range(active):
        target = torch.eye(n_places).roll(back, 0)
        # where there is no word so far back, the head looks at <bos>, which writes nothing
        target[:back] = torch.eye(n_places)[0]
        draft.head(0, [(draft["place"] @ target, draft["place"], SHARP)], [(draft["word"], draft.into("bag"))])
    per_unit = draft.into("on", 1 / (high - low))
    reads, bias = draft["bag"] @ f.T, torch.ones(features)
    draft.neurons(0, reads, -low * bias, per_unit)
    draft.neurons(0, reads, -high * bias, -per_unit)
    # among the words that are on, the first in the list gets the largest logit
    draft.unembed("on", words, torch.diag(torch.arange(features, 0, -1).float()))
    heads = [f"L0H{back}" for back in range(active)]
    edges = [
        edge
        for head in heads
        for edge in (f"pos_embed -> {head}.q", f"pos_embed -> {head}.k", f"embed -> {head}.v", f"{head} -> MLP 0")
    ]
    roles: dict[str | Node, str] = {head: f"fetches the word {back} back" for back, head in enumerate(heads)}
    return Organism(
        name="superposition",
        model=draft.model(),
        function=lambda prompt: [_first(words, prompt[max(0, i + 1 - active) : i + 1]) for i in range(len(prompt))],
        circuit=Circuit.of(
            *edges,
            "MLP 0 -> logits",
            roles=roles | {"MLP 0": "tells features apart"},
            low=low,
            high=high,
        ),
        variables=(
            Variable("word", Site("embed"), f @ draft.into("word"), tuple(words)),
            Variable("bag", Site("resid_mid", 0), f @ draft.into("bag"), tuple(words)),
            Variable("on", Site("resid_post", 0), draft.basis("on"), tuple(words)),
        ),
        inputs=tuple(words),
        max_length=max_length,
        about=f"{features} features in {dimensions} dimensions, {active} at a time.",
        sources=lambda prompt, i: set(range(max(0, i + 1 - active), i + 1)),
    )


def directions(features: int, dimensions: int, *, seed: int = 0) -> Float[Tensor, "feature dimension"]:
    """Unit vectors far from one another: a regular polygon in the plane, else random ones that repel each other.

    They descend log sum_{u != w} exp(20 |f_u . f_w|) / 20, a smooth maximum of the interference.

    Examples
    --------
    >>> pentagon = directions(5, 2)
    >>> round(float((pentagon @ pentagon.T)[0, 1]), 3)
    0.309
    """
    if features < 1 or dimensions < 2:
        raise CasebackError(f"{features} features in {dimensions} dimensions: expected at least 1 in at least 2")
    if dimensions == 2:
        angle = 2 * math.pi * torch.arange(features) / features
        return torch.stack([angle.cos(), angle.sin()], 1)
    vectors = torch.randn(features, dimensions, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    descent = torch.optim.Adam([vectors], lr=0.03)
    for _ in range(STEPS if features > 1 else 0):
        f = torch.nn.functional.normalize(vectors, dim=1)
        others = _others(f @ f.T).abs()
        descent.zero_grad()
        (20 * others).logsumexp((0, 1)).backward()
        descent.step()
    return torch.nn.functional.normalize(vectors.detach(), dim=1)


def thresholds(f: Float[Tensor, "feature dimension"], active: int) -> tuple[float, float]:
    """How much a feature outside a bag of ``active`` shows at most, and one inside at least."""
    others = _others(f @ f.T)
    low = active * max(0.0, float(others.max())) if len(f) > 1 else 0.0
    high = 1 + (active - 1) * min(0.0, float(others.min())) if len(f) > 1 else 1.0
    return low, high


def _others(gram: Float[Tensor, "n n"]) -> Float[Tensor, "n n_less_one"]:
    """The entries off the diagonal."""
    n = len(gram)
    return gram.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


def _first(words: Sequence[str], bag: Sequence[str]) -> str:
    return min(bag, key=words.index)
