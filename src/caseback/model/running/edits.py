"""Edits: interventions as data.

An edit names a site, where in it (layer, head, position, unit) and what to put there. ``Zero("z", layer=9, head=6)``
silences a head; ``Resample("resid_post", source=run, layer=4, pos=-1)`` patches the last position with another run's
stream. A part of the address that is left out means all. Edits of one site apply in the order given.

Address: ``layer`` int, list or None; ``head`` likewise (key/value heads at ``k``, ``v``, ``k_in``, ``v_in``);
``pos`` a prompt's own positions (int, list, slice, or a tensor with one per prompt), the query at ``scores`` and
``pattern``, or in words ``"prompt"`` and ``"generated"``: what was given, and what decoding adds; ``unit`` the last
dimension: neuron, dimension, expert, or the key at ``scores`` and ``pattern``; ``prompt`` prompts of the batch.

A value has the shape of what it replaces, (batch, pos, head, unit) less the parts addressed by an int, or anything
that broadcasts to it; at ``scores`` and ``pattern`` (batch, head, query, key). There an edit leaves alone the keys that
no query of a decoder sees, padding and what comes later, as it would be without them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import EditError
from caseback.jobs.fingerprint import raw_digest
from caseback.model.anatomy.coerce import as_indices
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import MAPS, Site, kind_of
from caseback.model.arguments import checked
from caseback.model.running.edit import Edit, Where
from caseback.model.running.edit_values import (
    fitting,
    from_run,
    indices_in,
    on,
    onto_span,
    select,
    shape_of,
    shared_prefix,
    spread,
)
from caseback.model.running.frames import Index, Positions, positions

if TYPE_CHECKING:
    from caseback.model.anatomy.anatomy import Anatomy
    from caseback.model.running.run import Run
    from caseback.model.running.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Zero(Edit):
    """Put zeros."""

    def like(self) -> Hashable:
        return self._alike()

    def new(self, old: Tensor, where: Where) -> Tensor:
        return torch.zeros_like(old)


@dataclass(frozen=True, eq=False)
class Replace(Edit):
    """Put a value."""

    value: Any

    def like(self) -> Hashable:
        return self._alike(shape_of(self.value))

    def new(self, old: Tensor, where: Where) -> Tensor:
        return spread(self, where.own(self, "value"), old, where)


@dataclass(frozen=True, eq=False)
class Add(Edit):
    """Add a value."""

    value: Any
    sums: ClassVar[bool] = True

    def like(self) -> Hashable:
        return self._alike(shape_of(self.value))

    def new(self, old: Tensor, where: Where) -> Tensor:
        return old + spread(self, where.own(self, "value"), old, where)


@dataclass(frozen=True, eq=False)
class Scale(Edit):
    """Multiply by a factor (a number or a value)."""

    factor: Any
    sums: ClassVar[bool] = True

    def like(self) -> Hashable:
        return self._alike(shape_of(self.factor))

    def new(self, old: Tensor, where: Where) -> Tensor:
        return old * spread(self, where.own(self, "factor"), old, where)


@dataclass(frozen=True, eq=False)
class Resample(Edit):
    """Put what stood at the same address, same position, in another run (which must have read the site)."""

    source: Run
    tied: ClassVar[bool] = True

    def like(self) -> Hashable:
        return self._alike(id(self.source))

    def unchanged_before(self, tokens: Tokens, example: int, anatomy: Anatomy) -> int:
        return shared_prefix(self.source, tokens, example, anatomy)

    def new(self, old: Tensor, where: Where) -> Tensor:
        return from_run(self, self.source, old, where)


@dataclass(frozen=True, eq=False)
class Freeze(Edit):
    """Hold at the value of the unedited run, whatever other edits do upstream."""

    source: Run | None = None
    tied: ClassVar[bool] = True

    def like(self) -> Hashable:
        return self._alike(id(self.source))

    @property
    def awaits_clean(self) -> bool:
        return self.source is None

    def with_clean(self, clean: Run) -> Edit:
        return replace(self, source=clean)

    def new(self, old: Tensor, where: Where) -> Tensor:
        if self.source is None:
            raise EditError("Freeze has no run to hold to")
        return from_run(self, self.source, old, where)


@dataclass(frozen=True, eq=False)
class Mean(Edit):
    """Put the mean over prompts and positions of a run, by default the unedited run of this very batch.

    ``over`` may also be a tensor, which is put as it is. ``per_position`` takes the mean over prompts at each position.
    """

    over: Any = None
    per_position: bool = False
    flags: ClassVar[tuple[str, ...]] = ("per_position",)

    def like(self) -> Hashable:
        return self._alike(id(self.over), self.per_position)

    @property
    def awaits_clean(self) -> bool:
        return self.over is None

    def with_clean(self, clean: Run) -> Edit:
        return replace(self, over=clean)

    def new(self, old: Tensor, where: Where) -> Tensor:
        if self.site in MAPS:
            raise EditError(f"a mean over positions is not defined at {self.site!r}: give Replace a value")
        if isinstance(self.over, Tensor):
            return spread(self, self.over, old, where)
        # summed in float32 at least: half precision overflows at sums of 65,520
        acts, mask = at_least_float32(self.over[where.site]), self.over.tokens.mask.to(old.device)
        if not self.per_position:
            return fitting(self, select(acts[mask].mean(0).expand(len(old), *acts.shape[2:]).to(old), where), old)
        tokens = self.over.tokens
        aligned = torch.zeros_like(acts)
        for b, (start, n) in enumerate(tokens.extents):
            aligned[b, :n] = acts[b, start : start + n]
        lengths = np.array([n for _, n in tokens.extents])
        counts = (np.arange(acts.shape[1]) < lengths[:, None]).sum(0).clip(1)
        mean = aligned.sum(0) / on(old, counts).view(-1, *[1] * (acts.ndim - 2))
        if (last := int(where.rows.at[2].max())) >= (longest := int(lengths.max())):
            raise EditError(f"{self.describe()}: the longest prompt of `over` has {longest} tokens, {last + 1} needed")
        return fitting(self, select(mean[on(mean, where.rows.at[2])].to(old), where), old)


@dataclass(frozen=True, eq=False)
class Noise(Edit):
    """Add Gaussian noise of a standard deviation; the same ``seed`` gives the same noise at the same position.

    A draw does not depend on a prompt's place in the batch, so prompts share theirs; ``seed`` may be several, one per
    prompt, which gives each its own. ``std`` may also have the shape of a value: one for each unit, say.
    """

    std: Any
    seed: int | Sequence[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        seed = as_indices(self.seed, "seed")
        if seed is None or isinstance(seed, slice):
            raise EditError(f"Noise at {self.site!r}: seed={self.seed!r}, expected a whole number, or one per prompt")
        object.__setattr__(self, "seed", seed)

    def new(self, old: Tensor, where: Where) -> Tensor:
        shape, noise = old.shape[1:], []
        for example, token in zip(where.rows.example.tolist(), where.rows.token.tolist(), strict=True):
            seed = self.seed if isinstance(self.seed, int) else self.seed[example]
            key = f"{seed} {where.site} {token}".encode()
            generator = torch.Generator().manual_seed(int(raw_digest(key)[:14], 16))
            noise.append(torch.randn(shape, generator=generator, dtype=torch.float32))
        std = spread(self, self.std, old, where) if isinstance(self.std, Tensor) else self.std
        return old + std * torch.stack(noise).to(old)


@dataclass(frozen=True, eq=False)
class Project(Edit):
    """Remove the span of ``basis`` (k, unit) from the last dimension; ``keep=True`` keeps only the span.

    The vectors may have any length, and depend on others: only their span counts.
    """

    basis: Float[Tensor, "k unit"]
    keep: bool = False
    flags: ClassVar[tuple[str, ...]] = ("keep",)

    def new(self, old: Tensor, where: Where) -> Tensor:
        inside = onto_span(self.basis, old)
        return inside if self.keep else old - inside


@dataclass(frozen=True, eq=False)
class Swap(Edit):
    """Exchange only the part in the span of ``basis`` (k, unit) with another run's (a distributed interchange)."""

    basis: Float[Tensor, "k unit"]
    source: Run
    tied: ClassVar[bool] = True

    def unchanged_before(self, tokens: Tokens, example: int, anatomy: Anatomy) -> int:
        return shared_prefix(self.source, tokens, example, anatomy)

    def new(self, old: Tensor, where: Where) -> Tensor:
        return old + onto_span(self.basis, from_run(self, self.source, old, where) - old)


