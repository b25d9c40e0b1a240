"""What a page says about its model."""

from __future__ import annotations

from typing import Any

from caseback.model.arguments import checked
from caseback.model.running.model import Model

__all__ = ["model_facts"]


@checked
def model_facts(model: Model, *names: str) -> dict[str, Any]:
    """A model's name, family, sizes and number type, as plain data.

    Parameters
    ----------
    model
        The model.
    *names
        Which facts, in this order; all by default.

    Examples
    --------
    >>> import caseback as cb
    >>> model_facts(cb.load("meadow"), "name", "n_layers")
    {'name': 'meadow', 'n_layers': 4}
    """
    facts = {
        "name": model.name,
        "family": model.anatomy.model_type,
        "n_layers": model.n_layers,
        "n_heads": max(p.dims.n_heads for p in model.anatomy.layers),
        "n_kv_heads": model.n_kv_heads,
        "d_model": model.d_model,
        "vocab": model.d_vocab,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in model.hf.parameters()),
    }
    return {name: facts[name] for name in names or facts}
