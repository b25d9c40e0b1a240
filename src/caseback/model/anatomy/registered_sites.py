"""Sites of one's own: what is computed from a site of the model, read and edited like any other.

    coded = encode(x)          x' = x + decode(edited) - decode(coded)

A dictionary's features, coordinates under a rotation, the part of a stream that a probe reads. What ``decode`` cannot
write of x stays where it is, so nothing changes where no edit is made, and rows without one keep their bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from caseback.errors import UnknownSite, did_you_mean
from caseback.model.anatomy.sites import MODULE_ENDS, SITES, Codec, Site, SiteKind, View

_WIDTHS = ("d_model", "d_head", "neuron")
_COMPUTED = ("q_in", "k_in", "v_in", "head_out")


def bases() -> list[str]:
    """The sites that others can be computed from.

    Examples
    --------
    >>> bases()[:3]
    ['resid_pre', 'attn_in', 'attn_norm']
    """
    return [name for name, kind in SITES.items() if _can_be_base(name, kind)]


def _can_be_base(name: str, kind: SiteKind) -> bool:
    return kind.layered and kind.editable and kind.dims[-1] in _WIDTHS and name not in _COMPUTED and kind.view is None


def in_order(site: Site) -> tuple[int, int]:
    """Where a layer's site stands in the computation, to sort sites by."""
    return -1 if site.layer is None else site.layer, list(SITES).index(site.name)


def register_site(
    name: str,
    base: str,
    codecs: Mapping[int, Codec],
    *,
    dim: str = "feature",
    written: str | None = None,
    flat: bool = False,
    sources: Mapping[int, Sequence[Site]] | None = None,
    editable: bool = True,
) -> None:
    """Add a site to the table for as long as the program runs, or until ``remove_site``.

    Parameters
    ----------
    name
        What it is called from now on, in ``read``, edits, patches and metrics.
    base
        The site that it is computed from; one of ``bases()``.
    codecs
        By layer, an object with ``encode``, from (..., width of the base) to (..., width of the site), and ``decode``
        back. Both are called on a model's own tensors, on its device and in its dtype, and differentiated.
    dim
        What its last dimension is called in results.
    written
        Where an edit's difference is added: the base, or a later site of the same layer, as for a transcoder that reads
        ``"mlp_in"`` and writes ``"mlp_out"``.
    flat
        Whether heads are encoded side by side, as one vector.
    sources
        By layer, the sites that are encoded together, where it is not the base alone: ``encode`` is given all of them,
        (..., source, width of the base), in this order, and ``decode`` and ``change`` are of the base. The base is one
        of them, and the others come before it.
    editable
        Whether it may be edited, or is only read.

    Raises
    ------
    UnknownSite
        For a name that is taken or cannot be one, a base that is not one, no layer, a codec without both directions, a
        site to be written that comes before the base, or sources of which the base is not the last.

    Examples
    --------
    >>> import torch, caseback as cb
    >>> model = cb.load("meadow")
    >>> class Halves:
    ...     def encode(self, x): return x / 2
    ...     def decode(self, coded): return coded * 2
    >>> register_site("halved", "resid_post", {1: Halves()})
    >>> run = model.run("the cat", read=["halved", "resid_post"])
    >>> bool((run["halved", 1] * 2 == run["resid_post", 1]).all())
    True
    >>> remove_site("halved")
    """
    if not name.isidentifier() or name in SITES or name.endswith(MODULE_ENDS):
        why = "is a site already" if name in SITES else "cannot name a site: expected letters, digits and _"
        raise UnknownSite(f"{name!r} {why}")
    if base not in bases():
        raise UnknownSite(f"no site can be computed from {base!r}. {did_you_mean(base, bases(), most=len(SITES))}")
    if not codecs:
        raise UnknownSite(f"{name!r} has no layer: give codecs={{layer: codec}}")
    for layer, codec in codecs.items():
        if not callable(getattr(codec, "encode", None)) or not callable(getattr(codec, "decode", None)):
            raise UnknownSite(f"codec of layer {layer}, {codec!r}, needs the methods encode and decode")
    written = base if written is None else written
    order = list(SITES)
    if written not in bases() or order.index(written) < order.index(base):
        later = [site for site in bases() if order.index(site) >= order.index(base)]
        raise UnknownSite(f"{base!r} cannot be encoded and {written!r} written: expected one of {', '.join(later)}")
    kind = SITES[base]
    for layer, several in (sources or {}).items():
        if Site(base, layer) not in several or max(several, key=in_order) != Site(base, layer):
            listed = ", ".join(map(str, several))
            raise UnknownSite(f"{name!r} is computed from {listed}: expected {Site(base, layer)} as the last of them")
    dims = ("pos",) if flat else kind.dims[:-1]
    if dims != (("pos",) if flat else SITES[written].dims[:-1]):
        raise UnknownSite(f"{base!r} is of heads and {written!r} is not: give flat=True, which encodes them together")
    together = {layer: tuple(several) for layer, several in (sources or {}).items()}
    view = View(base, dict(codecs), written, flat, together)
    SITES[name] = SiteKind((*dims, dim), True, f"hook_{name}", editable, view=view)


def remove_site(name: str) -> None:
    """Take a registered site off the table.

    Raises
    ------
    UnknownSite
        For a site that was not registered.
    """
    if name not in SITES or SITES[name].view is None:
        raise UnknownSite(f"{name!r} is not a registered site")
    del SITES[name]


@contextmanager
def registered_site(
    name: str,
    base: str,
    codecs: Mapping[int, Codec],
    *,
    dim: str = "feature",
    written: str | None = None,
    flat: bool = False,
    sources: Mapping[int, Sequence[Site]] | None = None,
    editable: bool = True,
) -> Iterator[str]:
    """``register_site`` for as long as a ``with`` block lasts; gives the name."""
    how: dict[str, Any] = {"dim": dim, "written": written, "flat": flat, "sources": sources, "editable": editable}
    register_site(name, base, codecs, **how)
    try:
        yield name
    finally:
        remove_site(name)
