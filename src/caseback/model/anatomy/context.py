"""How long a text may be: the positions that a model was made for, and whether its rotations stretch beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


_AFTER_PADDING = frozenset("roberta roberta-prelayernorm camembert data2vec-text xlm-roberta xlm-roberta-xl".split())
"""Model types whose positions begin behind the padding token's id."""


def first_position(config: Any) -> int:
    """The number that a model gives to a prompt's first position."""
    return int(config.pad_token_id) + 1 if config.model_type in _AFTER_PADDING else 0


def context_of(config: Any) -> int | None:
    """The longest prompt, where there is one. Rotations that stretch with the text (dynamic NTK) have none."""
    positions = _positions(config)
    return None if _stretches(config) or positions is None else positions - first_position(config)


def stretched_after(config: Any) -> int | None:
    """The length from which a prompt's rotations depend on how long its batch is; None where none do.

    Dynamic NTK stretches with the text past the trained positions; LongRoPE has a second set of frequencies, which all
    prompts of a batch get as soon as one of them is longer than the original context.
    """
    lengths = [_positions(config)] if _stretches(config) else []
    for kind in _rotations(config):
        if kind.get("rope_type") == "longrope":
            original = kind.get("original_max_position_embeddings")
            lengths.append(original or getattr(config, "original_max_position_embeddings", None))
    return min((length for length in lengths if length is not None), default=None)


def _positions(config: Any) -> int | None:
    values = (getattr(config, name, None) for name in _NAMES)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _rotations(config: Any) -> list[Mapping[str, Any]]:
    """How positions are rotated, a kind of layer each where kinds differ."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [rope, *(part for part in rope.values() if isinstance(part, Mapping))]


def _stretches(config: Any) -> bool:
    return any("dynamic" in str(kind.get("rope_type", "")) for kind in _rotations(config))
