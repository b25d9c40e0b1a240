"""Absorption where no truth is planted: labels that a probe reads and their feature does not, since others write it.

    p_c               direction of a probe for class c, of norm 1
    main features     the k that read c best; one more while the F1 of a probe of them rises by ``split_gain``
    absorbed          a held-out token of c that the probe knows, at which no main feature is active, and the feature
                      with the largest a_i d_i p_c has cos(d_i, p_c) >= .025 and a_i d_i p_c >= .4 (x - m) p_c
    fraction          A / (A + M), M what main features write along p_c, A what the ``absorbers`` strongest others with
                      cos >= .1 do; 0 where M alone is all that there is of it

These are the definitions and bounds of SAEBench for first letters (Chanin et al. 2024; Karvonen et al. 2025), but that
main features are chosen by the difference of class means, and that states are centered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from sklearn.metrics import f1_score
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.measures.decoder_rows import unit_rows
from caseback.decode.dictionaries.measures.given import Dictionaries, StatesLike, expect_widths, named, whole
from caseback.decode.dictionaries.measures.label_probes import Probe, classes_of, held_out_tokens, probe_of
from caseback.decode.dictionaries.measures.probing import codes_of
from caseback.decode.dictionaries.measures.replacement import splice_of
from caseback.decode.probes.setting import Labels
from caseback.decode.states import read_states
from caseback.errors import ArgumentError, CasebackError, OutOfRange
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model

FULL_COSINE, FULL_SHARE, PART_COSINE = 0.025, 0.4, 0.1
"""SAEBench's bounds: of the feature that absorbs a token alone, and of those that take a part."""

_NAMES = ("absorption", "fraction", "main_features", "probe_f1", "tokens")


@technique(
    entry=("4.2.15", "B.11", "B.12"),
    citation="Chanin et al. 2024; Karvonen et al. 2025",
    cost="one encoding of the states; a logistic regression a class, and a few of single features",
)
def absorption(
    dictionaries: Dictionaries,
    states: StatesLike,
    labels: Labels,
    *,
    held_out: float = 0.2,
    most_main: int = 10,
    split_gain: float = 0.03,
    absorbers: int = 3,
    seed: int = 0,
) -> xr.Dataset:
    """How often a label's own features are silent, and others write it in their stead.

    Parameters
    ----------
    dictionaries
        One, or several by name; they read the same states.
    states
        (token, d).
    labels
        A class for each token, each of some tokens.
    held_out
        The share of each class's tokens that is judged; probes and features are fitted and chosen on the others.
    most_main
        Main features of a class at most.
    split_gain
        By how much F1 must rise for one more.
    absorbers
        Features that may share what was absorbed.
    seed
        Same seed, same result. It draws the tokens that are held out.

    Returns
    -------
    xr.Dataset
        By ``dictionary`` and ``group``, the class: ``absorption``, the share of held-out tokens that are absorbed,
        ``fraction``, ``main_features`` how many, ``probe_f1``, and ``tokens``, those that the probe knows; NaN where it
        knows none. By ``dictionary``: ``absorption_rate`` and ``absorption_fraction``, the means over classes.

    Raises
    ------
    CasebackError
        For one class, classes with fewer than 4 tokens, another number of labels, dictionaries of another width.
    OutOfRange
        For a share outside 0 to 1, or no features.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Standard
    >>> parent, child = torch.eye(4)[0], torch.eye(4)[1]
    >>> is_child = torch.arange(400) % 4 == 0
    >>> is_parent = is_child | (torch.arange(400) % 4 == 1)
    >>> states = is_parent[:, None] * parent + is_child[:, None] * child
    >>> one = Standard(4, 2)
    >>> one.W_enc.data = torch.stack([parent - 2 * child, child])  # silent where the child is
    >>> one.W_dec.data = torch.stack([parent, parent + child])
    >>> table = absorption(one, states, ["yes" if x else "no" for x in is_parent], most_main=1)
    >>> bool(0.3 < table.absorption.sel(group="yes")[0] < 0.7), bool(table.probe_f1.min() == 1)
    (True, True)
    """
    if not 0 <= split_gain <= 1:
        raise OutOfRange(f"split_gain is {split_gain}: expected a share from 0 to 1")
    if most_main < 1 or absorbers < 1:
        raise OutOfRange(f"most_main {most_main}, absorbers {absorbers}: expected 1 or more")
    several, x = named(dictionaries), whole(states)
    expect_widths(several, x.shape[1], x.shape[1])
    classes, y = classes_of(labels, len(x))
    held = held_out_tokens(y, held_out, seed)
    x = x.cpu().double()
    x = x - x[~held].mean(0)
    probes = [probe_of(x[~held].numpy(), y[~held] == c) for c in range(len(classes))]
    rows: dict[str, list[list[float]]] = {name: [] for name in _NAMES}
    for one in several.values():
        codes = codes_of(one, whole(states).to(one.W_enc)).cpu().double()
        each = [
            _of_class(one, codes, x, y == c, held, probe, most_main, split_gain, absorbers)
            for c, probe in enumerate(probes)
        ]
        for name, column in zip(_NAMES, zip(*each, strict=True), strict=True):
            rows[name].append(list(column))
    arrays: dict[str, Any] = {name: (["dictionary", "group"], np.array(values)) for name, values in rows.items()}
    for name, values in (("absorption_rate", rows["absorption"]), ("absorption_fraction", rows["fraction"])):
        arrays[name] = ["dictionary"], np.array([_mean(row) for row in values])
    attrs = {"held_out": held_out, "split_gain": split_gain, "absorbers": absorbers, "seed": seed, "states": len(x)}
    of = labelled(arrays["absorption"][1], ["dictionary", "group"], technique=absorption, **attrs).attrs
    return xr.Dataset(arrays, {"dictionary": list(several), "group": classes}, of)


