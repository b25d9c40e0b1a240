"""What the stream says without any layer: bigrams on the direct path, and the head's bias to frequent words.

    5.3.1    rank correlation of (W_E W_U)_ab with log (n_ab + 1),  over pairs that occur 5 times at least
    5.3.2    r(beta W_U + b_U, log unigram),  and with the mean of the final norm's output in place of beta

Both with the final norm folded into W_U and logits centered over the vocabulary. So are the log counts of each first
token's successors: then neither says how frequent the first token is.
"""

from __future__ import annotations

import numpy as np
import torch

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.neurons.frequency import log_unigrams
from caseback.behaviors.stream.fact import Numbers
from caseback.behaviors.stream.norms import moments
from caseback.errors import CasebackError, SiteAbsent
from caseback.jobs.budget import limit

OFTEN, FEWEST = 5, 20


def pair_counts(evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pair, 2) ids, (pair) counts over all of the text, and (vocab) unigrams."""
    tables = evidence.folds(TEXT, "token_counts")
    ids = np.concatenate([table["ids"].values for table in tables])
    counts = np.concatenate([table["count"].values for table in tables])
    if ids.shape[1] != 2:
        raise CasebackError(f"runs of {ids.shape[1]} tokens were counted: expected pairs")
    pairs, which = np.unique(ids, axis=0, return_inverse=True)
    return pairs, np.bincount(which.reshape(-1), counts), np.sum([table["unigram"].values for table in tables], 0)


@torch.no_grad()
def direct_bigrams(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """Rank correlations of the direct path with the text's bigrams; of shuffled first tokens, and of unigrams alone.

    Raises
    ------
    CasebackError
        For a text in which too few pairs are often enough.
    """
    pairs, counts, unigrams = pair_counts(evidence)
    n_vocab = evidence.folded.W_U.shape[1]
    logs = np.log(counts + 1)
    logs = logs - np.bincount(pairs[:, 0], logs, n_vocab)[pairs[:, 0]] / n_vocab
    often = counts >= OFTEN
    if often.sum() < FEWEST:
        raise CasebackError(f"{often.sum()} pairs of tokens occur {OFTEN} times: expected {FEWEST} at least")
    pairs, log_p = pairs[often], logs[often]
    w_e, w_u = evidence.folded.W_E, evidence.folded.W_U
    step = max(1, limit("weight_products", w_e.device) // w_e.shape[1])

    def logits(first: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(first), step):
            a, b = (torch.as_tensor(ids[start : start + step], device=w_e.device) for ids in (first, pairs[:, 1]))
            parts.append((w_e[a] * w_u[:, b].T).sum(1))
        return torch.cat(parts).cpu().double().numpy()

    shuffled = np.random.default_rng(evidence.seed).permutation(pairs[:, 0])
    of = {"rank correlation": spearman(logits(pairs[:, 0]), log_p), "pairs": float(len(pairs))}
    others = {
        "shuffled first tokens": spearman(logits(shuffled), log_p),
        "unigrams alone": spearman(np.log(unigrams[pairs[:, 1]]), log_p),
    }
    return of, others


@torch.no_grad()
def frequency_bias(evidence: Evidence) -> tuple[Numbers, Numbers]:
    """Correlations of what the head adds to every prediction with the log unigrams; of shuffled unigrams.

    Raises
    ------
    SiteAbsent
        For a model without a final norm or a bias.
    """
    folded = evidence.folded
    log_p = log_unigrams(evidence).exp().sub(1).sum(1).add(1).log().numpy()
    biases = {}
    if bool(folded.b_U.ne(0).any()):
        biases["bias"] = folded.b_U
    tables = moments(evidence)
    last = [table.isel(layer=-1) for table in tables]
    if folded.final_norm is not None:
        n = [float(table["later_n"]) for table in tables]
        unit = np.average([table["later_cosine"].values for table in last], 0, n)
        # |x| = sqrt(d) * root mean square
        mean = torch.as_tensor(unit).to(folded.W_U) * len(unit) ** 0.5
        biases["mean output of the final norm"] = mean @ folded.W_U + folded.b_U
    if not biases:
        raise SiteAbsent("neither a final norm nor a bias stands before the logits: nothing is added to all of them")
    shuffled = np.random.default_rng(evidence.seed).permutation(log_p)
    numbers = {name: bias.cpu().double().numpy() for name, bias in biases.items()}
    values, control = ({name: _r(bias, other) for name, bias in numbers.items()} for other in (log_p, shuffled))
    return values, control


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Rank correlation, equal numbers with their mean rank.

    Examples
    --------
    >>> round(spearman(np.array([1.0, 2.0, 9.0]), np.array([0.1, 0.2, 0.3])), 6)
    1.0
    """
    return _r(_ranks(x), _ranks(y))


def _ranks(x: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return ((ends - counts + ends - 1) / 2)[which]


def _r(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    length = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / length) if length > 0 else 0.0
