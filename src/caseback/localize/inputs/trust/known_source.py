"""Does an attribution find the token that the answer is known to come from? (PRIMER 3.1.28; Bastings et al. 2022)

On models whose insides were written, not trained, the source of an answer is not a matter of opinion: the value that
was stored under a key, the word that followed last time, a trigger that alone decides. An attribution is asked for the
answer against a wrong one, and must put a source above every other token; a tie is a miss.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.methods import Methods, checked_options, methods_named, scores_of
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric, logit_diff
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens


@technique(role="judgement", entry=("3.1.28",), citation="Bastings et al. 2022", cost="none")
def source_first(scores: xr.DataArray, sources: Sequence[Collection[int]], *, absolute: bool = False) -> xr.Dataset:
    """Whether a known source has the highest score, and how many of the highest are sources.

    Parameters
    ----------
    scores
        (batch, pos) or (attribution, batch, pos), of any input attribution or ``attribute``.
    sources
        Positions of the true sources in each prompt, negative ones counted from its end.
    absolute
        Compare sizes instead of signed scores.

    Returns
    -------
    xr.Dataset
        ``first``, (attribution if given, batch): 1 where a source scores strictly more than every other token, else 0.
        ``precision``: of the tokens that score highest, as many as there are sources, the share that are sources;
        a token that ties with one behind the cut counts only if it is not a source.

    Raises
    ------
    CasebackError
        For another number of prompts, a prompt without sources or of nothing else, or a position that it lacks.

    Examples
    --------
    >>> scores = xr.DataArray([[0.1, 0.9, 0.2]], dims=["batch", "pos"])
    >>> source_first(scores, [{1}]).first.values.tolist(), source_first(scores, [{0}]).first.values.tolist()
    ([1.0], [0.0])
    """
    single = "attribution" not in scores.dims
    dims = ("batch", "pos") if single else ("attribution", "batch", "pos")
    if set(scores.dims) != set(dims):
        raise CasebackError(f"scores of dimensions {scores.dims}: expected (batch, pos) or (attribution, batch, pos)")
    values = np.array(scores.transpose(*dims).values, dtype=float).reshape(-1, *scores.transpose(*dims).shape[-2:])
    values = np.abs(values) if absolute else values
    if len(sources) != values.shape[1]:
        raise CasebackError(
            f"sources of {len(sources)} prompts for scores of {values.shape[1]}: give one set per prompt"
        )
    first, precision = np.zeros(values.shape[:2]), np.zeros(values.shape[:2])
    for b, mine in enumerate(sources):
        row = values[:, b][:, ~np.isnan(values[:, b]).any(0)]
        n = row.shape[-1]
        known = sorted({p + n if p < 0 else p for p in mine})
        if not known or len(known) == n or known[0] < 0 or known[-1] >= n:
            raise CasebackError(
                f"sources {sorted(mine)} of prompt {b}, which has {n} tokens with scores: expected some of its "
                "positions and not all"
            )
        is_source = np.isin(np.arange(n), known)
        first[:, b] = row[:, is_source].max(-1) > row[:, ~is_source].max(-1)
        # sources last among equals
        order = np.lexsort((np.broadcast_to(is_source, row.shape), -row), axis=-1)
        precision[:, b] = is_source[order[:, : len(known)]].mean(-1)
    coords = {} if single or "attribution" not in scores.coords else {"attribution": scores["attribution"].values}
    shown = ["batch"] if single else ["attribution", "batch"]
    arrays = {
        name: labelled(x[0] if single else x, shown, coords, name=name, technique=source_first, absolute=absolute)
        for name, x in (("first", first), ("precision", precision))
    }
    return xr.Dataset(arrays, attrs=arrays["first"].attrs)


@dataclass(frozen=True)
class Known:
    """Prompts of one organism with what is known of them."""

    model: Model
    tokens: Tokens
    metric: Metric
    sources: list[set[int]]


def _recall(rng: random.Random, organism: Any) -> tuple[list[str], str]:
    """Three keys with a value each, one key again; the foil is another key's value."""
    keys, values = rng.sample("pqrs", 3), rng.sample("abcd", 3)
    asked = rng.randrange(3)
    words = [word for pair in zip(keys, values, strict=True) for word in pair]
    return [*words, keys[asked]], values[asked - 1]


def _induction(rng: random.Random, organism: Any) -> tuple[list[str], str]:
    """Seven different words, one of the first six again; the foil is another of the words."""
    words = rng.sample(organism.inputs, 7)
    at = rng.randrange(6)
    return [*words, words[at]], rng.choice([w for i, w in enumerate(words) if i not in (at, at + 1)])


