"""What stands at an edit's address: given values spread over its rows, another run's, a span's part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import EditError
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import MAPS

if TYPE_CHECKING:
    from caseback.model.anatomy.anatomy import Anatomy
    from caseback.model.running.edits import Edit, Index, Where
    from caseback.model.running.run import Run
    from caseback.model.running.tokens import Tokens


@dataclass(frozen=True)
class Values:
    """What several edits hold, made in one call: their values, and which edit each row is of."""

    values: Tensor | list[float]
    of: np.ndarray


def indices_in(index: Index, size: int, what: str, site: str) -> list[int] | None:
    """An address part as non-negative indices; None for all."""
    if index is None:
        return None
    if isinstance(index, slice):
        return list(range(*index.indices(size)))
    wanted = [index] if isinstance(index, int) else list(index)
    for i in wanted:
        if not -size <= i < size:
            raise EditError(f"{what} {i} is out of range at {site!r}: there are {size}, 0 to {size - 1}")
    return [i % size for i in wanted]


def onto_span(basis: Tensor, x: Tensor) -> Tensor:
    """X's part in the span of some vectors, of which some may be zero or depend on others."""
    rows, wide = torch.atleast_2d(basis), at_least_float32(x)  # half precisions have no decompositions
    if rows.ndim > 2:
        raise EditError(f"a basis of shape {tuple(rows.shape)}: expected vectors (k, unit)")
    if rows.shape[-1] != x.shape[-1]:
        raise EditError(f"a basis of vectors of size {rows.shape[-1]} at a site of size {x.shape[-1]}")
    if not len(rows):
        return torch.zeros_like(x)
    rows = rows.to(wide)
    norms = rows.norm(dim=-1, keepdim=True)
    rows = rows / torch.where(norms > 0, norms, 1)
    if rows.requires_grad:
        # a basis that is being learned must be independent: the derivative of the other way has no value
        q = torch.linalg.qr(rows.T).Q
        return (wide @ q @ q.T).to(x)
    # not by QR, whose further columns are directions outside the span where vectors depend on others
    try:
        _, sizes, q = torch.linalg.svd(rows, full_matrices=False)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        raise EditError("a basis of vectors that are not all finite: expected finite numbers") from None
    q = q * (sizes > sizes.max() * max(rows.shape) * torch.finfo(rows.dtype).eps)[:, None]  # read nothing back
    return (wide @ q.T @ q).to(x)


def shared_prefix(source: Run, tokens: Tokens, example: int, anatomy: Anatomy) -> int:
    """Leading tokens that an unedited source run shares with a prompt: the model is causal, so its activations too.

    Another model's run shares none.
    """
    if source.edited or source.tokens is tokens or source.anatomy.hf is not anatomy.hf:
        return 0
    theirs, mine = source.tokens.host_ids[example if len(source.tokens) > 1 else 0], tokens.host_ids[example]
    n = min(len(theirs), len(mine))
    differ = np.flatnonzero(theirs[:n] != mine[:n])
    return int(differ[0]) if len(differ) else n


def spread(edit: Edit, value: Any, old: Tensor, where: Where) -> Tensor:
    """The rows of a given value, or of each edit's ``Values``; the module ``edits`` says which shapes it may have."""
    of, own = (value.of, value.values) if isinstance(value, Values) else (None, value)
    # A Python number goes straight to the site's precision: through float32 it would lose digits.
    # A tensor changes its precision on the way: not every device has that of the host.
    if isinstance(own, Tensor):
        value = own.to(old.device, old.dtype)
    else:
        value = torch.as_tensor(own, dtype=old.dtype, device=old.device)
    if value.ndim == (of is not None):
        value = value if of is None else value[on(value, of)].view(-1, *[1] * (old.ndim - 1))
        return value.expand_as(old).clamp_min(torch.finfo(old.dtype).min)
    if of is None and value.ndim == 1 and value.shape == old.shape[1:] and not isinstance(edit.unit, int):
        return value.expand_as(old)  # one vector for all rows, as steering has it: looked at at every step and layer
    single_pos = edit.single_pos
    n_head = [] if old.ndim == 2 or isinstance(edit.head, int) else [old.shape[1]]
    n_unit = [] if isinstance(edit.unit, int) else [old.shape[-1]]
    dims = 1 + (not single_pos) + len(n_head) + len(n_unit)
    lead, given = value.shape[: of is not None], tuple(value.shape[of is not None :])
    if len(given) > dims:
        raise EditError(
            f"{edit.describe()}: a value of shape {given} for an address of {dims} dimensions "
            f"(batch{'' if single_pos else ', pos'}{', head' if n_head else ''}{', unit' if n_unit else ''})"
        )
    value = value.reshape(*lead, *[1] * (dims - len(given)), *given)
    if edit.site in MAPS and n_head and not single_pos:
        value = value.transpose(len(lead) + 1, len(lead) + 2)
    shape = value.shape[len(lead) :]
    tail = list(shape[dims - len(n_head) - len(n_unit) :])
    if any(have not in (1, want) for have, want in zip(tail, n_head + n_unit, strict=True)):
        raise EditError(f"{edit.describe()}: a value of shape {given} where {n_head + n_unit} is addressed")
    picks = [where.rows.at[1]] if single_pos else [where.rows.at[1], where.rows.at[3]]
    for dim, pick in enumerate(picks):
        if shape[dim] != 1 and int(pick.max()) >= shape[dim]:
            what = "prompts" if dim == 0 else "positions"
            raise EditError(f"{edit.describe()}: the value has {shape[dim]} {what}, {int(pick.max()) + 1} needed")
    # one index for every leading dimension: a gather in one step, or nothing to gather where all rows have the same
    at, sizes = 0 if of is None else of, shape[: len(picks)]
    for size, pick in zip(sizes, picks, strict=True):
        at = at * size + (pick if size != 1 else 0)
    value = value.reshape(-1, *shape[len(picks) :])
    value = value if isinstance(at, int) else value[on(value, at)]
    if old.ndim == 3 and not n_head:
        value = value.unsqueeze(1)
    if not n_unit:
        value = value.unsqueeze(-1)
    return value.expand(old.shape)


