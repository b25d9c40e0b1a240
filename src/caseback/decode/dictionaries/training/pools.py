"""States to train on, a pool at a time: rows of a corpus in a drawn order, read by one pass of the model, and mixed.

    rows in an order drawn for each epoch, cut where they reach so many tokens:    pool 0 | pool 1 | ...
    pool i = states of its rows at every site that is asked for, in an order drawn from (seed, i)

Neighbors in a text are alike; a pool holds some thousand rows from all over the corpus. Nothing of a pool depends on
the pools before it, so a training that goes on reads the pool that it stopped at once more, and sees the same batches.
Left out are what stands in front of a row, and states whose norm is many times the median: the few sinks of a corpus
would be most of its squared error.

The model reads no more than a training still needs, and a row that a small corpus repeats within a pool once.

All of a row's tokens are in one pool, so the token before each is known by its place there (``BEFORE``), where asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from caseback.decode.dictionaries.training.reading import Batches, Reading
from caseback.errors import ArgumentError, CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.sites import as_site
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import Tokens
from caseback.stream.job_model import digest_of
from caseback.stream.one_pass import places
from caseback.stream.packing import Block, Row
from caseback.stream.rows_on_disk import read_block
from caseback.stream.store import Store

BEFORE = "the token before"
"""By this name a pool has, where asked, the place in it of the token before each in its row, or -1 where none is."""

_BEGINS, _ORDER = "which begin a row", "rows"

SINK = 10.0
"""States beyond so many times the pool's median norm are left out, unless another number is given."""


class Pools(Protocol):
    """Where states come from."""

    def pool(self, number: int, enough: int | None = None) -> dict[str, Tensor]:
        """States of some tokens by site, (token, d) each, the tokens in the same mixed order.

        Parameters
        ----------
        number
            Which pool.
        enough
            How many tokens will do, where not all of a pool are needed; there may be more, or a few fewer.
        """
        ...

    def widths(self) -> dict[str, int]:
        """The numbers a token has at each site."""
        ...

    def depends_on(self) -> dict[str, Any]:
        """What the states follow from, for a checkpoint."""
        ...


