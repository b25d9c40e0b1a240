"""What makes a model this model and no other: its class, its settings, and every weight and buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_OF_THE_INSTALLATION = ("transformers_version",)


def identity_of(hf: Any, standing: Sequence[Any] = ()) -> dict[str, Any]:
    """A model's facts as ``jobs.fingerprint`` takes them; where it was loaded from is not one of them.

    ``standing`` are the edits that an edited model stands under.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.jobs.fingerprint import fingerprint
    >>> one, other = (identity_of(cb.load("meadow").hf) for _ in range(2))
    >>> fingerprint(one) == fingerprint(other)
    True
    """
    config = hf.config.to_dict()
    return {
        "class": type(hf).__name__,
        "config": {k: v for k, v in config.items() if not k.startswith("_") and k not in _OF_THE_INSTALLATION},
        "weights": dict(hf.named_parameters()),
        "buffers": dict(hf.named_buffers()),
        "edits": list(standing),
    }
