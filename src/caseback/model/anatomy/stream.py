"""How writes reach the stream: by adding in most families; where it is otherwise, nothing can be split among writes.

    resid_mid = join(resid_pre, attn_out)       resid_post = join(resid_mid, mlp_out)

What needs the stream to be the sum of all writes, and the logits to read it linearly, asks ``expect_sums`` first: a
decomposition, a direct effect, a graph of writers and readers. Running, editing, sweeping and gradients need neither.
"""

from __future__ import annotations

import torch

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.family import Join


def joins(anatomy: Anatomy, layer: int) -> tuple[Join, Join]:
    """The stream after a layer's attention and after its MLP, each of the stream before it and the write."""
    declared = anatomy.family.joins
    return (torch.add, torch.add) if declared is None else declared(anatomy.layers[layer].layer, layer)


def expect_sums(anatomy: Anatomy, what: str) -> None:
    """Refuse what needs a stream that is the sum of all writes and that the logits read linearly.

    Raises
    ------
    SiteAbsent
        With the family's reason.
    """
    if anatomy.family.unsummed is not None:
        raise SiteAbsent(f"{what} is not defined for models of type {anatomy.model_type!r}: {anatomy.family.unsummed}")


def expect_token_embeddings(anatomy: Anatomy) -> None:
    """Refuse what asks for the embedding of a token by itself, where positions are inside of it.

    Raises
    ------
    SiteAbsent
        With the reason.
    """
    if anatomy.embed_whole is not None:
        raise SiteAbsent(
            f"a token of models of type {anatomy.model_type!r} has no embedding by itself: positions are added to it "
            "before its norm. Give a baseline as a tensor, or use a method that needs no other token"
        )