class ModelPools:
    """Pools of states as a model gives them.

    Parameters
    ----------
    model
        The model; layers beyond the last site are not run.
    rows
        Of the corpus, as ``rows_of`` gives them; they are held as numbers of 4 bytes a token.
    sites
        Which.
    tokens
        Of a pool.
    seed
        Same seed, same result.
    sink
        States beyond so many times the median norm are left out; None keeps all.
    paired
        Whether pools have ``BEFORE``.
    progress
        Show a progress bar while the model reads.
    """

    def __init__(
        self,
        model: Model,
        rows: Iterable[Row],
        sites: Sequence[str],
        tokens: int,
        seed: int,
        sink: float | None = SINK,
        *,
        paired: bool = False,
        progress: bool = False,
    ):
        self.model, self.tokens, self.seed, self.sink, self.paired = model, tokens, seed, sink, paired
        self.progress = progress
        self.reading: Reading | None = None
        self.sites = [as_site(site) for site in dict.fromkeys(sites)]
        for site in self.sites:
            if len(several := list(model.anatomy.sites(site))) > 1:
                raise ArgumentError(f"{site} is in {len(several)} layers: name one of them, such as {several[-1]}")
        held = list(rows)
        if not held:
            raise CasebackError("the corpus is empty: no document has the tokens that a row needs")
        self.rows = Block.of(held)
        self.sizes = (self.rows.lengths - self.rows.front).numpy().astype(np.int64)
        if not self.sizes.sum():
            raise CasebackError("the corpus has no token beside those that stand in front of rows")

    def pool(self, number: int, enough: int | None = None) -> dict[str, Tensor]:
        """See ``Pools``."""
        joined, first = self.joined(number, enough)
        return mixed(joined, self.sink, [self.seed, number], first if self.paired else None)

    def joined(self, number: int, enough: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """The states of a pool in the order of its rows, and which tokens are the first of theirs."""
        drawn = self.drawn(number, enough)
        once = np.unique(drawn)
        block = _rows(self.rows, drawn if len(once) == len(drawn) else once)
        at_once = limit("stream_tokens", self.model.device)
        batches = Batches(self.reading, number, {"at_once": at_once, "rows": drawn}, self.model.device)
        with progress_bar(total=block.n_tokens, what="states", show=self.progress, unit="token") as bar:
            for i, (tokens, rows) in enumerate(block.batches(at_once)):
                if i >= batches.there:
                    batches.add(self._states(tokens, rows, block.front[rows]))
                bar.update(int(tokens.mask.sum()))
        joined = batches.all()
        first, order = joined.pop(_BEGINS).cpu(), joined.pop(_ORDER).cpu()
        if len(once) < len(drawn):
            place = self._again(drawn, once, order.numpy())
            joined = {name: x[place.to(x.device)] for name, x in joined.items()}
            first = first[place]
        return joined, first

    def keep(self, training: Checkpoint) -> None:
        """Keep what is read of a long pool in files beside a training's checkpoint."""
        self.reading = Reading(training)

    def forget(self, before: int | None = None) -> None:
        """Remove these files, of pools that are done, or all."""
        if self.reading is not None:
            self.reading.forget(before)

    def _states(self, tokens: Tokens, rows: Tensor, front: Tensor) -> dict[str, Tensor]:
        """States of the tokens behind what stands in front of some rows, and which of them begin a row."""
        own = tokens.to(self.model.device)
        run = execute(self.model.anatomy, own, read=self.sites, logits=False)
        keep = own.mask & (own.mask.cumsum(1) > front.to(own.mask.device)[:, None])
        part = {str(site): run[site.key][keep].flatten(1) for site in self.sites}
        return part | {_BEGINS: (keep & (keep.cumsum(1) == 1))[keep], _ORDER: rows}

    def drawn(self, number: int, enough: int | None = None) -> np.ndarray:
        """The rows of a pool: those between two multiples of its size, in the drawn order of their epoch."""
        per_epoch = int(self.sizes.sum())
        first, last = number * self.tokens, (number + 1) * self.tokens
        parts: list[np.ndarray] = []
        for epoch in range(first // per_epoch, (last - 1) // per_epoch + 1):
            order = _order(len(self.sizes), self.seed, epoch)
            begins = self.sizes[order].cumsum() - self.sizes[order] + epoch * per_epoch
            parts.append(order[(begins >= first) & (begins < last)])
        rows = np.concatenate(parts)
        if not len(rows):
            longest = int(self.sizes.max())
            raise OutOfRange(f"pools of {self.tokens} tokens: expected more than the longest row has, {longest}")
        if enough is not None:  # the first token of a row is often a sink, which is left out
            rows = rows[: int(np.searchsorted(np.maximum(self.sizes[rows] - 1, 1).cumsum(), enough)) + 1]
        return rows

    def block(self, number: int) -> Block:
        """The rows of a pool, as a block."""
        return _rows(self.rows, self.drawn(number))

    def _again(self, drawn: np.ndarray, once: np.ndarray, order: np.ndarray) -> Tensor:
        """Where the tokens of drawn rows stand among those of each row once, which came in an order of their own."""
        sizes = self.sizes[once][order]
        begins = np.empty_like(sizes)
        begins[order] = sizes.cumsum() - sizes
        return torch.from_numpy(places(begins[np.searchsorted(once, drawn)], self.sizes[drawn]))

    def widths(self) -> dict[str, int]:
        """See ``Pools``."""
        run = self.model.run([[int(self.rows.ids[0])]], read=self.sites)
        return {str(site): run[site.key][0, 0].numel() for site in self.sites}

    def depends_on(self) -> dict[str, Any]:
        """See ``Pools``."""
        rows = [self.rows.ids, self.rows.lengths, self.rows.front]
        return {"model": digest_of(self.model), "corpus": rows, "pools": [self.tokens, self.seed, self.sink]}


class StoredPools:
    """Pools of states that were stored, see ``stream.collect``: some shards at a time, in a drawn order.

    Parameters
    ----------
    stores
        By site; of one corpus.
    tokens
        Of a pool, about: shards are taken whole.
    seed
        Same seed, same result.
    sink
        States beyond so many times the median norm are left out; None keeps all.
    paired
        Whether pools have ``BEFORE``.
    """

    def __init__(
        self, stores: dict[str, Store], tokens: int, seed: int, sink: float | None = SINK, *, paired: bool = False
    ):
        self.stores, self.seed, self.sink, self.paired = stores, seed, sink, paired
        first = next(iter(stores.values()))
        for name, store in stores.items():
            if store.n_tokens != first.n_tokens or store.n_shards != first.n_shards:
                raise TokensError(f"the store of {name} has {store.n_tokens:,} tokens, {first!r}: collect both in one")
        if not first.n_tokens:
            raise CasebackError(f"{first!r} is empty: there is nothing to train on")
        self.at_once = max(1, round(tokens * first.n_shards / first.n_tokens))

    def pool(self, number: int, enough: int | None = None) -> dict[str, Tensor]:
        """See ``Pools``; what is at hand is taken whole."""
        n = next(iter(self.stores.values())).n_shards
        shards = _taken(n, number * self.at_once, self.at_once, self.seed).tolist()
        parts: dict[str, list[Tensor]] = {name: [] for name in self.stores}
        begins: list[Tensor] = []
        for shard in shards:
            for name, store in self.stores.items():
                parts[name].append(store.shard(shard)[_behind_front(store, shard)].flatten(1))
            if self.paired:
                store = next(iter(self.stores.values()))
                begins.append(_begins(store.shard(shard, name="row")[_behind_front(store, shard)]))
        joined = {name: torch.cat(own) for name, own in parts.items()}
        return mixed(joined, self.sink, [self.seed, number], torch.cat(begins) if begins else None)

    def widths(self) -> dict[str, int]:
        """See ``Pools``."""
        return {name: store.width for name, store in self.stores.items()}

    def depends_on(self) -> dict[str, Any]:
        """See ``Pools``."""
        jobs = {name: [store.job.digest(i) for i in range(store.n_shards)] for name, store in self.stores.items()}
        return {"stores": jobs, "pools": [self.at_once, self.seed, self.sink]}


class GivenPools:
    """Pools of states at hand: planted ones, or another program's.

    Parameters
    ----------
    states
        By site (token, d), the same tokens in each, which are mixed one by one; or (text, token, d), texts of one
        length, which are taken whole and then mixed.
    tokens
        Of a pool; of texts, about.
    seed
        Same seed, same result.
    paired
        Whether pools have ``BEFORE``, for which states have to be of texts.
    """

    def __init__(self, states: dict[str, Tensor], tokens: int, seed: int, *, paired: bool = False):
        shapes = {name: tuple(x.shape) for name, x in states.items()}
        if len({shape[:-1] for shape in shapes.values()}) != 1 or not all(
            x.ndim in (2, 3) and x.numel() for x in states.values()
        ):
            raise TokensError(
                f"states of the shapes {shapes}: expected (token, d), as many tokens at each site, or (text, token, d)"
            )
        for name, x in states.items():
            if not bool(x.isfinite().all()):
                raise TokensError(f"states of {name} hold NaN or infinite numbers")
        first = next(iter(states.values()))
        if paired and first.ndim == 2:
            raise ArgumentError(
                "states (token, d) do not say which token was before which: give them by text, (text, token, d)"
            )
        self.states, self.tokens, self.seed, self.paired = states, tokens, seed, paired
        self.length = first.shape[1] if first.ndim == 3 else 1

    def pool(self, number: int, enough: int | None = None) -> dict[str, Tensor]:
        """See ``Pools``; what is at hand is taken whole."""
        n, count = len(next(iter(self.states.values()))), max(1, round(self.tokens / self.length))
        chosen = torch.from_numpy(_taken(n, number * count, count, self.seed))
        own = {name: x[chosen] for name, x in self.states.items()}
        if next(iter(own.values())).ndim == 2:
            return own
        begins = _begins(torch.arange(count).repeat_interleave(self.length)) if self.paired else None
        return mixed({name: x.flatten(0, 1) for name, x in own.items()}, None, [self.seed, number], begins)

    def widths(self) -> dict[str, int]:
        """See ``Pools``."""
        return {name: x.shape[-1] for name, x in self.states.items()}

    def depends_on(self) -> dict[str, Any]:
        """See ``Pools``."""
        return {"states": self.states, "pools": [self.tokens, self.seed]}


def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    """In which order an epoch goes through n things."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def _taken(n: int, first: int, count: int, seed: int) -> np.ndarray:
    """Which of n things come from the ``first`` on, epoch after epoch."""
    epochs = range(first // n, (first + count - 1) // n + 1)
    start = first - epochs[0] * n
    return np.concatenate([_order(n, seed, epoch) for epoch in epochs])[start : start + count]


def _behind_front(store: Store, shard: int) -> Tensor:
    """Which of a shard's tokens are the corpus's own."""
    block = read_block(store.job.folder, shard)
    front = block.front.repeat_interleave(block.lengths.long())
    return store.shard(shard, name="pos") >= front


def _rows(block: Block, rows: np.ndarray) -> Block:
    chosen = torch.from_numpy(rows)
    place = torch.from_numpy(places(block.row_starts[chosen].numpy(), block.lengths[chosen].long().numpy()))
    parts = {name: getattr(block, name)[chosen] for name in ("lengths", "document", "start", "front")}
    return Block(ids=block.ids[place], **parts)


def _begins(row: Tensor) -> Tensor:
    """Which tokens are the first of their row, of tokens with the rows' numbers."""
    return torch.cat([torch.ones(1, dtype=torch.bool), row[1:] != row[:-1]])


def mixed(
    states: dict[str, Tensor], sink: float | None, seed: list[int], begins: Tensor | None = None
) -> dict[str, Tensor]:
    """In a drawn order, without the sinks of any site; with ``BEFORE`` where it is known which tokens begin a row."""
    n = len(next(iter(states.values())))
    some = torch.ones(n, dtype=torch.bool)
    for x in states.values():
        if sink is not None:
            norms = x.float().norm(dim=1)
            some &= (norms <= sink * norms.median()).cpu()
    if not bool(some.any()):
        raise TokensError(f"none of {n} states of {', '.join(states)} can be trained on: NaN or infinite numbers")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    order = order[some[order]]
    mixed = {name: x[order.to(x.device)] for name, x in states.items()}
    if begins is not None:
        place = torch.full((n + 1,), -1)  # in the pool; the last entry is nobody's, and that of places -1
        place[order] = torch.arange(len(order))
        mixed[BEFORE] = place[torch.where(begins, n, torch.arange(n) - 1)[order]]
    return mixed
