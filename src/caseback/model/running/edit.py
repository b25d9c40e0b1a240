"""What all edits share: an address in a site, what they hold, and the block of rows that they are asked to change.

    site, layer, head, pos, unit, prompt   ->   rows x heads x units of a tensor   ->   ``new`` gives what stands there

An edit is data. Where in a tensor it applies is known only when a pass reaches its site. Only these entries are read,
changed and put back, in the order in which the edits are given; edits that ``like`` says are alike, of different
owners, are asked once for all their rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import EditError
from caseback.model.anatomy.coerce import PARTS_OF_A_TEXT, as_indices, as_numbers, as_positions, expect_finite
from caseback.model.anatomy.sites import MAPS, Site
from caseback.model.running.edit_values import Values, heads_of, indices_in, on, units_of
from caseback.model.running.frames import Frame, Index, Positions, Rows
from caseback.model.running.passing import aside

if TYPE_CHECKING:
    from caseback.model.anatomy.anatomy import Anatomy
    from caseback.model.running.run import Run
    from caseback.model.running.tokens import Tokens


@dataclass(frozen=True)
class Where:
    """The block that one edit, or several alike, are about to change.

    Attributes
    ----------
    site, width
        The site, and the size of its last dimension.
    rows
        The rows, each of one of the edits.
    n_columns_before
        Padded columns before each row's prompt, which shift keys at ``scores`` and ``pattern``.
    edits
        The edits that this call makes: of one kind, with addresses of one shape.
    heads, units
        (k, head), (k, unit): what is addressed in each row; None: all.
    entered
        What entered the module in these rows, (row, in), for edits that are ``of_input``.
    """

    site: Site
    rows: Rows
    width: int
    n_columns_before: np.ndarray
    edits: Sequence[Edit]
    heads: np.ndarray | None = None
    units: np.ndarray | None = None
    entered: Tensor | None = None

    def own(self, edit: Edit, name: str) -> Any:
        """What an edit holds by that name; if it stands for several alike, ``Values``: what each of them holds."""
        if len(self.edits) == 1:
            return getattr(edit, name)
        each = [getattr(one, name) for one in self.edits]
        return Values(torch.stack(each) if isinstance(each[0], Tensor) else each, self.rows.edit)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Address:
    layer: Index = None
    head: Index = None
    pos: Positions = None
    unit: Index = None
    prompt: Index = None


@dataclass(frozen=True, eq=False)
class Edit(_Address):
    """What all edits share: a site and an address in it."""

    site: str
    tied: ClassVar[bool] = False
    """Tied to another run's positions, so it does not reach past the prompt while generating."""
    of_input: ClassVar[bool] = False
    """Whether it is of a module's output by its path, and follows from what entered the module."""
    sums: ClassVar[bool] = False
    """Whether ``new`` adds or multiplies what it holds: a new tensor, and no call of a function of the caller's."""
    flags: ClassVar[tuple[str, ...]] = ()
    """What is true or false of it."""

    def __init_subclass__(cls) -> None:
        cls.__repr__ = Edit.__repr__  # found by dataclass, which then makes none that prints whole tensors

    def __repr__(self) -> str:
        values = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return f"{type(self).__name__}({', '.join(f'{n}={_brief(v)}' for n, v in values if v is not None)})"

    def __post_init__(self) -> None:
        for name in ("layer", "head", "unit", "prompt"):
            object.__setattr__(self, name, as_indices(getattr(self, name), name))
        object.__setattr__(self, "pos", as_positions(self.pos))
        for name in self.flags:
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise EditError(f"{type(self).__name__} at {self.site!r}: {name} is neither True nor False")
        for name in (*_NUMBERS, "source"):
            if name in self.__dict__:
                object.__setattr__(self, name, _checked(self, name))

    def new(self, old: Float[Tensor, "k *head unit"], where: Where) -> Tensor:
        """What stands at the address afterwards, given what stood there.

        Where ``like`` allows it, it is called once for several edits, in rows of which ``where.rows.edit`` tells them
        apart; then ``where.own(self, name)`` has what each of them holds.
        """
        raise TypeError(f"{type(self).__name__} is an address without an action: use Zero, Replace, Add ...")

    def like(self) -> Hashable:
        """What edits must have in common to be made in one call on all their rows; None: each is made by itself."""
        return None

    @property
    def single_pos(self) -> bool:
        """Whether it names one position of each prompt."""
        return isinstance(self.pos, int) or (isinstance(self.pos, Tensor) and self.pos.ndim < 2)

    def _alike(self, *held: Any) -> Hashable:
        """Of one kind, with addresses of one shape, and what else they must have in common."""
        parts = (self.head, self.unit)
        sizes = [
            part if isinstance(part, slice | None) else [len(part)] if isinstance(part, list) else 1 for part in parts
        ]
        return type(self), str(sizes), self.single_pos, self.tied, *held

    def edits_prompt(self, example: int, n_prompts: int) -> bool:
        """Whether a prompt of the batch is one that it names."""
        named = indices_in(self.prompt, n_prompts, "prompt", self.site)
        return named is None or example in named

    @property
    def awaits_clean(self) -> bool:
        """Whether it refers to the unedited run and has not been given it."""
        return False

    def with_clean(self, clean: Run) -> Edit:
        """This edit with the unedited run filled in."""
        return self

    def unchanged_before(self, tokens: Tokens, example: int, anatomy: Anatomy) -> int:
        """How many leading positions of a prompt this edit is known to leave as they are in a pass of the model."""
        return 0

    def describe(self) -> str:
        """The edit in words, for reports: ``Zero z L9H6``."""
        layer = "" if self.layer is None else f" L{self.layer}"
        head = "" if self.head is None else f"H{self.head}"
        pos = "" if self.pos is None else f" pos {_short(self.pos)}"
        unit = "" if self.unit is None else f" unit {_short(self.unit)}"
        prompt = "" if self.prompt is None else f" prompt {_short(self.prompt)}"
        return f"{type(self).__name__} {self.site}{layer}{head}{pos}{unit}{prompt}"


