"""The same dictionary in other weights: without its scales, with unit rows, or as a JumpReLU.

    scale      W_enc' = W_enc s    W_dec' = W_dec / s'    b_dec' = b_dec / s'          codes stay what they are
    norms      a_i' = a_i |d_i|    W_dec_i' = W_dec_i / |d_i|    and all that is compared with scores times |d_i|

A factor of all tokens can go into the weights; what is done to each token by itself cannot.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from caseback.decode.dictionaries.architectures.batch_topk import BatchTopK
from caseback.decode.dictionaries.architectures.cross_layer import CrossLayerJumpReLU, CrossLayerTranscoder
from caseback.decode.dictionaries.architectures.crosscoders import Crosscoder, JumpReLUCrosscoder
from caseback.decode.dictionaries.architectures.gated import Gated
from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.matching_pursuit import MatchingPursuit
from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.switch import Switch
from caseback.decode.dictionaries.architectures.topk import Revived
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.errors import ArgumentError
from caseback.model.anatomy.coerce import widened
from caseback.model.arguments import checked


@checked
@torch.no_grad()
def folded(dictionary: Dictionary, *, norms: bool = False) -> Dictionary:
    """An equal dictionary that takes states as they are.

    Parameters
    ----------
    dictionary
        With normalization ``"scale"`` or ``"none"``.
    norms
        Whether features write rows of norm 1 (in several sources, norms of sum 1), so that a code says how much is
        written. Not for TopK and its relatives where features are not selected by score times norm: other ones would
        be.

    Returns
    -------
    Dictionary
        With normalization ``"none"``. It encodes to the same codes, or with ``norms`` to codes times norms, and decodes
        to the same states.

    Raises
    ------
    ArgumentError
        Where tokens are normalized one by one, or norms cannot be folded.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> one = TopK(8, 32, k=4, facts=Facts(normalization="scale"))
    >>> one.scale.fill_(0.1), one.out_scale.fill_(0.1)
    (tensor(0.1000), tensor(0.1000))
    >>> x = 30 * torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    >>> bool((folded(one)(x) - one(x)).norm() < 1e-4 * one(x).norm())
    True
    """
    kind = dictionary.facts.normalization
    if kind not in ("none", "scale"):
        raise ArgumentError(f"normalization {kind!r} treats each token by itself: it cannot go into the weights")
    own = deepcopy(dictionary)
    uneven = own.out_scale.unique().numel() > 1
    if isinstance(own, MatchingPursuit):
        norms = False  # its rows are of norm 1
    if norms or (own.facts.by_norm and uneven):
        _fold_norms(own)
    if kind == "scale":
        _fold_scale(own)
    return own


def _fold_norms(own: Dictionary) -> None:
    if isinstance(own, Revived) and not own.facts.by_norm:
        raise ArgumentError(
            f"{own.architecture} selects by score alone: with norms folded it would select other features"
        )
    norms = own.norms()
    if not (norms > 0).all():
        norms = torch.where(norms > 0, norms, 1)  # a feature that writes nothing
    own.W_enc.mul_(norms[:, None])
    own.b_enc.mul_(norms)
    if isinstance(own, CrossLayerTranscoder):
        own.W_dec.div_(own.by_row(norms)[:, None])
    else:
        own.W_dec.div_(norms[:, None])
    match own:
        case JumpReLU():
            own.threshold.mul_(norms)
        case Gated():
            own.b_mag.mul_(norms)
        case _:
            pass
    own.facts = replace(own.facts, by_norm=False)


def _fold_scale(own: Dictionary) -> None:
    scale, out = own.scale, own.out_scale
    if own.facts.centered and not torch.equal(scale, out):  # what is subtracted is not what is added then
        own.b_enc.sub_(own.W_enc @ own.b_dec)
        if isinstance(own, Switch):
            own.b_router.add_(own.b_dec)
        own.facts = replace(own.facts, centered=False)
    if isinstance(own, BatchTopK) and own.facts.by_norm:
        own.threshold.div_(widened(out.unique()).squeeze())
    match own:
        case CrossLayerTranscoder():
            own.W_enc.mul_(scale.repeat_interleave(own.per_layer, 0))
            own.fold_out(out)
        case MatchingPursuit():  # rows are read and written: codes are divided by the scale
            own.b_dec.div_(scale)
            own.enough = own.enough / float(scale)
        case Crosscoder():
            sides = (scale.expand(-1, own.d_in).flatten(), out.expand(-1, own.d_in).flatten())
            own.W_enc.mul_(sides[0])
            own.W_dec.div_(sides[1])
            own.b_dec.div_(sides[1])
        case _:
            own.W_enc.mul_(scale)
            own.W_dec.div_(out)
            own.b_dec.div_(out)
    if isinstance(own, Switch):
        own.W_router.mul_(scale)
        own.b_router.div_(scale)
    for each in (own.scale, own.out_scale):
        each.fill_(1)
    own.facts = replace(own.facts, normalization="none", unit_rows=False)


@checked
@torch.no_grad()
def as_jump_relu(dictionary: Dictionary) -> JumpReLU:
    """An equal JumpReLU dictionary, of one that is gated or selects by a threshold.

    Parameters
    ----------
    dictionary
        Gated, BatchTopK and its relatives, or a standard one.

    Returns
    -------
    JumpReLU
        With thresholds b_mag - exp(r_mag) b_enc of gated ones (entry 4.2.17), the one threshold of BatchTopK (over the
        norms, where features are selected by them), or 0.

    Raises
    ------
    ArgumentError
        For other architectures: what they select depends on a token's other scores, or on their sign.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Gated
    >>> one, x = Gated(8, 32), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    >>> one.b_mag.data.fill_(0.2), one.r_mag.data.fill_(0.5)
    (...)
    >>> torch.allclose(as_jump_relu(one).encode(x), one.encode(x))
    True
    """
    one = dictionary
    match one:
        case Gated():
            gain = one.r_mag.exp()
            reads, bias, threshold = one.W_enc * gain[:, None], one.b_mag, (one.b_mag - gain * one.b_enc).relu()
        case BatchTopK():
            floor = one.threshold.relu().to(one.W_enc.dtype).expand(one.n_features)
            reads, bias, threshold = one.W_enc, one.b_enc, floor / one.norms() if one.facts.by_norm else floor
        case Standard():
            reads, bias, threshold = one.W_enc, one.b_enc, torch.zeros_like(one.b_enc)
        case _:
            raise ArgumentError(f"{one.architecture}: no threshold of a feature's own tells when it is active")
    kinds = {Crosscoder: JumpReLUCrosscoder, CrossLayerTranscoder: CrossLayerJumpReLU}
    kind = next((to for of, to in kinds.items() if isinstance(one, of)), JumpReLU)
    options = {name: value for name, value in one.own_options().items() if name in kind.options}
    skip, dtype = one.W_skip is not None, one.W_enc.dtype
    new = kind(one.d_in, one.n_features, one.d_out, facts=one.facts, skip=skip, dtype=dtype, **options)
    tensors = {name: value for name, value in one.state_dict().items() if name in new.state_dict()}
    new.load_state_dict({**tensors, "W_enc": reads, "b_enc": bias, "threshold": threshold})
    return new.to(one.W_enc.device)
