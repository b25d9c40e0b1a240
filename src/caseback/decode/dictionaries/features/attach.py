"""Dictionaries as sites of a model: a feature is read, edited, swept, patched and differentiated like a neuron.

    x' = x + decode(edited) - decode(encode(x))            at the site that the dictionary writes

What a dictionary does not reconstruct, its error, stays where it is, so nothing changes where no edit is made. The
error is a site too, ``<name>_error``, unless the dictionary is a transcoder: removing it leaves what the features say.

A crosscoder of several layers has its features where the last of them is, since codes are of all. An edit there adds
what the feature writes to the last layer, x^M' = x^M + (a' - a) W_dec^M: what earlier layers wrote before has gone its
way. To write to all of them, add ``rows()[feature, m]`` to each. A cross-layer transcoder's features are read alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from caseback.decode.dictionaries.architectures.cross_layer import CrossLayerTranscoder
from caseback.decode.dictionaries.architectures.crosscoders import Crosscoder
from caseback.decode.dictionaries.architectures.several_sources import SeveralSources
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.features.places import last_source, sources_of
from caseback.decode.dictionaries.formats.saved_dictionaries import expect_model
from caseback.errors import ArgumentError, LoadError
from caseback.model.anatomy.parameters import device_of
from caseback.model.anatomy.registered_sites import register_site, remove_site
from caseback.model.anatomy.sites import SITES, Codec, Site, as_site
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.session import written_change


class _Error:
    """What a dictionary leaves of its input, as a site: an edit of it adds its difference."""

    def __init__(self, dictionary: Dictionary):
        self.dictionary = dictionary

    def encode(self, x: Tensor) -> Tensor:
        return x - self.dictionary(x).to(x.dtype)

    def decode(self, coded: Tensor) -> Tensor:
        return coded


class _Together:
    """A dictionary of several sources, read and written at the last of them."""

    def __init__(self, dictionary: SeveralSources):
        self.dictionary, self.n_features, self.last = dictionary, dictionary.n_features, last_source(dictionary)

    def encode(self, x: Tensor) -> Tensor:
        return self.dictionary.encode(x)

    def decode(self, coded: Tensor) -> Tensor:
        return self.dictionary.decode(coded)[..., self.last, :]

    def change(self, coded: Tensor, edited: Tensor, x: Tensor) -> Tensor:
        assert isinstance(self.dictionary, Crosscoder)  # others are not edited
        return self.dictionary.change_at(coded, edited, x, self.last)


class _ErrorTogether(_Error):
    """What a crosscoder leaves of its last source."""

    def encode(self, x: Tensor) -> Tensor:
        last = last_source(self.dictionary)
        return x[..., last, :] - self.dictionary(x)[..., last, :].to(x.dtype)


class _Elsewhere:
    """What stands on one device, asked for states on any: its answers are where these are."""

    def __init__(self, codec: Codec, device: torch.device):
        self.codec, self.device = codec, device

    def encode(self, x: Tensor) -> Tensor:
        return self.codec.encode(x.to(self.device)).to(x.device)

    def decode(self, coded: Tensor) -> Tensor:
        return self.codec.decode(coded.to(self.device)).to(coded.device)

    def change(self, coded: Tensor, edited: Tensor, x: Tensor) -> Tensor:
        return written_change(self.codec, *(each.to(self.device) for each in (coded, edited, x))).to(x.device)


@checked
def attach(
    model: Model, dictionaries: Dictionary | Sequence[Dictionary], *, name: str = "feature", force: bool = False
) -> list[str]:
    """Make dictionaries' features sites, until ``detach``.

    Parameters
    ----------
    model
        The model whose states they read; dictionaries are moved to its device, and keep their dtype. Those of layers
        on other devices stand there too: states go to them and codes come back.
    dictionaries
        One a layer, all of one site, such as ``"resid_post"``; transcoders all of one pair of sites. Crosscoders of
        layers count as of their last one; cross-layer transcoders are read and not edited.
    name
        What the site is called from now on, in ``read``, edits, patches and metrics.
    force
        Take dictionaries that say they were made for another model.

    Returns
    -------
    list of str
        The names of the new sites: ``name``, and ``name_error`` but for transcoders and sites of heads.

    Raises
    ------
    ArgumentError
        For dictionaries of several sites, two of one layer, a crosscoder of two models, or one that does not say its
        site.
    LoadError
        For dictionaries of another width or, without ``force``, another model.
    UnknownSite
        For a name that is taken.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK, attach, detach
    >>> model = cb.load("meadow")
    >>> attach(model, TopK(160, 640, k=8, facts=Facts(site="resid_post.1")))
    ['feature', 'feature_error']
    >>> run = model.run("the cat", read=["feature"])
    >>> run["feature", 1].shape
    torch.Size([1, 3, 640])
    >>> without = model.run("the cat", edits=cb.Zero("feature", layer=1, unit=3))
    >>> detach()
    """
    several = [dictionaries] if isinstance(dictionaries, Dictionary) else list(dictionaries)
    if not several:
        raise ArgumentError("there is nothing to attach: give a dictionary")
    by_layer: dict[int, Dictionary] = {}
    pairs = set()
    for one in several:
        sources = sources_of(one)
        site = target = sources[last_source(one)]
        if not isinstance(one, SeveralSources):
            target = as_site(one.facts.target or one.facts.site)
        if site.layer is None or site.layer != target.layer:
            raise ArgumentError(f"{one!r} reads {site} and writes {target}: expected two sites of one layer")
        if site.layer in by_layer:
            raise ArgumentError(f"two dictionaries are of layer {site.layer}: attach them under names of their own")
        if not force:
            _expect_own(one, model)
        expect_model(one, model, repr(one), [str(source) for source in sources])
        by_layer[site.layer] = one.to(model.device)
        pairs.add((site.name, target.name))
    if len(pairs) > 1:
        listed = ", ".join(sorted(f"{a} -> {b}" if a != b else a for a, b in pairs))
        raise ArgumentError(f"dictionaries of several sites: {listed}; attach each kind under a name of its own")
    ((site, target),) = pairs
    flat = len(SITES[site].dims) > 2
    sources = {layer: sources_of(one) for layer, one in by_layer.items() if isinstance(one, SeveralSources)}
    across = any(isinstance(one, CrossLayerTranscoder) for one in by_layer.values())
    codecs = {layer: _Together(one) if isinstance(one, SeveralSources) else one for layer, one in by_layer.items()}
    register_site(name, site, _reached(model, codecs), written=target, flat=flat, sources=sources, editable=not across)
    if site != target or flat or across:
        return [name]
    errors = {layer: (_ErrorTogether if layer in sources else _Error)(one) for layer, one in by_layer.items()}
    dim = Site(site, 0).kind.dims[-1]
    register_site(f"{name}_error", site, _reached(model, errors), dim=dim, sources=sources)
    return [name, f"{name}_error"]


@checked
def detach(name: str = "feature") -> None:
    """Take sites that ``attach`` made off the table.

    Raises
    ------
    UnknownSite
        For a name that is not attached.
    """
    remove_site(name)
    if f"{name}_error" in SITES:
        remove_site(f"{name}_error")


@checked
@contextmanager
def attached(
    model: Model, dictionaries: Dictionary | Sequence[Dictionary], *, name: str = "feature", force: bool = False
) -> Iterator[list[str]]:
    """``attach`` for as long as a ``with`` block lasts; gives the sites' names."""
    names = attach(model, dictionaries, name=name, force=force)
    try:
        yield names
    finally:
        detach(name)


def _reached(model: Model, codecs: Mapping[int, Codec]) -> dict[int, Codec]:
    """Codecs as their layers can ask them, also from another device."""
    if {device_of(p.layer) for p in model.anatomy.layers} == {model.device}:
        return dict(codecs)
    return {layer: _Elsewhere(codec, model.device) for layer, codec in codecs.items()}


def _expect_own(dictionary: Dictionary, model: Model) -> None:
    made_for = dictionary.facts.model
    if made_for and made_for.rstrip("/").split("/")[-1].lower() != model.name.rstrip("/").split("/")[-1].lower():
        why = f"{dictionary!r} was made for {made_for!r}, not {model.name!r}"
        raise LoadError(f"{why}: give force=True if they have the same states")