def _brief(value: Any) -> str:
    return f"<tensor {tuple(value.shape)}>" if isinstance(value, Tensor) and value.numel() > 8 else repr(value)


def _short(value: Any) -> str:
    if isinstance(value, slice):
        if words := next((words for words, places in PARTS_OF_A_TEXT.items() if places == value), ""):
            return words
        return f"{value.start or 0}:{'' if value.stop is None else value.stop}"
    values = value.tolist() if isinstance(value, Tensor) else value
    return str(values)


# What edits hold besides an address, and what each may be; "over" may be a run, or None for the unedited one.
_NUMBERS = {
    "value": "a number or a tensor",
    "factor": "a number or a tensor",
    "basis": "a tensor (k, unit)",
    "std": "a number or a tensor",
    "over": "a run or a tensor",
}


def _checked(edit: Edit, name: str) -> Any:
    """What an edit holds by that name, as a number, a tensor or a run."""
    from caseback.model.running.run import Run

    value, label = getattr(edit, name), f"{type(edit).__name__} at {edit.site!r}: {name}"
    if name in ("source", "over") and (isinstance(value, Run) or (value is None and edit.awaits_clean)):
        return value
    if name == "source":
        raise EditError(f"{label} is a {type(value).__name__}, expected a run, as model.run(..., read=...) gives it")
    numbers = as_numbers(value, label, EditError, _NUMBERS[name])
    if name in ("basis", "over") and not isinstance(numbers, Tensor):
        raise EditError(f"{label} is a number, expected {_NUMBERS[name]}")
    expect_finite(numbers, label, EditError, infinite=str(edit.site).startswith("scores"))  # there it hides a key
    return numbers