@technique(
    entry=("4.2.15", "B.11", "B.12"),
    citation="Chanin et al. 2024; Karvonen et al. 2025",
    cost="one short pass a word, and then as ``absorption``",
)
def first_letter_absorption(
    model: Model,
    dictionaries: Dictionaries,
    *,
    words: Sequence[str] | None = None,
    n_words: int = 1000,
    shots: int = 10,
    least: int = 10,
    held_out: float = 0.2,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Absorption of the first letter of words: which letter a word begins with, in the state at its token.

    Parameters
    ----------
    model
        The model; its tokenizer has the words.
    dictionaries
        One, or several by name, all of one site.
    words
        Words that are one token with a space before them; by default drawn from the vocabulary.
    n_words
        How many are drawn at most.
    shots
        Examples before each word, ``" york has the first letter: Y"`` a line: SAEBench's ten.
    least
        Letters with fewer words are left out.
    held_out
        The share of each letter's words that is judged.
    seed
        Same seed, same result. It draws words, examples, and what is held out.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        As ``absorption`` gives it; ``group`` are letters.

    Raises
    ------
    CasebackError
        For a model without a tokenizer, dictionaries of several sites, words that are no single token, and fewer than
        two letters with words enough.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> one = TopK(160, 320, k=8, facts=Facts(site="resid_post.1"))
    >>> table = first_letter_absorption(cb.load("meadow"), one, n_words=150, shots=1)
    >>> table.sizes["group"] > 3, bool((table.probe_f1 < 0.9).all())  # so small a model knows little of spelling
    (True, True)
    """
    if n_words < 1 or shots < 0 or least < 4:
        raise OutOfRange(f"n_words {n_words}, shots {shots}, least {least}: expected 1, 0 and 4 at least")
    several = named(dictionaries)
    sites = {str(splice_of(model, name, one).site) for name, one in several.items()}
    if len(sites) > 1:
        raise ArgumentError(f"dictionaries of several sites, {', '.join(sorted(sites))}: expected one")
    tokens = _words(model, words)
    random = np.random.default_rng(seed)
    order = random.permutation(len(tokens))
    before = "".join(f"{tokens[i][1]} has the first letter: {tokens[i][1][1].upper()}\n" for i in order[:shots])
    # words of the examples are not asked for
    asked = [tokens[i] for i in order[shots : shots + n_words]]
    letters = [text[1].lower() for _, text in asked]
    wanted = {letter for letter in letters if letters.count(letter) >= least}
    asked = [pair for pair, letter in zip(asked, letters, strict=True) if letter in wanted]
    if len(wanted) < 2:
        raise CasebackError(f"{len(wanted)} letters begin {least} words or more: expected two, of more words")
    front = model.tokens([before]).ids[0].tolist() if before else []
    prompts = [[*front, token] for token, _ in asked]
    states = read_states(model, prompts, sites=[next(iter(sites))], pos=-1, progress=progress)
    table = absorption(several, states, [text[1].lower() for _, text in asked], held_out=held_out, seed=seed)
    own = labelled(0.0, [], technique=first_letter_absorption, model=model, words=len(asked), shots=shots).attrs
    return table.assign_attrs({**table.attrs, **own})


def _words(model: Model, words: Sequence[str] | None) -> list[tuple[int, str]]:
    """Tokens that are one word of letters with a space before it, and their texts."""
    if words is None:
        size = int(model.hf.get_input_embeddings().weight.shape[0])
        texts = [(token, model.token_text(token)) for token in range(size)]
        return [(i, t) for i, t in texts if len(t) > 2 and t[0] == " " and t[1:].isascii() and t[1:].isalpha()]
    own = [f" {word.strip()}" for word in words]
    if wrong := [text for text in own if not (text[1:].isascii() and text[1:].isalpha())]:
        raise ArgumentError(f"the word {wrong[0][1:]!r}: expected letters from a to z")
    return [(model.token_id(text), text) for text in dict.fromkeys(own)]


def _of_class(
    dictionary: Dictionary,
    codes: Float[Tensor, "token feature"],
    x: Float[Tensor, "token d"],
    y: np.ndarray,
    held: np.ndarray,
    probe: Probe,
    most_main: int,
    split_gain: float,
    absorbers: int,
) -> tuple[float, ...]:
    guess = probe.sees(x.numpy())
    f1 = float(f1_score(y[held], guess[held]))
    direction = torch.from_numpy(probe.w / max(float(np.linalg.norm(probe.w)), 1e-300))
    main = _main(codes, y, held, most_main, split_gain)
    known = torch.from_numpy(np.flatnonzero(held & y & guess))
    if not len(known):
        return (np.nan, np.nan, len(main), f1, 0)
    with torch.no_grad():
        rows = dictionary.W_dec.cpu().double() / dictionary.out_scale.cpu().double()
        cosines = unit_rows(rows) @ direction
    written = codes[known] * (rows @ direction)
    amount = x[known] @ direction
    own = written[:, main].sum(1).clamp_min(0)
    others = written.clone()
    others[:, main] = -torch.inf
    largest, at = others.max(1)
    silent = (codes[known][:, main] == 0).all(1)
    full = silent & (cosines[at] >= FULL_COSINE) & (largest >= FULL_SHARE * amount) & (largest > 0)
    others[:, cosines < PART_COSINE] = -torch.inf
    taken = others.topk(min(absorbers, others.shape[1]), dim=1).values.clamp_min(0).sum(1)
    part = torch.where(own >= amount, 0, taken / (taken + own).clamp_min(1e-300))
    return (float(full.double().mean()), float(part.mean()), len(main), f1, len(known))


def _main(codes: Tensor, y: np.ndarray, held: np.ndarray, most: int, gain: float) -> Tensor:
    """The features that read a class: by the difference of class means, as many as F1 goes on rising for."""
    known, case = torch.from_numpy(~held), torch.from_numpy(y)
    difference = codes[known & case].mean(0) - codes[known & ~case].mean(0)
    order = difference.topk(min(most, codes.shape[1])).indices
    best = 0.0
    for k in range(1, len(order) + 1):
        few = codes[:, order[:k]].numpy()
        own = float(f1_score(y[held], probe_of(few[~held], y[~held]).sees(few[held])))
        if k > 1 and own - best <= gain:
            return order[: k - 1]
        best = own
    return order


def _mean(values: Sequence[float]) -> float:
    some = [value for value in values if np.isfinite(value)]
    return float(np.mean(some)) if some else float("nan")
