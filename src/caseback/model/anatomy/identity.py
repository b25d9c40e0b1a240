"""What makes a model this model and no other: its class, its settings, and every weight and buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.jobs.fingerprint import fingerprint

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


def model_digest(hf: Any, standing: Sequence[Any] = (), *, whole: bool | None = None) -> str:
    """A digest of what makes a model this one, which for a large model looks at a sample of each weight's rows.

    Parameters
    ----------
    hf, standing
        As for ``identity_of``.
    whole
        Whether every number is looked at; by default where the weights are no larger than the limit
        ``whole_fingerprint_bytes``.

    Examples
    --------
    >>> import caseback as cb
    >>> hf = cb.load("meadow").hf
    >>> model_digest(hf) == model_digest(hf, whole=True) != model_digest(hf, whole=False)
    True
    """
    identity = identity_of(hf, standing)
    tensors = identity["weights"] | identity["buffers"]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > limit("whole_fingerprint_bytes") if whole is None else not whole:
        for kind in ("weights", "buffers"):
            identity[kind] = {name: [list(x.shape), str(x.dtype), _sampled(x)] for name, x in identity[kind].items()}
    return fingerprint(identity, "model")


def _sampled(tensor: Tensor) -> Tensor:
    """Some rows, evenly spread from the first to the last."""
    flat = tensor.detach().reshape(len(tensor), -1) if tensor.ndim > 1 else tensor.detach().reshape(1, -1)
    at = torch.linspace(0, len(flat) - 1, min(limit("fingerprint_rows"), len(flat)), device=flat.device).round().long()
    return flat[at].cpu()
