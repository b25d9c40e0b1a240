"""AbsTopK: the k scores of largest size are active, with their sign (B.10; Zhu et al. 2025).

    a = z where |z| is among the k largest of the token, else 0

One feature then stands for a direction and its opposite, where a dictionary of positive codes needs two. Whatever
counts activity must ask for codes other than 0, and whatever looks for the strongest examples must look at both ends.
"""

from __future__ import annotations

from typing import Any

from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.registry import architecture


@architecture("abs_topk")
class AbsTopK(TopK):
    """The k scores of largest size of each token, with their sign.

    Parameters
    ----------
    k
        Active features a token.
    """

    signed = True
    options = ("k", "k_aux", "aux_coefficient")

    def __init__(self, *sizes: Any, k: int, **options: Any):
        super().__init__(*sizes, k=k, relu=False, **options)
