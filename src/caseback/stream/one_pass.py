"""One pass over a block of rows: the model runs once a batch, and every table takes what it needs of it.

sites read = union of what the tables read;    state_t(block) = state_t after all batches of the block

Where a device lacks float64 a batch's sums are float32's, and batches are merged on the host in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context

import numpy as np
import torch

from caseback.jobs.budget import limit
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.coerce import widest
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.stream.marks import marks_of
from caseback.stream.packing import Block
from caseback.stream.tables.table import Seen, State, Table

LOGITS = Site("logits")


def pass_over(
    model: Model,
    block: Block,
    tables: Mapping[str, Table],
    kinds: torch.Tensor,
    *,
    batch_tokens: int,
    side: str = "right",
    also: Callable[[Seen], None] | None = None,
    also_sites: Sequence[Site] = (),
) -> dict[str, State]:
    """The states of tables over a block.

    Parameters
    ----------
    model
        The model.
    block
        Rows of tokens.
    tables
        By whatever name.
    kinds
        Of every vocabulary entry, as ``token_kinds`` gives them.
    batch_tokens
        Tokens of a batch, padding included.
    side
        The side of the padding.
    also
        Called with every batch, for what is no table: ``also_sites`` are read for it.
    also_sites
        What ``also`` reads.
    """
    device = model.device
    narrow = widest(device) != torch.float64
    empty = {name: table.empty(model) for name, table in tables.items()}
    states = {name: _on_device(state, device) for name, state in empty.items()}
    needed = sites_read(model.anatomy, tables, also_sites)
    sites = [site for site in needed if site != LOGITS]
    marks, starts, lengths = marks_of(block, kinds), block.row_starts, block.lengths.long()
    for tokens, rows in block.batches(batch_tokens, side=side):
        own = torch.from_numpy(places(starts[rows].numpy(), lengths[rows].numpy()))
        run = execute(model.anatomy, tokens.to(device), read=sites, logits=LOGITS in needed)
        seen = Seen(model, run, run.tokens, marks[own].to(device), (block.first_token + own).to(device))
        if narrow:
            parts = {name: _on_device(table.empty(model), device) for name, table in tables.items()}
            _add(tables, parts, seen)
            for name, table in tables.items():
                part, whole = _as(empty[name], parts[name]), empty[name]
                # a table that only its first batch begins has nothing to be merged with
                empty[name] = table.merge(whole, part) if whole and part else whole or part
        else:
            _add(tables, states, seen)
        if also is not None:
            also(seen)
        del run, seen  # else a batch's activations stay until those of the next are all there
    return empty if narrow else {name: _as(empty[name], state) for name, state in states.items()}


def _add(tables: Mapping[str, Table], states: Mapping[str, State], seen: Seen) -> None:
    """Give a batch to every table, to several at once where the threads of a CPU would wait for one.

    Much of what a table does (gathering, counting, sorting) runs on one thread, whatever torch has. Every table still
    takes its batches in their order, so that its sums have the same bits.
    """
    at_once = min(limit("tables_at_once"), torch.get_num_threads())
    if at_once == 1 or seen.index.device.type != "cpu":
        for name, table in tables.items():
            table.add(states[name], seen)
        return
    inference = torch.is_inference_mode_enabled()

    def add(context: Context, name: str) -> None:
        with torch.no_grad(), torch.inference_mode(inference):  # what torch keeps for each thread
            context.run(tables[name].add, states[name], seen)

    with ThreadPoolExecutor(at_once) as threads:
        for _ in threads.map(add, [copy_context() for _ in tables], tables):
            pass


def sites_read(anatomy: Anatomy, tables: Mapping[str, Table], also: Iterable[Site] = ()) -> list[Site]:
    """What a pass reads for tables and besides, each site once.

    Raises
    ------
    SiteAbsent
        For what the model does not have.
    """
    return list(dict.fromkeys([*also, *(site for table in tables.values() for site in table.sites(anatomy))]))


def _on_device(state: State, device: torch.device) -> State:
    """A state where batches enter it, sums as wide as the device has numbers."""
    wide = widest(device)
    return {k: v.to(device, wide if v.dtype == torch.float64 else v.dtype) for k, v in state.items()}


def _as(like: State, state: State) -> State:
    """A state on the host, in its own types; a table may have begun with less than it holds."""
    return {k: v.cpu().to(like[k].dtype if k in like else v.dtype) for k, v in state.items()}


def places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers from each start on, one run behind another.

    Examples
    --------
    >>> places(np.array([0, 7]), np.array([2, 3])).tolist()
    [0, 1, 7, 8, 9]
    """
    ends = lengths.cumsum()
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
