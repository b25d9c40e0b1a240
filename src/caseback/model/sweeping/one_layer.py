"""A pass through one layer, from the stream that the layer before it gave.

    x_l  ->  x_{l+1} = layer_l(x_l):     l = -1 is the embedding alone, l = n_layers the final norm

The model's own forward makes masks and positions; its other layers are not called. A walk through all layers, with
something done between any two of them, costs one forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.classes import logits_of
from caseback.model.anatomy.sites import Site
from caseback.model.running.edits import Edit
from caseback.model.running.frames import batch_frame
from caseback.model.running.passing import begun, ended, hooked, no_rows, undisturbed
from caseback.model.running.run import Run, expect_numbers_at, inputs_of, resolve
from caseback.model.running.session import Session
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.running.wiring import wired


@as_found
def through_layer(
    anatomy: Anatomy,
    tokens: Tokens,
    layer: int,
    before: Any,
    *,
    read: Sequence[Site] = (),
    edits: Sequence[Edit] = (),
) -> tuple[Run, Any]:
    """Run one layer of a model on the stream that entered it.

    Parameters
    ----------
    anatomy
        The model's, with the edits that stand in it.
    tokens
        The prompts that the stream is of.
    layer
        Which, -1 for what stands before the layers, ``n_layers`` for what stands behind them.
    before
        What this function gave for the layer before; None for the first layer and before.
    read
        Sites of this layer.
    edits
        Edits of this layer, and of ``resid_post`` of the one before.

    Returns
    -------
    tuple
        The run, and what the layer gave, after the edits.
    """
    session = Session(
        anatomy,
        batch_frame(tokens),
        tokens.shape,
        reads=read,
        edits=resolve(edits, anatomy, tokens),
        columns_before=[at for at, _ in tokens.extents],
        standing_at=lambda site: _in(site, layer, anatomy.n_layers),
    )
    output: list[Any] = [None]
    with (
        undisturbed(anatomy, grad=False),
        begun(anatomy, 0 if before is None else layer, before),
        ended(anatomy, layer),
        no_rows(anatomy.unembed),
        wired(session),
        hooked() as hooks,
    ):
        if 0 <= layer < anatomy.n_layers:
            hooks.after(anatomy.layers[layer].layer, lambda _, __, given: output.__setitem__(0, given))
        logits_of(anatomy.hf, inputs_of(tokens, anatomy.hf))
    expect_numbers_at(tokens, anatomy.hf, *session.acts.values())
    return Run(anatomy, tokens, session.acts, None, edited=True), output[0]


def _in(site: Site, layer: int, n_layers: int) -> bool:
    """Whether a site is passed on the way through a layer; of a module outside the layers either end may be."""
    if site.layer is not None:
        return site.layer == layer
    at_start, at_end = site.name in ("embed", "pos_embed"), site.name in ("final_norm", "logits")
    return (layer <= 0 and not at_end) or (layer == n_layers and not at_start and site.name != "logits")
