"""A metric of any site: a neuron, a feature, a head's score, what a probe reads.

    activation = x_u, or x . d

It needs nothing behind its site, so a sweep stops there.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from caseback.errors import TargetError
from caseback.jobs.sent_calls import sent_as_a_call
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import MAPS
from caseback.model.arguments import checked
from caseback.model.running.metrics import Bound, Metric, Position
from caseback.model.running.tokens import Tokens


@checked
@sent_as_a_call
def activation(
    site: str,
    *,
    layer: int | None = None,
    head: int | None = None,
    unit: int | None = None,
    direction: Float[Tensor, " unit"] | None = None,
    pos: Position = -1,
) -> Metric:
    """What a site holds at one place: a neuron, a feature, a head's score, or what a direction reads there.

        x[pos, head, unit]      or      x[pos, head] . direction

    Parameters
    ----------
    site
        A site, registered ones and modules' inputs and outputs included; not ``logits`` (``logit`` reads those).
    layer, head
        Where in it; a head where the site has heads.
    unit
        The neuron, feature or dimension; at ``scores`` and ``pattern`` the key, as a position of the prompt.
    direction
        In place of a unit: its dot product with the activation is measured.
    pos
        The position, the query at ``scores`` and ``pattern``; the last by default.

    Raises
    ------
    TargetError
        For neither or both of unit and direction, and, once it meets a model, a place that the site does not have.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> neuron = cb.activation("mlp_post", layer=2, unit=17)
    >>> heads = [cb.Zero("z", layer=1, head=h) for h in range(model.n_heads)]
    >>> effects = model.sweep("Mary and John went to", heads, neuron)  # runs layers 1 and 2 alone
    >>> effects.shape == (model.n_heads, 1)
    True
    """
    if site in ("logits", "embed", "pos_embed"):
        raise TargetError(f"activation({site!r}): nothing drives an embedding, and cb.logit reads the logits")
    if (unit is None) == (direction is None) or (site in MAPS and direction is not None):
        raise TargetError(f"activation({site!r}) needs one number: give unit= or, but for maps, direction=")

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        keys = tokens.column(unit) if site in MAPS and unit is not None else None

        def value(x: Tensor, rows: Tensor) -> Tensor:
            x = _of_head(at_least_float32(x), head, site)
            if direction is not None:
                if direction.shape != x.shape[-1:]:
                    raise TargetError(
                        f"a direction of shape {tuple(direction.shape)} at {site!r} of size {x.shape[-1]}"
                    )
                return x @ direction.to(x)
            if keys is not None:
                return x.gather(-1, keys.to(x.device)[rows][:, None])[:, 0]
            assert unit is not None
            if not -x.shape[-1] <= unit < x.shape[-1]:
                raise TargetError(f"unit {unit} is out of range at {site!r}: there are {x.shape[-1]}")
            return x[:, unit]

        return Bound(tokens.column(pos), None, value)

    place = f"L{layer}" if layer is not None else ""
    place += "" if head is None else f"H{head}"
    reads = (site if layer is None else (site, layer),)
    name = " ".join(part for part in (site, place, "direction" if unit is None else f"unit {unit}") if part)
    return Metric(name, bind, pos=pos, reads=reads, compared_with=direction)


def _of_head(x: Tensor, head: int | None, site: str) -> Tensor:
    """(row, unit) of (row, [head,] unit)."""
    if x.ndim == 2:
        if head is not None:
            raise TargetError(f"{site!r} has no heads: leave out head={head}")
        return x
    if head is None or not -x.shape[1] <= head < x.shape[1]:
        raise TargetError(f"head {head} is not a head of {site!r}: there are {x.shape[1]}, 0 to {x.shape[1] - 1}")
    return x[:, head]
