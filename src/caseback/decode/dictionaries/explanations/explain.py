"""Every feature explained by a short list of conditions on tokens, and the lists put to the test (B.13).

    fitted on half of the documents: token, its ending, first letter or kind, the token before      ``decision_lists``
    judged on the other half by detection and fuzzing                                               1/2 is chance

Beside the lists stand two controls, without which no such number says anything: each list judged as if it were another
feature's, and the same done for a random dictionary and for the site's own coordinates (neurons). What a list explains
is an honest lower bound: it sees no further than one token back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import sparse

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.explanations.conditions import Conditions, conditions_of
from caseback.decode.dictionaries.explanations.corpus_codes import (
    CorpusTokens,
    codes_over,
    corpus_tokens,
    states_over,
)
from caseback.decode.dictionaries.explanations.decision_lists import (
    Part,
    Scores,
    fit_lists,
    judge_lists,
    near_features,
)
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.features.reading import feature_words
from caseback.decode.dictionaries.measures.controls import neuron_dictionary, random_dictionary
from caseback.decode.dictionaries.measures.replacement import splice_of
from caseback.errors import OutOfRange
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.stream.documents import Corpus

_SCORES = ("detection", "near_detection", "fuzzing")


@technique(
    entry=("4.2.16", "B.13"),
    citation="Paulo et al. 2024; Bills et al. 2023",
    cost="one pass over the corpus; sparse products of conditions and firings, all features at once",
)
def explain_features(
    model: Model,
    dictionary: Dictionary,
    corpus: Corpus,
    *,
    features: Sequence[int] | None = None,
    rules: int = 5,
    least_gain: float = 0.02,
    window: int = 32,
    bins: int = 10,
    near: int = 5,
    least_windows: int = 10,
    level: float = 0.01,
    controls: bool = True,
    top: int = 5,
    length: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Say of each feature at which tokens it fires, and how far that is true of other text.

    Parameters
    ----------
    model
        The model.
    dictionary
        What reads its states; it must say which site.
    corpus
        Texts, or the path of a file or folder of them. Half of the documents are fitted on, the others judged.
    features
        Which are given; all by default. All of them are fitted, since others' lists are the control.
    rules
        Conditions of a list at most.
    least_gain
        The share of firings that a condition must add, beyond the share of quiet windows in which it rings.
    window
        Tokens of a window; Delphi's 32.
    bins
        Windows in which a feature fires are taken apart by strength into so many, Delphi's ten.
    near
        Features that most often fire at the same tokens: quiet windows in which one of them fires are the hard ones.
    least_windows
        Features that fire in fewer windows of either half have no score.
    level
        A feature fires where its code is above this share of its largest; 1 % as in SAEBench.
    controls
        Whether a random dictionary and neurons stand beside, of as many active features.
    top
        Words that a feature promotes.
    length
        Tokens of a row at most; 128 by default, or the model's context where that is shorter.
    seed
        Same seed, same result. It divides the documents, and deals the lists out to other features.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By ``feature``: ``explanation`` as text, ``promotes`` the words it writes; ``detection``, ``near_detection`` and
        ``fuzzing``, balanced accuracies on the other half, NaN without a score; ``detection_of_another`` and so on,
        with the list of another feature; ``windows`` in which it fires. By ``feature`` and ``rank``: ``rule`` and its
        ``gain``. By ``feature`` and ``bin``: ``called``, the share of such windows that the list calls, the strongest
        first. By ``control`` (``"features"``, ``"random"``, ``"neurons"``): the means ``mean_detection`` and so on,
        ``mean_detection_of_another``, and ``scored``, how many have a score.

    Raises
    ------
    CasebackError
        For a dictionary that does not say its site, or reads another width; and for a corpus of fewer than two
        documents.
    OutOfRange
        For sizes that leave nothing, and a feature that there is not.

    Notes
    -----
    Entries 4.2.16 and B.13. Codes of both signs fire where they are positive. The scores are expectations over all
    windows, not over drawn ones. All codes of the corpus are held, 12 bytes an active feature.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> texts = [f"{name} went to the {place}." for name in ("Mary", "John") for place in ("store", "garden")]
    >>> one = TopK(160, 320, k=4, facts=Facts(site="resid_post.0"))
    >>> explained = explain_features(model, one, texts, least_windows=1)
    >>> explained.sizes["feature"], explained.control.values.tolist()
    (320, ['features', 'random', 'neurons'])
    """
    _expect_sizes(rules, window, bins, near, least_windows, top, least_gain, level)
    chosen = list(range(dictionary.n_features)) if features is None else list(features)
    if beyond := [i for i in chosen if not 0 <= i < dictionary.n_features]:
        raise OutOfRange(f"feature {beyond[0]}: there are {dictionary.n_features}, 0 to {dictionary.n_features - 1}")
    site = splice_of(model, "the dictionary", dictionary).site
    tokens = corpus_tokens(model, corpus, length)
    several = {"features": dictionary}
    if controls:
        several |= _controls(model, dictionary, tokens, seed)
    codes = codes_over(model, site, several, tokens, progress=progress)
    asked = conditions_of(tokens.ids, tokens.previous, model.token_text)
    how = {"rules": rules, "least_gain": least_gain, "bins": bins, "near": near, "least_windows": least_windows}
    lists = {
        name: _listed(asked, tokens, own, window=window, level=level, seed=seed, **how) for name, own in codes.items()
    }
    best, gains, scores, shuffled = lists["features"]
    texts = np.array([[asked.text(c) for c in row] for row in best[chosen]], dtype=object).reshape(len(chosen), rules)
    arrays: dict[str, Any] = {
        "explanation": (["feature"], np.array([_sentence(row) for row in texts], dtype=object)),
        "rule": (["feature", "rank"], texts),
        "gain": (["feature", "rank"], gains[chosen]),
        "called": (["feature", "bin"], scores.called[chosen]),
        "windows": (["feature"], scores.windows[chosen]),
    }
    if dictionary.d_out == model.d_model:
        words = feature_words(model, dictionary, chosen, top=top)["up_token"].values
        arrays["promotes"] = ["feature"], np.array([" ".join(map(repr, row)) for row in words], dtype=object)
    for name in _SCORES:
        arrays[name] = ["feature"], getattr(scores, name)[chosen]
        arrays[f"{name}_of_another"] = ["feature"], getattr(shuffled, name)[chosen]
        arrays[f"mean_{name}"] = ["control"], np.array([_mean(getattr(own[2], name)) for own in lists.values()])
        others = np.array([_mean(getattr(own[3], name)) for own in lists.values()])
        arrays[f"mean_{name}_of_another"] = ["control"], others
    arrays["scored"] = ["control"], np.array([int(np.isfinite(own[2].detection).sum()) for own in lists.values()])
    attrs = {**how, "window": window, "level": level, "seed": seed, "tokens": len(tokens.ids), "site": str(site)}
    of = labelled(gains[chosen], ["feature", "rank"], technique=explain_features, model=model, **attrs).attrs
    return xr.Dataset(arrays, {"feature": chosen, "control": list(lists)}, of)


