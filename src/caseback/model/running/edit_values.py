"""What stands at an edit's address: given values spread over its rows, another run's, a span's part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caseback.errors import EditError
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import MAPS

if TYPE_CHECKING:
    from caseback.model.running.edits import Edit, Index, Where
    from caseback.model.running.run import Run
    from caseback.model.running.tokens import Tokens


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


def shared_prefix(source: Run, tokens: Tokens, example: int) -> int:
    """Leading tokens that an unedited source run shares with a prompt: the model is causal, so its activations too."""
    if source.edited or source.tokens is tokens:
        return 0
    theirs = source.tokens[example if len(source.tokens) > 1 else 0]
    mine = tokens[example]
    a, b = theirs.ids[theirs.mask], mine.ids[mine.mask]
    n = min(len(a), len(b))
    differ = (a[:n] != b[:n].to(a.device)).nonzero()
    return int(differ[0]) if len(differ) else n


def spread(edit: Edit, value: Any, old: Tensor, where: Where) -> Tensor:
    """The rows of a given value; the module's docstring says which shapes it may have."""
    # A Python number goes straight to the site's precision: through float32 it would lose digits.
    exact = {} if isinstance(value, Tensor) else {"dtype": old.dtype}
    value = torch.as_tensor(value, device=old.device, **exact).to(old.dtype)
    if value.ndim == 0:
        return value.expand_as(old).clamp_min(torch.finfo(old.dtype).min)
    single_pos = isinstance(edit.pos, int) or (isinstance(edit.pos, Tensor) and edit.pos.ndim < 2)
    n_head = [] if old.ndim == 2 or isinstance(edit.head, int) else [old.shape[1]]
    n_unit = [] if isinstance(edit.unit, int) else [old.shape[-1]]
    dims = 1 + (not single_pos) + len(n_head) + len(n_unit)
    if value.ndim > dims:
        raise EditError(
            f"{edit.describe()}: a value of shape {tuple(value.shape)} for an address of {dims} dimensions "
            f"(batch{'' if single_pos else ', pos'}{', head' if n_head else ''}{', unit' if n_unit else ''})"
        )
    given, value = tuple(value.shape), value.reshape(*[1] * (dims - value.ndim), *value.shape)
    if edit.site in MAPS and n_head and not single_pos:
        value = value.transpose(1, 2)
    tail = list(value.shape[dims - len(n_head) - len(n_unit) :])
    if any(have not in (1, want) for have, want in zip(tail, n_head + n_unit, strict=True)):
        raise EditError(f"{edit.describe()}: a value of shape {given} where {n_head + n_unit} is addressed")
    rows = where.rows
    picks = [rows.example] if single_pos else [rows.example, rows.order]
    for dim, pick in enumerate(picks):
        if value.shape[dim] != 1 and int(pick.max()) >= value.shape[dim]:
            what = "prompts" if dim == 0 else "positions"
            raise EditError(f"{edit.describe()}: the value has {value.shape[dim]} {what}, {int(pick.max()) + 1} needed")
    if all(size == 1 for size in value.shape[: len(picks)]):
        value = value[(0,) * len(picks)][None]  # the same in every row: nothing to gather
    else:
        index = tuple(torch.zeros_like(p) if value.shape[d] == 1 else p for d, p in enumerate(picks))
        value = value[tuple(i.to(value.device) for i in index)]
    if old.ndim == 3 and not n_head:
        value = value.unsqueeze(1)
    if not n_unit:
        value = value.unsqueeze(-1)
    return value.expand(old.shape)


def from_run(edit: Edit, source: Run, old: Tensor, where: Where) -> Tensor:
    """The same address in another run."""
    tokens, rows = source.tokens, where.rows
    acts = source[where.site]
    if where.site.name in MAPS:
        acts = acts.transpose(1, 2)
    many = len(tokens) > 1
    if many and int(rows.example.max()) >= len(tokens):
        raise EditError(f"{edit.describe()}: the source run has {len(tokens)} prompts, more are edited")
    example = rows.example if many else torch.zeros_like(rows.example)
    short = rows.token >= tokens.lengths.cpu()[example]
    if bool(short.any()):
        raise EditError(
            f"{edit.describe()}: the source prompt has {int(tokens.lengths.cpu()[example][short][0])} tokens, "
            f"position {int(rows.token[short][0])} is past its end; prompts must be token-aligned"
        )
    columns = rows.token + tokens.first.cpu()[example]
    value = acts[example.to(acts.device), columns.to(acts.device)].to(old.device, old.dtype)
    if where.site.name in MAPS:
        shift = (tokens.first.cpu()[example] - where.n_columns_before).to(old.device)
        keys = torch.arange(where.width, device=old.device) + shift[:, None]
        inside = (keys >= 0) & (keys < value.shape[-1])
        value = value.gather(-1, keys.clamp(0, value.shape[-1] - 1)[:, None].expand(-1, value.shape[1], -1))
        outside = torch.finfo(old.dtype).min if where.site.name == "scores" else 0.0
        value = value.masked_fill(~inside[:, None], outside)
    return fitting(edit, select(edit, value, where), old)


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


def select(edit: Edit, value: Tensor, where: Where) -> Tensor:
    """The addressed heads and units of whole rows (k, head, unit)."""
    if value.ndim == 3:
        heads = indices_in(edit.head, value.shape[1], "head", edit.site)
        value = value if heads is None else value[:, heads]
    units = units_of(edit, where)
    if units is None:
        return value
    return value.gather(
        -1, units.to(value.device).view(len(value), *[1] * (value.ndim - 2), -1).expand(*value.shape[:-1], -1)
    )


def units_of(edit: Edit, where: Where) -> Tensor | None:
    """The addressed units of each row, (k, unit); at maps keys are shifted to padded columns."""
    if edit.unit is None:
        return None
    if edit.site not in MAPS:
        units = indices_in(edit.unit, where.width, "unit", edit.site)
        return torch.tensor(units, dtype=torch.long).expand(len(where.rows.row), -1)
    keys = edit.unit
    if isinstance(keys, slice):
        if min(keys.start or 0, keys.stop or 0) < 0:
            raise EditError(f"{edit.describe()}: keys are counted from the start of the prompt, {keys} given")
        keys = range(keys.start or 0, where.width if keys.stop is None else keys.stop, keys.step or 1)
    wanted = torch.tensor([keys] if isinstance(keys, int) else list(keys), dtype=torch.long)
    if bool((wanted < 0).any()):
        raise EditError(f"{edit.describe()}: keys are counted from the start of the prompt, {wanted.tolist()} given")
    return wanted + where.n_columns_before[:, None]