@dataclass(frozen=True, eq=False)
class Apply(Edit):
    """Put ``function(old)``; ``old`` is (tokens, head, unit), the parts addressed by an int kept as size 1."""

    function: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise EditError(f"Apply's function is {self.function!r}: expected a function of a tensor")

    def new(self, old: Tensor, where: Where) -> Tensor:
        value = self.function(old)
        if not isinstance(value, Tensor) or value.shape != old.shape:
            raise EditError(
                f"Apply at {where.site}: the function returned {_shape(value)}, expected shape {tuple(old.shape)}"
            )
        return value.to(old)


@checked
def Knockout(
    *, layer: Index = None, head: Index = None, query: Positions = None, key: Index = None, renormalise: bool = True
) -> Edit:
    """Cut attention edges from ``query`` positions to ``key`` positions.

    With ``renormalise`` the scores become minus infinity and the other keys share the weight; without it the pattern
    is set to 0 and the rest stays.
    """
    if renormalise:
        return Replace("scores", float("-inf"), layer=layer, head=head, pos=query, unit=key)
    return Zero("pattern", layer=layer, head=head, pos=query, unit=key)


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def listed(edits: Edit | Iterable[Edit]) -> list[Edit]:
    """One edit or several as a list; each is looked at by ``check``.

    Raises
    ------
    EditError
        For what is neither.

    Examples
    --------
    >>> [edit.describe() for edit in listed(Zero("z", layer=0, head=1))]
    ['Zero z L0H1']
    """
    if not isinstance(edits, Edit | Iterable):
        raise EditError(f"{edits!r} is not an edit: expected one such as Zero('z', layer=0), or several")
    return [edits] if isinstance(edits, Edit) else list(edits)