def apply_edits(
    edits: Sequence[tuple[int | None, Edit]],
    x: Float[Tensor, "row *head unit"],
    frame: Frame,
    site: Site,
    columns_before: Callable[[Rows], np.ndarray],
    entered: Float[Tensor, "row in"] | None = None,
    visible: Bool[Tensor, "row head key"] | None = None,
) -> Tensor:
    """Write edits, each with its owner, into a site's rows; returns a copy, or the very ``x`` if none applies.

    ``visible`` are the keys of a map that the model's own mask lets each query see, where that is not plainly causal.
    """
    given = x
    for owned in in_turns(edits):
        edit = owned[0][1]
        rows = frame.rows(owned, height=len(x))
        if rows is None:
            continue
        of_rows = entered[rows.row.to(entered.device)] if edit.of_input and entered is not None else None
        alike, before = [one for _, one in owned], columns_before(rows)
        heads = heads_of(alike, rows.edit, x.shape[1]) if x.ndim == 3 else None
        units = units_of(alike, rows.edit, x.shape[-1], before)
        where = Where(site, rows, x.shape[-1], before, alike, heads, units, of_rows)
        seen = _seen(x, where, visible) if site.name in MAPS else None
        if heads is None and units is None and len(rows) == len(x) and rows.in_order:
            written = _new(edit, x, where)  # the whole tensor: nothing to pick out and put back
            if x.requires_grad and not written.requires_grad:
                written = x.clone().copy_(written)  # a value without a graph must not cut the run's graph
            shared = not (_sums(edit) and written.is_contiguous())  # with a value, or with what a function returned
            if seen is not None and written is not x:
                x = torch.where(seen, written, x)
                continue
            x = written.clone(memory_format=torch.contiguous_format) if shared and written is not x else written
            continue
        x = x.clone() if x is given else x
        index = _index(x, where)
        old = x[index]
        new = _new(edit, old, where)
        x[index] = new if seen is None else torch.where(seen, new, old)
    return x


def in_turns(edits: Sequence[tuple[int | None, Edit]]) -> list[list[tuple[int | None, Edit]]]:
    """Edits sorted into those that one call can make: alike, of different owners; each owner's stay in their order."""
    if len(edits) == 1:
        return [list(edits)]
    groups: dict[Any, list[tuple[int | None, Edit]]] = {}
    turns: Counter[int | None] = Counter()
    for i, (owner, edit) in enumerate(edits):
        like = None if owner is None else edit.like()
        # edits without an owner are of all rows, and stand before all others
        groups.setdefault((owner is not None, turns[owner], i if like is None else like), []).append((owner, edit))
        turns[owner] += 1
    return [groups[key] for key in sorted(groups, key=lambda key: key[:2])]


def _sums(edit: Edit) -> bool:
    """Whether its own kind says so: another may build on that kind and do more."""
    return vars(type(edit)).get("sums", False)


def _new(edit: Edit, old: Tensor, where: Where) -> Tensor:
    if _sums(edit):
        return edit.new(old, where).to(old.dtype)
    with aside():  # an edit may be a user's function, which may run the model
        return edit.new(old, where).to(old.dtype)


def _seen(x: Tensor, where: Where, visible: Tensor | None) -> Tensor:
    """Which addressed keys of a map are their query's own: of its prompt, not behind it, in its window; (row, 1, key).

    Other columns are padding, what comes later and what a window has left behind, which the model does not look at.
    They are laid out in some passes and not in others (a longer prompt in the batch, decoding with or without a cache),
    so an edit of all keys leaves them alone.
    """
    first = where.n_columns_before[:, None]
    keys = np.arange(x.shape[-1])[None] if where.units is None else where.units
    own = on(x, ((keys >= np.maximum(first, 0)) & (keys <= first + where.rows.at[2][:, None]))[:, None])
    if visible is None:
        return own
    of_rows = visible[on(x, where.rows.at[0])]
    if where.heads is not None and of_rows.shape[1] > 1:
        of_rows = torch.take_along_dim(of_rows, on(x, where.heads[:, :, None]), 1)
    if where.units is not None:
        at = where.units.clip(0, x.shape[-1] - 1)
        of_rows = torch.take_along_dim(of_rows, on(x, at[:, None]), 2)
    return own & of_rows


def _index(x: Tensor, where: Where) -> tuple[Tensor, ...]:
    """The addressed block of (row, head, unit) as an index; keys that are not laid out are others in their place."""
    at, heads, units = where.rows.at[0], where.heads, where.units
    if units is None:
        return (on(x, at),) if heads is None else (on(x, at[:, None]), on(x, heads))
    if where.site.name in MAPS:
        units = units.clip(0, x.shape[-1] - 1)
    if x.ndim == 2:
        return on(x, at[:, None]), on(x, units)
    heads = np.arange(x.shape[1])[None] if heads is None else heads
    return on(x, at[:, None, None]), on(x, heads[:, :, None]), on(x, units[:, None])