def from_run(edit: Edit, source: Run, old: Tensor, where: Where) -> Tensor:
    """The same address in another run."""
    tokens, rows = source.tokens, where.rows
    acts, a_map = source[where.site], where.site.name in MAPS
    _, example, token, _, _ = rows.at
    if len(tokens) == 1:
        example = np.zeros_like(example)
    elif int(example.max()) >= len(tokens):
        raise EditError(f"{edit.describe()}: the source run has {len(tokens)} prompts, more are edited")
    first, lengths = (np.array(each)[example] for each in zip(*tokens.extents, strict=True))
    if (token >= lengths).any():
        short = int((token >= lengths).argmax())
        raise EditError(
            f"{edit.describe()}: the source prompt has {lengths[short]} tokens, position {token[short]} is past its "
            "end; prompts must be token-aligned"
        )
    at = (example, token + first) if where.heads is None else (example[:, None], (token + first)[:, None], where.heads)
    value = (acts.transpose(1, 2) if a_map else acts)[tuple(on(acts, each) for each in at)].to(old.device, old.dtype)
    if a_map:
        keys = np.arange(where.width) + (first - where.n_columns_before)[:, None]
        inside = (keys >= 0) & (keys < value.shape[-1])
        seen = on(old, keys.clip(0, value.shape[-1] - 1)[:, None])
        value = value.gather(-1, seen.expand(-1, value.shape[1], -1))
        if not inside.all():
            outside = torch.finfo(old.dtype).min if where.site.name == "scores" else 0.0
            value = value.masked_fill(on(old, ~inside[:, None]), outside)
    return fitting(edit, units_in(value, where), old)


def shape_of(value: Any) -> tuple[Any, ...]:
    """What values must have in common to be held side by side: a number, or a tensor's shape, type and device."""
    return (value.shape, value.dtype, value.device) if isinstance(value, Tensor) else ("a number",)


def on(place: Tensor | torch.device, numbers: np.ndarray) -> Tensor:
    """Numbers of the host on a device, or where a tensor is."""
    device = place.device if isinstance(place, Tensor) else place
    return torch.from_numpy(numbers).to(device, non_blocking=True)


def fitting(edit: Edit, value: Tensor, old: Tensor) -> Tensor:
    """What stands at the address in another run, if there is as much of it: that may be a run of another model."""
    if value.shape != old.shape:
        raise EditError(
            f"{edit.describe()}: the other run has {_times(value)} numbers at each position there, expected "
            f"{_times(old)}; another model's run can stand in only where sites are of one size"
        )
    return value


def _times(x: Tensor) -> str:
    return " x ".join(map(str, x.shape[1:]))


def select(value: Tensor, where: Where) -> Tensor:
    """The addressed heads and units of whole rows (k, head, unit)."""
    if value.ndim == 3 and where.heads is not None:
        value = value[on(value, np.arange(len(value))[:, None]), on(value, where.heads)]
    return units_in(value, where)


def units_in(value: Float[Tensor, "k *head unit"], where: Where) -> Tensor:
    """The addressed units of rows."""
    if where.units is None:
        return value
    units = on(value, where.units).view(len(value), *[1] * (value.ndim - 2), -1)
    return value.gather(-1, units.expand(*value.shape[:-1], -1))


def heads_of(edits: Sequence[Edit], of: np.ndarray, n_heads: int) -> np.ndarray | None:
    """The addressed heads of each row, (k, head), for edits that name as many; None: all."""
    named = [indices_in(edit.head, n_heads, "head", edit.site) for edit in edits]
    return None if named[0] is None else np.array(named, dtype=np.int64)[of]


def units_of(edits: Sequence[Edit], of: np.ndarray, width: int, n_columns_before: np.ndarray) -> np.ndarray | None:
    """The addressed units of each row, (k, unit), for edits that name as many; at maps keys are padded columns."""
    if edits[0].unit is None:
        return None
    keys = edits[0].site in MAPS
    named = [_keys(edit, width) if keys else indices_in(edit.unit, width, "unit", edit.site) for edit in edits]
    units = np.array(named, dtype=np.int64)[of]
    return units + n_columns_before[:, None] if keys else units


def _keys(edit: Edit, width: int) -> list[int]:
    """The keys that an edit of a map names, counted in the prompt."""
    keys: Any = edit.unit
    if isinstance(keys, slice):
        if min(keys.start or 0, keys.stop or 0) < 0:
            raise EditError(f"{edit.describe()}: keys are counted from the start of the prompt, {keys} given")
        keys = range(keys.start or 0, width if keys.stop is None else keys.stop, keys.step or 1)
    wanted = [keys] if isinstance(keys, int) else list(keys)
    if any(key < 0 for key in wanted):
        raise EditError(f"{edit.describe()}: keys are counted from the start of the prompt, {wanted} given")
    return wanted
