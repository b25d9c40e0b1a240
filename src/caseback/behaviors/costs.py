"""What a look costs, before it is run: operations by the model's shape, over the speed of a matrix product here.

    seconds of a look = sum over its works that are not done yet of operations(shape) / speed

A work is what several looks share (``HELD``: a moment of the unembedding, the shapes of what all neurons write) or what
one needs for itself. Operations are those of a product of float32: one of float64 counts twice, a number that is read,
changed and written as ``ELEMENT``, one that is drawn as ``RANDOM``, which is what they take on CPUs beside a product.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass

import torch

from caseback.behaviors.answers import GRAMMAR, PAIRS
from caseback.behaviors.answers_of_heads import CLAIMED, KNOWN, MOST, QUERIES
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.neurons.rows import ONE_OF, UNITS, draws
from caseback.tasks.standard.shots import FUNCTIONS

FLOAT64, ELEMENT, RANDOM = 2, 100, 350
EIGEN = 60  # of d^3, in float64
SIDE, TIMES = 512, 4  # of the product whose time is taken
LENS_TOKENS, SAMPLED = 128, 512  # tokens of which facts of the stream are
FACT_TOKENS, PAIR_TOKENS = 6_000, 18  # through the whole model: of all facts together; of a minimal pair
SHOT_TOKENS, CLAIM_TOKENS = 40, 25  # of a prompt with examples; of a context with its question
PROOF_TOKENS = 1_000  # of an experiment's prompts
PROOF_SETS = 40  # of controls, in which candidates share
CARD_TOKENS = 100  # of a unit's windows, with the rows that they are in
WORDS, VOCABULARY, PAIRED = 400, 4_000, 100  # tokens that heads are read on, of how many; of a relation


@dataclass(frozen=True)
class Shape:
    """What costs depend on.

    Attributes
    ----------
    layers, heads, d_head, d_model, vocab, neurons
        Of the model; heads and neurons of all layers.
    parameters
        How many numbers a token meets on its way.
    drawn
        Rows that are drawn beside the neurons' own, over how many neurons there are.
    costly
        The same where one drawn row stands for many.
    """

    layers: int
    heads: int
    d_head: int
    d_model: int
    vocab: int
    neurons: int
    parameters: int
    drawn: float = 2.0
    costly: float = 0.25

    @property
    def rows(self) -> float:
        """Rows that a look at what neurons write measures."""
        return self.neurons * (1 + self.drawn)


def shape_of(evidence: Evidence) -> Shape:
    """The shape of what evidence is of."""
    model = evidence.model
    dims = model.anatomy.layers[0].dims
    neurons, drawn = len(evidence.neurons), 1 + draws(evidence)
    return Shape(
        layers=model.n_layers,
        heads=len(evidence.heads),
        d_head=dims.d_head,
        d_model=model.d_model,
        vocab=model.d_vocab,
        neurons=neurons,
        parameters=sum(own.numel() for own in model.hf.parameters()),
        drawn=drawn,
        costly=drawn / (ONE_OF if neurons > UNITS else 1),
    )


def _squares(s: Shape) -> float:
    return FLOAT64 * 2 * s.d_model**2 * s.vocab + ELEMENT * s.d_model * s.vocab


def _rows(s: Shape, of_each: float, halves: int = 1) -> float:
    """Drawing rows in another basis, and so much for every row."""
    drawn = s.neurons * s.drawn * (RANDOM * s.d_model + 2 * s.d_model**2)
    return halves * (drawn + s.rows * of_each)


def _eigen(s: Shape) -> float:
    return EIGEN * s.d_model**3


def _lens(s: Shape) -> float:
    return LENS_TOKENS * s.layers * s.vocab * (2 * s.d_model + 12 * ELEMENT)


WORKS: dict[str, Callable[[Shape], float]] = {
    "squares of the unembedding": _squares,
    "squares of its unit columns": _squares,
    "directions it hardly reads": _eigen,
    "rows in those directions": lambda s: _rows(s, 4 * ELEMENT * s.d_model) + FLOAT64 * 2 * s.neurons * s.d_model**2,
    "rows along unigrams": lambda s: _rows(s, FLOAT64 * 2 * s.d_model**2 + 3 * ELEMENT * s.d_model),
    "rows along classes": lambda s: _rows(s, FLOAT64 * 2 * s.d_model**2 + 3 * ELEMENT * s.d_model),
    "largest numbers of rows": lambda s: _rows(s, 3 * ELEMENT * s.d_model, 2),
    "rows towards first tokens": lambda s: _rows(s, 2 * s.heads * (FLOAT64 * s.d_model + ELEMENT), 2),
    "neurons in another basis": lambda s: (
        s.drawn * s.neurons**2 / max(1, s.layers) * (RANDOM + 4 * s.d_model) + ELEMENT * s.rows * s.d_model
    ),
    "shapes of logits": lambda s: (
        s.neurons * (1 + s.costly) * (s.vocab / 3 + 2 / 3 * min(4096, s.vocab)) * (2 * s.d_model + 6 * ELEMENT)
    ),
    "words that rows raise": lambda s: s.neurons * (1 + s.costly) * s.vocab / 2 * (2 * s.d_model + 10 * ELEMENT),
    "tokens that heads write": lambda s: (
        s.heads * WORDS * min(VOCABULARY, s.vocab) * (2 * s.d_head + 4 * ELEMENT) + 2 * WORDS * s.parameters
    ),
    "attributes that heads write": lambda s: 2 * PAIRED * (s.parameters + s.heads * s.d_head * s.d_model),
    "answers without neurons": lambda s: 2 * FACT_TOKENS * s.parameters,
    # of each head's prompts only the last token, from its layer on, is computed anew: half of the model
    "functions by heads": lambda s: (
        2 * s.parameters * (SHOT_TOKENS * QUERIES * len(FUNCTIONS) * 4 + s.heads * MOST * QUERIES * 2)
    ),
    "claims by heads": lambda s: 2 * s.parameters * 8 * len(CLAIMED) * KNOWN * CLAIM_TOKENS,
    "answers of minimal pairs": lambda s: 2 * len(GRAMMAR) * PAIRS * PAIR_TOKENS * s.parameters,
    "bands of what heads write": lambda s: FLOAT64 * 4 * s.heads * s.d_head * s.d_model**2,
    "the lens of every layer": _lens,
    "likeness of layers": lambda s: FLOAT64 * 24 * s.layers * SAMPLED * s.d_model**2,
    "rounding": lambda s: 60 * ELEMENT * s.layers * SAMPLED * s.d_model + 10 * s.d_model**3,
    "signs of eigenvalues": lambda s: (
        2 * EIGEN * s.heads * s.d_head**3 + s.neurons * s.d_model * (RANDOM + 6 * ELEMENT)
    ),
}
"""Operations of every work by its name."""

HELD = frozenset(
    {
        *("squares of the unembedding", "squares of its unit columns", "neurons in another basis"),
        *("shapes of logits", "tokens that heads write", "answers without neurons", "answers of minimal pairs"),
        *("functions by heads", "claims by heads"),
    }
)
"""What is done once, for all looks."""


def operations(works: Iterable[str], done: Set[str], shape: Shape) -> float:
    """What works cost that are not done yet, in operations.

    Examples
    --------
    >>> shape = Shape(layers=2, heads=4, d_head=8, d_model=32, vocab=100, neurons=256, parameters=10_000)
    >>> operations(["squares of the unembedding"], {"squares of the unembedding"}, shape)
    0
    """
    return sum(WORKS[work](shape) for work in dict.fromkeys(works) if work not in done)


def proof_operations(shape: Shape) -> float:
    """What the least of an experiment costs: its prompts as they are, without a candidate, and without its controls.

    Sets of units go through the model together from their layer on: each costs about half of a pass.
    """
    return 2 * PROOF_TOKENS * shape.parameters * (2 + PROOF_SETS / 2)


def card_operations(shape: Shape, units: int, tokens: int) -> float:
    """What words and windows of so many units cost, whose rows are of a text of so many tokens."""
    words = 4 * units * (2 * shape.d_model + 4 * ELEMENT) * shape.vocab
    return words + 2 * (min(units * CARD_TOKENS, tokens) + 2 * PROOF_TOKENS) * shape.parameters


def speed(device: torch.device, clock: Callable[[], float] = time.monotonic) -> float:
    """Operations a second of a product of matrices on a device."""
    one = torch.ones(SIDE, SIDE, device=device)
    float((one @ one)[0, 0])
    began = clock()
    for _ in range(TIMES):
        one = one @ one / SIDE
    float(one[0, 0])
    return TIMES * 2 * SIDE**3 / max(1e-9, clock() - began)
