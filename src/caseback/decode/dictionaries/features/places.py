"""Where a dictionary stands in a model: the one site that it reads, or those of its sources and the last of them.

A crosscoder of several layers, or a cross-layer transcoder, is read once all its sources are there: at the last one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.dictionaries.architectures.cross_layer import CrossLayerTranscoder
from caseback.decode.dictionaries.architectures.crosscoders import Crosscoder
from caseback.decode.dictionaries.architectures.several_sources import SeveralSources
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.errors import ArgumentError, UnknownSite
from caseback.model.anatomy.registered_sites import in_order
from caseback.model.anatomy.sites import Site, as_site


def source_names(dictionary: Dictionary) -> list[str]:
    """What a dictionary's sources are called: sites, or of a crosscoder of two models whatever its recipe said.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Facts, TopK, TopKCrosscoder
    >>> source_names(TopK(4, 8, k=2, facts=Facts(site="resid_post.2")))
    ['resid_post.2']
    >>> source_names(TopKCrosscoder(4, 8, n_sources=2, k=2))
    ['source 0', 'source 1']
    """
    if not isinstance(dictionary, SeveralSources):
        return [dictionary.facts.site] if dictionary.facts.site else []
    return _named(dictionary, "sites", dictionary.facts.site) or [f"source {i}" for i in range(dictionary.n_sources)]


def target_names(dictionary: Dictionary) -> list[str]:
    """What a dictionary reconstructs: its sources, but for transcoders.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> target_names(TopK(4, 8, k=2, facts=Facts(site="mlp_in.2", target="mlp_out.2")))
    ['mlp_out.2']
    """
    if not isinstance(dictionary, SeveralSources):
        return [dictionary.facts.target or dictionary.facts.site]
    return _named(dictionary, "targets", dictionary.facts.target) or source_names(dictionary)


def _named(dictionary: SeveralSources, key: str, site: str) -> list[str]:
    """What a recipe called them; of a cross-layer transcoder, which has all layers, its site by layer."""
    named = dictionary.facts.provenance.get(key)
    if isinstance(named, list) and len(named) == dictionary.n_sources:
        return [str(name) for name in named]
    every = isinstance(dictionary, CrossLayerTranscoder) and site
    return [f"{site}.{layer}" for layer in range(dictionary.n_sources)] if every else []


def in_words(names: Sequence[str]) -> str:
    """Sites as one text; layers that follow each other as a range.

    Examples
    --------
    >>> in_words(["mlp_in.0", "mlp_in.1", "mlp_in.2"]), in_words(["base", "chat"])
    ('mlp_in.0 to mlp_in.2', 'base + chat')
    """
    first, _, start = names[0].rpartition(".") if names else ("", "", "")
    follow = start.isdecimal() and list(names) == [f"{first}.{int(start) + i}" for i in range(len(names))]
    return f"{names[0]} to {names[-1]}" if follow and len(names) > 2 else " + ".join(names)


def sources_of(dictionary: Dictionary) -> list[Site]:
    """The sites that a dictionary reads, one a source, in their order.

    Raises
    ------
    ArgumentError
        Where it does not say them, or they are of several models.
    """
    names = source_names(dictionary)
    if not names:
        raise ArgumentError(f"{dictionary!r} does not say which site it reads: give it Facts(site='resid_post.5')")
    try:
        sites = [as_site(name) for name in names]
    except UnknownSite:
        sites = []
    if sites and all(site.layer is not None for site in sites) and len(set(sites)) == len(sites):
        return sites
    if not isinstance(dictionary, SeveralSources):
        raise ArgumentError(f"{dictionary!r} reads {names[0]!r}: expected a site with its layer, such as resid_post.5")
    raise ArgumentError(
        f"{dictionary.architecture} of {', '.join(names)}: one model's pass has no such sites. Of one model's layers, "
        "name them in Recipe(site=[...]); of two models, read both and compare with latent_scaling, or show its rows "
        "(caseback dictionary show)"
    )


def last_source(dictionary: Dictionary) -> int:
    """Which source of several a pass of the model reaches last."""
    sites = sources_of(dictionary)
    return max(range(len(sites)), key=lambda i: in_order(sites[i]))


def place_of_codes(dictionary: Dictionary) -> Site:
    """The site at which a dictionary's codes are known: what it reads, or the last of its sources."""
    return sources_of(dictionary)[last_source(dictionary)]


def written_norms(dictionary: Dictionary) -> Float[Tensor, "feature target"]:
    """The norm of what each feature writes to each target, of normalized states; 0 where it cannot write."""
    with torch.no_grad():
        if isinstance(dictionary, Crosscoder):
            return dictionary.rows().norm(dim=-1)
        if not isinstance(dictionary, CrossLayerTranscoder):
            return dictionary.norms()[:, None]
        norms = dictionary.W_dec.new_zeros(dictionary.n_features, dictionary.n_layers)
        for layer in range(dictionary.n_layers):
            own = slice(layer * dictionary.per_layer, (layer + 1) * dictionary.per_layer)
            norms[own, layer:] = dictionary.decoder(layer).norm(dim=-1)
        return norms


def written_to_stream(dictionary: Dictionary, source: int | None = None) -> Float[Tensor, "feature d"]:
    """What one unit of each feature adds to the stream behind all that it writes, but for tokens' own scales.

    What it writes to the stream itself at several layers is the stream's there, so its last row counts; what it writes
    to parts' outputs adds up. With ``source``, the row of this source of a crosscoder.
    """
    with torch.no_grad():
        by_token = dictionary.facts.normalization in ("layer_norm", "unit_norm")
        scale = torch.ones_like(dictionary.out_scale) if by_token else dictionary.out_scale
        if isinstance(dictionary, CrossLayerTranscoder):
            scale = scale.expand(dictionary.n_layers, 1)
            blocks = [dictionary.decoder(s) / scale[s:] for s in range(dictionary.n_layers)]
            return torch.cat([block.expand(-1, dictionary.n_layers - s, -1).sum(1) for s, block in enumerate(blocks)])
        if not isinstance(dictionary, Crosscoder):
            return dictionary.W_dec / scale
        rows = dictionary.rows() / scale
        if source is not None:
            return rows[:, source]
        sites = sources_of(dictionary)
        add_up = not any(site.name.startswith("resid") for site in sites)
        return rows.sum(1) if add_up else rows[:, last_source(dictionary)]
