"""An anatomy found again on a model that was copied or sent to another process: it points into the model's modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.families import family_of


def assembled(hf: Any, tokenizer: Any = None, standing: Sequence[Any] = ()) -> Anatomy:
    """The anatomy of a model that was verified before it was copied or sent.

    Parameters
    ----------
    hf, tokenizer
        The model and its tokenizer.
    standing
        Edits, with their sites, that every pass starts under.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> assembled(model.hf).n_layers == model.n_layers
    True
    """
    anatomy = Anatomy(hf, family_of(hf.config.get_text_config())[0])
    anatomy.tokenizer, anatomy.standing = tokenizer, tuple(standing)
    return anatomy