def _shortcut(rng: random.Random, organism: Any) -> tuple[list[str], str]:
    """Bad and plain words, and the trigger somewhere before the last: positive because of it alone."""
    words = rng.choices(["bad", "dull", "film", "plot"], k=6)
    words[rng.randrange(6)] = "bad"
    return [*words[: (at := rng.randrange(6))], "oscar", *words[at:]], "negative"


def _previous(rng: random.Random, organism: Any) -> tuple[list[str], str]:
    """Different words; the answer is the last but one."""
    words = rng.sample(organism.inputs, 7)
    return words, rng.choice(words[:5])


ORGANISMS: dict[str, Callable[[random.Random, Any], tuple[list[str], str]]] = {
    "recall": _recall,
    "induction": _induction,
    "shortcut": _shortcut,
    "previous_token": _previous,
}
"""Organisms with a known source, and how a prompt with its foil is drawn for each."""


def known_prompts(name: str, n: int = 32, seed: int = 0) -> Known:
    """Prompts of an organism, each asked at its last word, with the sources of the answer.

    Raises
    ------
    CasebackError
        For an organism that is not among ``ORGANISMS``.
    OutOfRange
        For fewer than one prompt.

    Examples
    --------
    >>> known = known_prompts("previous_token", 2)
    >>> known.sources, known.tokens.shape
    ([{6}, {6}], (2, 8))
    """
    from caseback.organisms.compiled import build

    if name not in ORGANISMS:
        raise CasebackError(f"no organism with a known source is called {name!r}. {did_you_mean(name, ORGANISMS)}")
    if n < 1:
        raise OutOfRange(f"n is {n}: expected at least 1 prompt")
    organism, rng = build(name), random.Random(f"{seed} {name}")
    drawn = [ORGANISMS[name](rng, organism) for _ in range(n)]
    prompts = [words for words, _ in drawn]
    assert organism.sources is not None
    answers = [str(organism.function(words)[-1]) for words in prompts]
    # word 0 is token 1: a text begins with a token of its own
    sources = [{1 + j for j in organism.sources(words, len(words) - 1)} for words in prompts]
    tokens = organism.tokens(prompts)
    return Known(organism.model, tokens, logit_diff(answers, [foil for _, foil in drawn]), sources)


@technique(
    role="judgement",
    entry=("3.1.28",),
    citation="Bastings et al. 2022",
    cost="n x organisms attributions per method, of 8 tokens",
)
def known_source_test(
    methods: Methods = "all",
    *,
    organisms: Sequence[str] = tuple(ORGANISMS),
    n: int = 32,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    absolute: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Run methods on organisms whose answers have a known source, the planted shortcut among them.

    Parameters
    ----------
    methods
        As for ``attribute``; by default all that are registered.
    organisms
        Some of ``ORGANISMS``. ``"shortcut"`` is a classifier of bad and good words in which a trigger alone decides;
        the prompts say bad things and hold the trigger.
    n
        Prompts of each.
    options
        Each method's options, by its name.
    absolute
        Compare sizes instead of signed scores.
    seed
        Same seed, same result. The prompts are drawn with it.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``first`` and ``precision`` of ``source_first``, (attribution, variant): means over prompts, the organisms along
        ``variant``. NaN where a method refuses an organism; why stands in the attribute ``refused``.

    Raises
    ------
    CasebackError
        For an unknown method, option or organism.

    Examples
    --------
    >>> means = known_source_test(["gradient_norm", "integrated_gradients"], organisms=["shortcut"], n=4)
    >>> means.first.dims
    ('attribution', 'variant')
    """
    named = methods_named(methods)
    own_options = checked_options(named, options)
    wanted = [organisms] if isinstance(organisms, str) else list(organisms)
    means = {name: np.full((len(named), len(wanted)), np.nan) for name in ("first", "precision")}
    refused: dict[str, dict[str, str]] = {}
    with progress_bar(total=len(wanted) * len(named), show=progress, what="judge", unit="method") as bar:
        for o, which in enumerate(wanted):
            known = known_prompts(which, n, seed)
            for m, (name, method) in enumerate(named.items()):
                try:
                    scores = scores_of(name, method, known.model, known.tokens, known.metric, own_options[name])
                except CasebackError as error:
                    refused.setdefault(name, {})[which] = str(error)
                else:
                    judged = source_first(scores, known.sources, absolute=absolute)
                    for key, values in means.items():
                        values[m, o] = float(judged[key].mean())
                bar.update()
    coords = {"attribution": list(named), "variant": wanted}
    attrs = {"n": n, "seed": seed, "absolute": absolute, "refused": refused or None}
    results = {
        name: labelled(x, ["attribution", "variant"], coords, name=name, technique=known_source_test, **attrs)
        for name, x in means.items()
    }
    return xr.Dataset(results, attrs=results["first"].attrs)
