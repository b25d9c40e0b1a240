"""Sites: the named places of the computation that can be read and edited.

A site is a name of the table below and, for all but the ends of the model, a layer. It parses from and prints as its
TransformerLens hook name (``blocks.5.hook_resid_post``), and the anatomy adds Hugging Face module paths.
``attn_norm.scale`` (and ``mlp_norm.scale``, ``final_norm.scale``) is a norm's denominator. It is read-only, and so is
``router``: the experts are chosen from its logits in the same module, so only their weights can be edited, ``expert``.

``registered_sites`` adds to the table what is computed from a site of it. Any module's input or output is a site too,
by the module's path with ``.input`` or ``.output`` behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from caseback.errors import UnknownSite, did_you_mean


class Codec(Protocol):
    """What reads another site in terms of its own, and writes back: a dictionary, a rotation, a probe's subspace."""

    def encode(self, x: Tensor, /) -> Tensor:
        """From the last dimension of the base site to that of the view."""
        ...

    def decode(self, coded: Tensor, /) -> Tensor:
        """Back. What it does not give back of x is left where it is when the view is edited.

        A codec that has ``change(coded, edited, x)`` is asked for the difference of the two in place of decode's: where
        it needs x for that, or knows a shorter way.
        """
        ...


@dataclass(frozen=True)
class View:
    """A site that is computed from another one, layer by layer.

    Attributes
    ----------
    base
        What is encoded.
    codecs
        By layer.
    written
        Where an edit's difference is added: the base itself, or a later site of the layer (transcoders).
    flat
        Whether heads are encoded side by side, as one vector.
    sources
        By layer, the sites that are encoded together, (..., source, d), where it is not the base alone: the base, and
        others that the computation reaches before it.
    """

    base: str
    codecs: Mapping[int, Codec]
    written: str
    flat: bool = False
    sources: Mapping[int, tuple[Site, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SiteKind:
    """What a site holds: its dimensions after ``batch``, whether it lives in a layer, and its hook name."""

    dims: tuple[str, ...]
    layered: bool
    hook: str
    editable: bool = True
    view: View | None = None


_POS_D = ("pos", "d_model")
_HEAD_D = ("pos", "head", "d_model")
_HEAD_H = ("pos", "head", "d_head")
_KV_D = ("pos", "kv_head", "d_model")
_KV_H = ("pos", "kv_head", "d_head")
_MAP = ("head", "query", "key")

SITES: dict[str, SiteKind] = {
    "embed": SiteKind(_POS_D, False, "hook_embed"),
    "pos_embed": SiteKind(_POS_D, False, "hook_pos_embed"),
    "resid_pre": SiteKind(_POS_D, True, "hook_resid_pre"),
    "attn_in": SiteKind(_POS_D, True, "hook_attn_in"),
    "attn_norm": SiteKind(_POS_D, True, "ln1.hook_normalized"),
    "attn_norm.scale": SiteKind(("pos",), True, "ln1.hook_scale", editable=False),
    "q_in": SiteKind(_HEAD_D, True, "hook_q_input"),
    "k_in": SiteKind(_KV_D, True, "hook_k_input"),
    "v_in": SiteKind(_KV_D, True, "hook_v_input"),
    "q": SiteKind(_HEAD_H, True, "attn.hook_q"),
    "k": SiteKind(_KV_H, True, "attn.hook_k"),
    "v": SiteKind(_KV_H, True, "attn.hook_v"),
    "scores": SiteKind(_MAP, True, "attn.hook_attn_scores"),
    "pattern": SiteKind(_MAP, True, "attn.hook_pattern"),
    "z": SiteKind(_HEAD_H, True, "attn.hook_z"),
    "head_out": SiteKind(_HEAD_D, True, "attn.hook_result"),
    "attn_out": SiteKind(_POS_D, True, "hook_attn_out"),
    "resid_mid": SiteKind(_POS_D, True, "hook_resid_mid"),
    "mlp_in": SiteKind(_POS_D, True, "hook_mlp_in"),
    "mlp_norm": SiteKind(_POS_D, True, "ln2.hook_normalized"),
    "mlp_norm.scale": SiteKind(("pos",), True, "ln2.hook_scale", editable=False),
    "mlp_pre": SiteKind(("pos", "neuron"), True, "mlp.hook_pre"),
    "mlp_gate": SiteKind(("pos", "neuron"), True, "mlp.hook_gate"),
    "mlp_post": SiteKind(("pos", "neuron"), True, "mlp.hook_post"),
    "router": SiteKind(("pos", "expert"), True, "mlp.hook_router", editable=False),
    "expert": SiteKind(("pos", "expert"), True, "mlp.hook_expert_weights"),
    "mlp_out": SiteKind(_POS_D, True, "hook_mlp_out"),
    "resid_post": SiteKind(_POS_D, True, "hook_resid_post"),
    "final_norm": SiteKind(_POS_D, False, "ln_final.hook_normalized"),
    "final_norm.scale": SiteKind(("pos",), False, "ln_final.hook_scale", editable=False),
    "logits": SiteKind(("pos", "vocab"), False, "hook_logits"),
}

_BY_HOOK = {kind.hook: name for name, kind in SITES.items()}
_OF_MODULE = SiteKind(("pos", "feature"), False, "")
MODULE_ENDS = (".input", ".output")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


class Site(NamedTuple):
    """A site's name and its layer (None for ``embed``, ``pos_embed``, ``final_norm`` and ``logits``)."""

    name: str
    layer: int | None = None

    @property
    def kind(self) -> SiteKind:
        return kind_of(self.name)

    @property
    def is_module(self) -> bool:
        """Whether it is a module's input or output, named by its path."""
        return self.name.endswith(MODULE_ENDS)

    @property
    def base(self) -> Site:
        """The site of the model that it is computed from: itself, but for registered sites."""
        view = self.kind.view
        return self if view is None else Site(view.base, self.layer)

    @property
    def written(self) -> Site:
        """The site of the model that an edit of it changes: itself, but for registered sites."""
        view = self.kind.view
        return self if view is None else Site(view.written, self.layer)

    @property
    def sources(self) -> tuple[Site, ...]:
        """The sites that are encoded together, where a registered site is computed from several; else none."""
        view = self.kind.view
        return () if view is None or self.layer is None else view.sources.get(self.layer, ())

    @property
    def codec(self) -> Codec:
        """How a registered site is computed from its base."""
        view = self.kind.view
        if view is None or self.layer is None:
            raise UnknownSite(f"{self} is computed from no other site")
        return view.codecs[self.layer]

    @property
    def hook_name(self) -> str:
        """The TransformerLens name, e.g. ``blocks.5.attn.hook_z``; a module's input or output keeps its own."""
        if self.is_module:
            return self.name
        return self.kind.hook if self.layer is None else f"blocks.{self.layer}.{self.kind.hook}"

    @property
    def key(self) -> str | tuple[str, int]:
        """The site as a run is indexed with it: ``run[site.key]``."""
        return self.name if self.layer is None or self.is_module else (self.name, self.layer)

    def __str__(self) -> str:
        return self.name if self.layer is None or self.is_module else f"{self.name}.{self.layer}"


MAPS = ("scores", "pattern")
"""The sites that hold one number per query and key."""


def kind_of(name: str) -> SiteKind:
    """What is known of a site by its name; of a module's input or output its dimensions, (pos, feature)."""
    return _OF_MODULE if name.endswith(MODULE_ENDS) else SITES[name]


def as_site(given: Any) -> Site:
    """A site by its name or a pair, where no model is at hand that could say whether it has it.

    Raises
    ------
    UnknownSite

    Examples
    --------
    >>> as_site("z.5") == as_site(("z", 5)) == Site("z", 5)
    True
    """
    if isinstance(given, str):
        return Site(*parse(given))
    match given:
        case (str(name), int() | None as layer) if not isinstance(layer, bool):
            return Site(parse(name)[0], layer)
    raise UnknownSite(f"{given!r} is no site: give a name such as 'resid_post.5' or a pair ('resid_post', 5)")


def parse(text: str) -> tuple[str, int | None]:
    """Read a site name, with a layer if it names one.

    Parameters
    ----------
    text
        ``"z"``, ``"z.5"`` or a hook name such as ``"blocks.5.attn.hook_z"``.

    Returns
    -------
    The site's name and its layer, None where the text gives none.

    Raises
    ------
    UnknownSite
        With the nearest names.

    Examples
    --------
    >>> parse("blocks.5.hook_resid_post")
    ('resid_post', 5)
    >>> parse("attn_norm.scale")
    ('attn_norm.scale', None)
    """
    if not isinstance(text, str):
        raise UnknownSite(f"{text!r} is no site: give a name such as 'resid_post', 'z.5' or 'blocks.5.attn.hook_z'")
    if text in SITES:
        return text, None
    block = _BLOCK.fullmatch(text)
    if block and block[2] in _BY_HOOK:
        return _BY_HOOK[block[2]], int(block[1])
    if text in _BY_HOOK and not SITES[_BY_HOOK[text]].layered:
        return _BY_HOOK[text], None
    name, _, layer = text.rpartition(".")
    if name in SITES and SITES[name].layered and layer.isdecimal():
        return name, int(layer)
    names = [*SITES, *(f"blocks.0.{hook}" if SITES[n].layered else hook for hook, n in _BY_HOOK.items())]
    raise UnknownSite(f"no site is called {text!r}. {did_you_mean(text, names)} The sites are {', '.join(SITES)}")
