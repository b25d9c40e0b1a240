"""All facts of the stream that tables and weights give, each with its control; what is missing says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.stream import bigrams, norms, outliers, refinement
from caseback.behaviors.stream.fact import Fact, Numbers
from caseback.errors import CasebackError

STREAM_NEEDS: dict[str, tuple[str, ...]] = {TEXT: ("stream_moments", "token_counts", "reservoir")}
"""The tables that facts read, by stream."""


class Way(NamedTuple):
    """How a fact is measured: what ``Fact`` says of it, the function, and its works in ``costs.WORKS``."""

    name: str
    entry: str
    citation: str
    what: str
    control_is: str
    measure: Callable[[Evidence], tuple[Numbers, Numbers]]
    works: tuple[str, ...] = ()


WAYS = (
    Way(
        "bigrams on the direct path",
        "5.3.1",
        "Elhage et al. 2021",
        "rank correlation of embedding times unembedding with the text's bigrams",
        "first tokens shuffled; unigrams in place of the model",
        bigrams.direct_bigrams,
    ),
    Way(
        "frequency bias",
        "5.3.2",
        "Kobayashi et al. 2023",
        "correlation of what the head adds to every prediction with the text's log unigrams",
        "unigrams shuffled",
        bigrams.frequency_bias,
    ),
    Way(
        "norm growth",
        "5.3.3",
        "Heimersheim and Turner 2023",
        "mean log norm of the stream by layer, and factors by which it and the writing matrices grow a layer",
        "factors by which the reading matrices grow a layer",
        norms.growth,
    ),
    Way(
        "erasing writes",
        "5.3.4",
        "Elhage et al. 2021, Dao et al. 2023",
        "share of neurons that take out what they read, and mean sign of heads' eigenvalues, by layer",
        "random writing matrices",
        norms.erasure,
        ("signs of eigenvalues",),
    ),
    Way(
        "anisotropy",
        "5.3.6",
        "Ethayarajh 2019, Timkey and van Schijndel 2021",
        "mean cosine of pairs of tokens by layer, and the share of it that the strongest dimensions give",
        "the same stream in another basis",
        outliers.anisotropy,
    ),
    Way(
        "rogue dimensions",
        "5.3.6",
        "Kovaleva et al. 2021",
        "dimensions whose mean is more than 3 deviations from the others', without rows' first tokens",
        "the same stream in another basis",
        outliers.rogue_dimensions,
    ),
    Way(
        "massive activations",
        "5.1.12",
        "Sun et al. 2024",
        "largest number of the stream by layer, its dimension, and how often the median size it is",
        "the median dimension's largest",
        outliers.massive_activations,
    ),
    Way(
        "dark bands",
        "5.1.11",
        "Cancedda 2024",
        "share of the mean stream in the twentieth of directions that the unembedding reads least, by layer",
        "a random direction",
        outliers.dark_bands,
        ("squares of the unembedding", "directions it hardly reads"),
    ),
    Way(
        "iterative inference",
        "5.3.5",
        "Belrose et al. 2023, Jastrzębski et al. 2018",
        "distance of each layer's prediction to the last one's, and cosines of updates with what is still to come",
        "the last prediction, and the last stream, of another token",
        refinement.iterative_inference,
        ("the lens of every layer",),
    ),
    Way(
        "similarity of layers",
        "5.3.5",
        "Kornblith et al. 2019",
        "linear CKA of each layer's stream with the next layer's and with the last one's",
        "tokens of one of the layers in another order",
        refinement.similarity,
        ("likeness of layers",),
    ),
    Way(
        "rounding to 8 bits",
        "5.3.7",
        "Dettmers et al. 2022",
        "error of the stream in whole numbers of 8 bits, without the rogue dimensions' own, by what has a scale",
        "the same stream in another basis",
        refinement.rounding,
        ("rounding",),
    ),
)

ENTRIES = tuple(dict.fromkeys(way.entry for way in WAYS))
"""The Primer's entries of all facts."""


def stream_facts(evidence: Evidence) -> dict[str, Fact]:
    """Every fact by its name.

    Parameters
    ----------
    evidence
        Tables of ``STREAM_NEEDS``, and the weights.

    Returns
    -------
    dict[str, Fact]
        One that cannot be measured has ``missing``, which says why.
    """
    facts = {}
    for way in WAYS:
        try:
            facts[way.name] = fact_of(way, evidence)
        except CasebackError as error:
            facts[way.name] = missing_fact(way, str(error))
    return facts


def fact_of(way: Way, evidence: Evidence) -> Fact:
    """One fact.

    Raises
    ------
    CasebackError
        Where it cannot be measured.
    """
    values, control = way.measure(evidence)
    about = Fact(way.name, way.entry, way.citation, way.what)
    return replace(about, values=values, control=control, control_is=way.control_is)


def missing_fact(way: Way, why: str) -> Fact:
    """A fact that was not measured."""
    return Fact(way.name, way.entry, way.citation, way.what, missing=why)
