"""How many tokens a pass without gradients may have: what one has in hand, against what the devices have free.

    numbers of a token = 5 d + 3 e m + 3 h d_h + 10 k d_h + (1 + h / k) w + [maps] 3 h w + what a caller holds beside
    tokens             = limit("sweep_tokens", each = their bytes + bytes of the logits that the metric reads)

with d the stream's width, m the MLP's and e how many experts a token goes through, h heads of width d_h that share k
keys, and w the prompts' width. Only one layer is in hand at a time; the largest counts. A chunk of a sweep has up to 4
keys for each of its tokens, so no more than 4 / w segments, each with a metric.
"""

from __future__ import annotations

import math

from torch import nn

from caseback.jobs.budget import limit
from caseback.model.anatomy.anatomy import Anatomy, LayerParts
from caseback.model.anatomy.parameters import device_of
from caseback.model.anatomy.sites import Site
from caseback.model.running.metrics import Bound
from caseback.model.running.tokens import Tokens

KEYS = 4
"""The keys of a chunk's segments for each token of its budget, at most (``segments.chunks``)."""


def tokens_per_pass(
    anatomy: Anatomy,
    tokens: Tokens,
    given: int | None = None,
    *,
    logits: float = 0,
    maps: bool = False,
    beside: int = 0,
) -> int:
    """How many tokens of prompts as wide as these go through the model together.

    Parameters
    ----------
    anatomy, tokens
        The model and its prompts.
    given
        What a caller asked for, which goes before all else.
    logits
        How many are formed for each token; see ``logits_per_token``.
    maps
        Whether maps of attention are formed.
    beside
        Numbers of a token that the caller keeps besides, such as sites that are read.

    Returns
    -------
    int
        The least that any of the devices allows; 1 at least, unless a limit that was set says less.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tokens = model.tokens("the cat and the dog")
    >>> tokens_per_pass(model.anatomy, tokens, given=7), tokens_per_pass(model.anatomy, tokens) <= 2048
    (7, True)
    """
    each = bytes_of_a_token(anatomy, tokens.shape[1], logits=logits, maps=maps, beside=beside)
    places = {tokens.ids.device, *(device_of(p.layer) for p in anatomy.layers)}
    return min(limit("sweep_tokens", place, given=given, each=each) for place in places)


def bytes_of_a_token(anatomy: Anatomy, width: int, *, logits: float = 0, maps: bool = False, beside: int = 0) -> int:
    """What one token of a pass has in hand; see ``tokens_per_pass``.

    Examples
    --------
    >>> import caseback as cb
    >>> anatomy = cb.load("meadow").anatomy
    >>> bytes_of_a_token(anatomy, 100) < bytes_of_a_token(anatomy, 1000) < bytes_of_a_token(anatomy, 1000, maps=True)
    True
    """
    size = anatomy.hf.dtype.itemsize
    numbers = max(_numbers(anatomy, p, width, maps or forms_maps(anatomy, p)) for p in anatomy.layers)
    # logits, their logarithms and probabilities, in float32 at least
    return int(size * (numbers + beside) + 3 * max(4, size) * logits)


def logits_per_token(bound: Bound, d_vocab: int, width: int) -> float:
    """How many logits a metric forms for each token of a pass, at most: few where it reads few of them.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tokens = model.tokens(["the cat and the dog"])
    >>> of = lambda metric: logits_per_token(metric.on(tokens, model.anatomy), model.d_vocab, 100)
    >>> of(cb.logit(" the")), of(cb.kl(model.run(tokens))) / model.d_vocab, of(cb.loss()) / model.d_vocab
    (0.0, 0.04, 1.0)
    """
    if bound.site is not None or bound.vocab is not None:
        return 0.0
    return d_vocab * (1.0 if bound.columns is None else min(1.0, KEYS / width))


def numbers_of(anatomy: Anatomy, site: Site, width: int) -> int:
    """How many numbers a site holds for a token of prompts so wide: of a dictionary its features.

    Of a module, or of a codec that does not say, about as many as an MLP is wide.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.model.anatomy.sites import Site
    >>> anatomy = cb.load("meadow").anatomy
    >>> numbers_of(anatomy, Site("resid_post", 0), 9), numbers_of(anatomy, Site("pattern", 0), 9) == 9 * anatomy.n_heads
    (..., True)
    """
    parts = anatomy.layers[site.layer or 0]
    dims, wide = parts.dims, anatomy.d_mlp or 4 * anatomy.d_model
    sizes = {"pos": 1, "query": 1, "key": width, "d_model": anatomy.d_model, "vocab": anatomy.d_vocab}
    sizes |= {"head": dims.n_heads, "kv_head": dims.n_kv_heads, "d_head": max(dims.d_head, parts.d_z)}
    if site.kind.view is not None:
        wide = getattr(site.codec, "n_features", wide)
    return math.prod(sizes.get(dim, wide) for dim in site.kind.dims)


def _numbers(anatomy: Anatomy, parts: LayerParts, width: int, maps: bool) -> int:
    dims, d_head = parts.dims, max(parts.dims.d_head, parts.d_z)
    experts = 1 if parts.experts is None else int(getattr(anatomy.config, "num_experts_per_tok", None) or 2)
    mlp = 3 * experts * (anatomy.d_mlp or 4 * anatomy.d_model)
    heads = 3 * dims.n_heads * d_head + 2 * (1 + KEYS) * dims.n_kv_heads * d_head
    seen = (1 + dims.n_heads // dims.n_kv_heads) * width + 3 * dims.n_heads * width * maps
    return 5 * anatomy.d_model + mlp + heads + seen


def forms_maps(anatomy: Anatomy, parts: LayerParts) -> bool:
    """Whether a layer's attention is none that a fused kernel knows, so that its map is formed.

    Examples
    --------
    >>> import caseback as cb
    >>> anatomy = cb.load("meadow").anatomy
    >>> forms_maps(anatomy, anatomy.layers[0])
    False
    """
    capped = getattr(anatomy.config, "attn_logit_softcapping", None) is not None
    return capped or any(isinstance(getattr(m, "sinks", None), nn.Parameter) for m in parts.layer.modules())