def _controls(model: Model, dictionary: Dictionary, tokens: CorpusTokens, seed: int) -> dict[str, Dictionary]:
    """A random dictionary and the site's coordinates, with as many active features at a token."""
    site = splice_of(model, "the dictionary", dictionary).site
    sample: list[torch.Tensor] = []
    for _, states in states_over(model, site, tokens):
        sample.append(states.to(dictionary.W_enc))
        if sum(map(len, sample)) >= 2048:
            break
    x = torch.cat(sample)
    with torch.no_grad():
        active = float(in_float64((dictionary.encode(x) != 0).sum(1)).mean())
    k = min(dictionary.d_in, max(1, round(active)))
    neurons = neuron_dictionary(dictionary.d_in, k=k, facts=Facts(site=dictionary.facts.site)).to(x.device)
    return {"random": random_dictionary(dictionary, x, seed=seed), "neurons": neurons}


def _listed(
    asked: Conditions,
    tokens: CorpusTokens,
    codes: sparse.csr_matrix,
    *,
    window: int,
    level: float,
    seed: int,
    rules: int,
    least_gain: float,
    bins: int,
    near: int,
    least_windows: int,
) -> tuple[np.ndarray, np.ndarray, Scores, Scores]:
    """Lists of all features, their gains, their scores, and their scores with the list of another."""
    training = tokens.in_training(seed)
    largest = np.asarray(codes.max(0).todense()).ravel()
    codes = sparse.csr_matrix(codes.multiply(codes > sparse.csr_matrix(codes > 0).multiply(level * largest)))
    starts = np.zeros(len(training), dtype=bool)
    starts[tokens.windows(window)] = True
    fit, test = (Part(asked.holds[side], codes[side], np.flatnonzero(starts[side])) for side in (training, ~training))
    best, gains = fit_lists(fit, rules, least_gain)
    neighbors = near_features(fit, near)
    seen = np.asarray(((fit.in_window @ (fit.codes > 0)) > 0).sum(0)).ravel()
    scores = judge_lists(test, best, neighbors, bins)
    enough = (np.minimum(seen, scores.windows) >= least_windows) & (scores.windows < len(test.starts))
    own = np.flatnonzero(enough)
    other = best.copy()
    other[own] = best[_another(own, seed)]
    shuffled = judge_lists(test, other, neighbors, bins)
    for each in (scores, shuffled):
        for name in (*_SCORES, "called"):
            getattr(each, name)[~enough] = np.nan
    if len(own) < 2:  # there is no other
        for name in _SCORES:
            getattr(shuffled, name)[:] = np.nan
    return best, gains, scores, shuffled


def _another(own: np.ndarray, seed: int) -> np.ndarray:
    """For each of several features another one of them: the next in a drawn circle."""
    order = np.random.default_rng(seed).permutation(len(own))
    following = np.empty_like(own)
    following[order] = own[np.roll(order, -1)]
    return following


def _sentence(rules: Iterable[str]) -> str:
    return ", or ".join(rule for rule in rules if rule) or "nothing that one token tells"


def _mean(values: np.ndarray) -> float:
    some = values[np.isfinite(values)]
    return float(some.mean()) if len(some) else float("nan")


def _expect_sizes(
    rules: int, window: int, bins: int, near: int, least_windows: int, top: int, least_gain: float, level: float
) -> None:
    sizes = {"rules": rules, "window": window, "bins": bins, "near": near, "least_windows": least_windows, "top": top}
    for name, size in sizes.items():
        if size < 1:
            raise OutOfRange(f"{name} is {size}: expected 1 or more")
    for name, share in (("least_gain", least_gain), ("level", level)):
        if not 0 <= share < 1:
            raise OutOfRange(f"{name} is {share}: expected a share from 0 to below 1")
