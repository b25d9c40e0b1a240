"""Planted neurons: one of each kind that the literature describes, in a model that is otherwise a table (PRIMER 5.2).

    logits at i  =  2 for next(t_i)                       embedding, straight to the unembedding
                  + sum_u n_u w_u W_U                     neurons, n_u = relu(reads . x + bias): 1 where they fire
                  + 9/10 mean of goes_with(t_j)           two heads, over the colors so far

Neurons switch the heads: in L1H0 attention is on the colors unless the deactivation neuron fires and sends it to <bos>,
in L1H1 it is on <bos> unless the activation neuron fires. ``NEURONS`` is the list of what is planted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType as Fixed

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit, Node
from caseback.organisms.compiled.draft import ALWAYS, SHARP, Draft
from caseback.organisms.compiled.organism import BOS, Organism, Variable

_FOLLOWS = (
    "the:cat a:dog cat:sees dog:sees cow:sees sees:the very:old old:city new:city york:has has:a sour:ice ice:and "
    "cream:and and:the red:cow green:cow city:has runs:and melts:and tower:has .:the"
)
NEXT = {word: following for word, _, following in (pair.partition(":") for pair in _FOLLOWS.split())}
"""Which word each word predicts by itself, in the order of frequency, the most frequent first."""
WORDS = tuple(NEXT)
ANIMALS, COLORS, ARTICLES = ("cat", "dog", "cow"), ("red", "green"), ("the", "a")
GOES_WITH = ({"red": "tower", "green": "city"}, {"red": "sour", "green": "cream"})
"""What each of the two heads adds for a color."""
RESTS = (0.5, 1.5)
"""The two heads' scores for <bos> while no neuron beckons; a color's score is 1."""
NONE: Mapping[str, float] = Fixed({})


@dataclass(frozen=True)
class Neuron:
    """A neuron to plant: its activation is 1 where its reads add up to 1 - bias.

    Attributes
    ----------
    kind, entry
        What it is, and the entry that describes its kind.
    layer
        The layer whose MLP it is in.
    word, before, places
        Words that it reads where they stand, words that it reads right after them, and positions; each has weight 1.
    bias
        What is added to its reads.
    promotes
        What it adds to which words' logits.
    beckons
        What it adds to the two heads' scores for <bos>; a color's score is 1.
    """

    kind: str
    entry: str
    layer: int = 0
    word: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    bias: float = 0.0
    promotes: Mapping[str, float] = field(default_factory=lambda: NONE)
    beckons: tuple[float, float] = (0.0, 0.0)

    def fires(self, words: Sequence[str], i: int) -> float:
        """Its activation at the prompt's word i, counted from 0, by the description alone."""
        read = (words[i] in self.word) + (i > 0 and words[i - 1] in self.before) + (i + 1 in self.places)
        return max(0.0, read + self.bias)


def _frequencies() -> dict[str, float]:
    """Half the log of Zipf's law, centered."""
    log_p = -torch.arange(1, len(WORDS) + 1).double().log()
    return dict(zip(WORDS, (0.5 * (log_p - log_p.mean())).tolist(), strict=True))


NEURONS = (
    Neuron("position range", "5.2.1", places=(6, 7, 8), promotes={".": 3.5}),
    Neuron("concept: animals", "5.2.3", word=ANIMALS, promotes={"runs": 3.0}),
    Neuron("bigram: new york", "5.2.12", word=("york",), before=("new",), bias=-1, promotes={"tower": 4.0}),
    Neuron("bigrams: ice cream, sour cream", "5.2.12", 0, ("cream",), ("ice", "sour"), (), -1, {"melts": 4.25}),
    Neuron("previous token: very", "5.2.16", before=("very",), promotes={"red": 3.25}),
    Neuron("attention deactivation", "5.2.17", word=(".",), beckons=(1.0, 0.0)),
    Neuron("attention activation", "5.2.17", word=("and",), beckons=(0.0, -1.0)),
    Neuron("dead", "5.2.13", word=WORDS, bias=-100, promotes={"cow": 5.0}),
    Neuron("dead", "5.2.13", before=WORDS, places=(1, 2, 3), bias=-100, promotes={"york": 5.0}),
    Neuron("suppression: animals", "5.2.11", 1, word=ANIMALS, promotes=dict.fromkeys(ANIMALS, -1.5)),
    Neuron("token frequency", "5.2.10", 1, word=ARTICLES, promotes=_frequencies()),
)
"""In this order in each layer's MLP; the second layer's is as wide as the first's, filled up with all-zero neurons."""


