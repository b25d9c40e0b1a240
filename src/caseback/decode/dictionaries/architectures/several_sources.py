"""What dictionaries of several sources share: states (token, source, d) of several layers, or of several models.

Each source has its own scale, or each token of each source where tokens are normalized one by one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.errors import ArgumentError, OutOfRange, TokensError


class SeveralSources(Dictionary):
    """A dictionary whose states are (token, source, d)."""

    n_sources: int

    def _set_sources(self, n_sources: int) -> None:
        if self.W_skip is not None:
            raise ArgumentError("skip is for transcoders of one site: a dictionary of several sources has none")
        self.n_sources = n_sources
        for name in ("scale", "out_scale"):
            self.register_buffer(name, torch.ones(n_sources, 1, dtype=self.W_enc.dtype))

    def _expected(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or tuple(x.shape[-2:]) != (self.n_sources, self.d_in):
            wanted = f"(token, {self.n_sources} sources, {self.d_in})"
            raise TokensError(f"states of shape {tuple(x.shape)}: this dictionary reads {wanted}")
        return x.to(self.W_enc.dtype)


def expect_one_source(dictionary: Dictionary, what: str) -> None:
    """Refuse a dictionary of several sources where one site is read.

    Raises
    ------
    ArgumentError
    """
    if isinstance(dictionary, SeveralSources):
        sites = dictionary.facts.provenance.get("sites", [dictionary.facts.site or f"{dictionary.n_sources} sources"])
        raise ArgumentError(
            f"{dictionary.architecture} reads {', '.join(sites)} at once: {what} is for dictionaries of one site"
        )


def expect_sources(n_sources: int) -> None:
    """Refuse what is no number of sources.

    Raises
    ------
    OutOfRange
    """
    if n_sources < 1:
        raise OutOfRange(f"the number of sources is {n_sources}: expected 1 or more")
