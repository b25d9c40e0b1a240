"""What is to be known of a dictionary beside its weights: where it reads, what is done to a state first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Normalization = Literal["none", "scale", "layer_norm", "unit_norm"]
NORMALIZATIONS: tuple[Normalization, ...] = ("none", "scale", "layer_norm", "unit_norm")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a dictionary's weights do not tell.

    Attributes
    ----------
    site, target
        Where it reads and what it reconstructs, such as ``"resid_post.5"``; the target is the site itself but for
        transcoders. Empty: not known.
    model
        The model's name, or its fingerprint. Empty: not known.
    centered
        Whether ``b_dec`` is subtracted from what is read.
    normalization
        What happens to a state first: ``"none"``; ``"scale"``, one factor for all tokens; ``"layer_norm"``, each
        token's mean and standard deviation; ``"unit_norm"``, each token scaled to the norm sqrt(d).
    by_norm
        Whether features are selected by score times the norm of their row of ``W_dec``, not by score.
    unit_rows
        Whether training keeps the rows of ``W_dec`` at norm 1.
    tokens
        Which tokens it was trained on, in words (``"no first tokens"``).
    provenance
        Anything else that is known of its making; JSON data.
    """

    site: str = ""
    target: str = ""
    model: str = ""
    centered: bool = True
    normalization: Normalization = "none"
    by_norm: bool = False
    unit_rows: bool = False
    tokens: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_transcoder(self) -> bool:
        """Whether it reconstructs another site than the one it reads."""
        return self.target not in ("", self.site)