def planted_neurons(max_length: int = 12) -> Organism:
    """A two-layer model with known neurons of many kinds, labeled by its circuit's roles.

    A role is the kind and its entry, ``"position range (5.2.1)"``. Each neuron's ``Variable`` is its coordinate of
    ``mlp_post``. Entropy neurons need a norm, so they have their own organism.

    Parameters
    ----------
    max_length
        The longest prompt in words, at least 8, so that the position neuron's range is in it.

    Raises
    ------
    CasebackError
        For a shorter ``max_length``.

    Examples
    --------
    >>> organism = planted_neurons()
    >>> organism.predict(["a new york and ice cream".split()])[0]
    ['dog', 'city', 'tower', 'the', 'and', 'melts']
    >>> organism.circuit.roles[Node.parse("L0N0")]
    'position range (5.2.1)'
    """
    if max_length < 8:
        raise CasebackError(f"max_length {max_length}: expected at least 8, where the position neuron's range ends")
    n, n_places = len(WORDS), max_length + 1
    parts = {"word": n, "place": n_places, "before": n, "beckons": 2, "is bos": 1, "answer": n}
    draft = Draft(WORDS, max_length, parts)
    draft.embed("word", WORDS)
    draft.embed("is bos", [BOS])
    draft.embed("answer", WORDS, 2 * torch.stack([_one(NEXT[word]) for word in WORDS]))
    draft.place("place", range(n_places))
    draft.unembed("answer", WORDS)
    back = torch.eye(n_places).roll(1, 0)
    back[0] = torch.eye(n_places)[0]
    draft.head(0, [(draft["place"] @ back, draft["place"], SHARP)], [(draft["word"], draft.into("before"))])
    nodes = _plant(draft, n_places)
    is_color = draft["word"] @ _many(dict.fromkeys(COLORS, 1.0))[:, None]
    one = 2 * SHARP
    for which, rest in enumerate(RESTS):
        goes = torch.stack([_one(GOES_WITH[which].get(word)) for word in WORDS])
        beckoned = (draft["beckons"][:, [which]], draft["is bos"], one)
        draft.head(
            1,
            [(ALWAYS, is_color, one), (ALWAYS, draft["is bos"], rest * one), beckoned],
            [(draft["word"], 0.9 * goes @ draft.into("answer"))],
        )
    model = draft.model()
    width = model.hf.config.intermediate_size
    spare = [Node("neuron", 1, u) for u in range(sum(node.layer == 1 for node in nodes), width)]
    roles: dict[str | Node, str] = {node: f"{neuron.kind} ({neuron.entry})" for node, neuron in nodes.items()}
    return Organism(
        name="planted_neurons",
        model=model,
        function=lambda prompt: [max(row, key=lambda word: row[word]) for row in logits(prompt)],
        circuit=Circuit.of(
            *(edge for row in _EDGES for edge in row.split(", ")),
            *(node for node, neuron in nodes.items() if neuron.kind != "dead"),
            roles=_HEADS | roles | dict.fromkeys(spare, "dead (5.2.13)"),
        ),
        variables=(
            Variable("the word", Site("embed"), draft.basis("word"), WORDS),
            Variable("the word before", Site("resid_mid", 0), draft.basis("before"), WORDS),
            *(Variable(roles[u], Site("mlp_post", u.layer), torch.eye(width)[[u.index]]) for u in nodes),
        ),
        inputs=WORDS,
        max_length=max_length,
        about="A table of words that follow one another, and neurons of known kinds that add to it.",
    )


_HEADS: dict[str | Node, str] = {
    "L0H0": "previous token",
    "L1H0": "colors, unless deactivated",
    "L1H1": "colors, once activated",
}
_EDGES = (
    "pos_embed -> L0H0.q, pos_embed -> L0H0.k, embed -> L0H0.v",
    "embed -> MLP 0, pos_embed -> MLP 0, L0H0 -> MLP 0, MLP 0 -> logits",
    "MLP 0 -> L1H0.q, embed -> L1H0.k, embed -> L1H0.v, L1H0 -> logits",
    "MLP 0 -> L1H1.q, embed -> L1H1.k, embed -> L1H1.v, L1H1 -> logits",
    "embed -> MLP 1, MLP 1 -> logits, embed -> logits",
)


def logits(prompt: Sequence[str]) -> list[dict[str, float]]:
    """The logits of every word at every word of a prompt, worked out from the lists above rather than from weights.

    Examples
    --------
    >>> logits(["a", "cow"])[1]["runs"]
    3.0
    """
    rows = []
    for i, word in enumerate(prompt):
        row = dict.fromkeys(WORDS, 0.0)
        row[NEXT[word]] += 2.0
        beckoned = [0.0, 0.0]
        for neuron in NEURONS:
            active = neuron.fires(prompt, i)
            beckoned = [b + active * more for b, more in zip(beckoned, neuron.beckons, strict=True)]
            for promoted, by in neuron.promotes.items():
                row[promoted] += active * by
        colors = [earlier for earlier in prompt[: i + 1] if earlier in COLORS]
        for which, rest in enumerate(RESTS):
            if rest + beckoned[which] < 1:
                for color in colors:
                    row[GOES_WITH[which][color]] += 0.9 / len(colors)
        rows.append(row)
    return rows


def _plant(draft: Draft, n_places: int) -> dict[Node, Neuron]:
    nodes: dict[Node, Neuron] = {}
    for neuron in NEURONS:
        at = torch.zeros(n_places)
        at[list(neuron.places)] = 1.0
        reads = draft["word"] @ _many(dict.fromkeys(neuron.word, 1.0))
        reads += draft["before"] @ _many(dict.fromkeys(neuron.before, 1.0)) + draft["place"] @ at
        writes = _many(neuron.promotes) @ draft.into("answer")
        writes += torch.tensor(neuron.beckons) @ draft.into("beckons")
        (node,) = draft.neurons(neuron.layer, reads[:, None], torch.tensor([float(neuron.bias)]), writes[None])
        nodes[node] = neuron
    return nodes


def _one(word: str | None) -> Float[Tensor, " word"]:
    return _many({} if word is None else {word: 1.0})


def _many(weights: Mapping[str, float]) -> Float[Tensor, " word"]:
    return torch.tensor([float(weights.get(word, 0.0)) for word in WORDS])