def check(edit: Edit, anatomy: Anatomy, tokens: Tokens | None, *, open_end: bool = False) -> list[tuple[Site, Edit]]:
    """The sites of this model that an edit touches, its address checked; its positions where prompts are given.

    Raises
    ------
    UnknownSite, EditError, OutOfRange
    """
    if not isinstance(edit, Edit):
        raise EditError(f"{edit!r} is not an edit: expected Zero, Replace, Add, Scale, Mean, Resample, ...")
    layers = edit.layer
    if isinstance(layers, slice):
        layers = range(*layers.indices(anatomy.n_layers))
    layers = layers if isinstance(layers, Sequence) else [layers]
    sites = [s for i in layers for s in anatomy.sites(edit.site if i is None else (edit.site, i))]
    name = sites[0].name if sites else edit.site
    kind = kind_of(name)
    if not kind.editable:
        if kind.view is not None:
            raise EditError(f"{name!r} is only read, since what it stands for is written at several sites: edit those")
        instead = "expert" if name == "router" else name.removesuffix(".scale")
        raise EditError(f"{name!r} is read-only: edit {instead!r} instead")
    if edit.of_input and not name.endswith(".output"):
        raise EditError(
            f"{type(edit).__name__} acts at the output of a module that it sees the input of: expected its path, such "
            f"as 'model.layers.3.mlp.down_proj.output', not {name!r}"
        )
    if not kind.layered and edit.layer is not None:
        raise EditError(f"{name!r} is not in a layer: leave out layer={edit.layer}")
    if edit.head is not None and "head" not in kind.dims and "kv_head" not in kind.dims:
        raise EditError(f"{name!r} has no heads: leave out head={edit.head} or edit 'z' or 'head_out'")
    for site in sites:
        if edit.head is not None:
            dims = anatomy.layers[site.layer or 0].dims
            indices_in(edit.head, dims.n_kv_heads if "kv_head" in kind.dims else dims.n_heads, "head", name)
    seeds = getattr(edit, "seed", 0)
    if tokens is not None and isinstance(seeds, Sequence) and len(seeds) != len(tokens):
        raise EditError(f"{edit.describe()}: {len(seeds)} seeds, expected one for each of {len(tokens)} prompts")
    named = None if tokens is None else indices_in(edit.prompt, len(tokens), "prompt", name)
    for b, (_, length) in enumerate([] if tokens is None else tokens.extents):
        if named is not None and b not in named:
            continue
        positions(edit.pos, b, length, open_end=open_end)
        if name in MAPS and edit.unit is not None:
            positions(edit.unit, b, length, open_end=open_end)
    return [(site, edit if edit.site == name else replace(edit, site=name)) for site in sites]
