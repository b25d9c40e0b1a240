"""Explained variance in the definitions that are in circulation; on the same reconstruction they differ by a quarter.

    corpus     1 - sum |e|^2 / sum |t - E t|^2,  e = t - t^      sums over all tokens
    masked     the same without tokens that are many times longer than most: a few sinks hold most of the variance
    tokens     the mean over tokens of 1 - |e|^2 / |t - m|^2     m the mean of the token's block
    batches    the mean over blocks of 1 - sum |e|^2 / sum |t - m|^2
    of_error   1 - sum |e - E e|^2 / sum |t - E t|^2              what a constant would still repair is not counted

The mean of ratios is dominated by tokens near the mean, the corpus ratio by the longest ones.
"""

from __future__ import annotations

from caseback.decode.dictionaries.measures.sums import Sums

NAN = float("nan")


def explained_variance(sums: Sums, up_to: int) -> dict[str, float]:
    """All definitions; ``masked`` counts tokens in the bins of the norm below ``up_to``.

    A definition whose variance is 0 is NaN.
    """
    whole, masked = sums.total(), sums.total(up_to)
    return {
        "masked": _share(masked["error"], _spread(masked, "target")),
        "corpus": _share(whole["error"], _spread(whole, "target")),
        "tokens": _mean(*sums.ratios[0].tolist()),
        "batches": _mean(*sums.ratios[1].tolist()),
        "of_error": _share(_spread(whole, "error"), _spread(whole, "target")),
    }


def _spread(total: dict[str, float], name: str) -> float:
    """The sum of squared distances from the mean."""
    return total[name] - total[f"square_of_{name}"] / max(total["count"], 1.0)


def _share(left: float, whole: float) -> float:
    return 1 - left / whole if whole > 0 else NAN


def _mean(total: float, count: float) -> float:
    return total / count if count else NAN
