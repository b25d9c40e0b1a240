"""Decoders with a classification or reward head: their logits are of classes, which are targets in place of tokens.

    logits[pos] = final_norm(resid_post[-1, pos]) W_score           a prompt is judged at its last token

transformers pools the last token that is no padding; a prompt's own last position is that token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from caseback.errors import SiteAbsent, TargetError, did_you_mean
from caseback.model.anatomy.coerce import as_integer


@dataclass(frozen=True)
class Classes:
    """The names of a classifier's outputs, by number; a reward model has one."""

    names: tuple[str, ...]

    def id_of(self, named: str | int, what: str = "target") -> int:
        """The number of a class, by its name or number.

        Raises
        ------
        TargetError
            For what is no class of the model, with those that it has.

        Examples
        --------
        >>> Classes(("NEGATIVE", "POSITIVE")).id_of("POSITIVE")
        1
        """
        if isinstance(named, str):
            if named not in self.names:
                raise TargetError(f"{what} {named!r} is no class of this model. {did_you_mean(named, self.names)}")
            return self.names.index(named)
        number = as_integer(named, what, TargetError, "a class's name or number")
        if not 0 <= number < len(self.names):
            raise TargetError(f"{what} {number} is no class of this model: expected 0 to {len(self.names) - 1}")
        return number


def classes_of(hf: Any) -> Classes | None:
    """The classes of a decoder with such a head; None for a language model."""
    score = getattr(hf, "score", None)
    if not isinstance(score, nn.Linear) or not type(hf).__name__.endswith("ForSequenceClassification"):
        return None
    named: Mapping[int, str] = getattr(hf.config, "id2label", None) or {}
    return Classes(tuple(str(named.get(i, f"LABEL_{i}")) for i in range(score.out_features)))


def logits_of(hf: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Logits at every position: a classifier's own forward would return the last one's alone."""
    if classes_of(hf) is None:
        return hf(**inputs, use_cache=False).logits
    return hf.score(hf.base_model(**inputs, use_cache=False).last_hidden_state)


def expect_tokens_out(anatomy: Any, what: str) -> None:
    """Refuse what reads tokens off the logits of a model that has logits of classes.

    Raises
    ------
    SiteAbsent
        Naming what is asked for.
    """
    if anatomy.classes is not None:
        raise SiteAbsent(
            f"{what} needs logits of tokens, and this model ({type(anatomy.hf).__name__}) has logits of "
            f"{len(anatomy.classes.names)} classes: load the language model"
        )
