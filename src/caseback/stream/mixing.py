"""Activations in a mixed order, for training on them: a buffer that is filled, shuffled, and used up by half.

    fill to N tokens -> shuffle -> give out N / 2 -> fill to N again -> ...

Neighbors in a text are alike, and a batch of neighbors is a poor sample. A buffer much larger than a text mixes many
texts at a time (Llama Scope, SAELens). Nothing is dropped: where the source is slower than what trains, that waits; and
each token is given out once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange, TokensError
from caseback.model.anatomy.sites import Site
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.stream.packing import Block
from caseback.stream.store import Store


@checked
def mixed(
    source: Iterable[Float[Tensor, "token *rest"]], *, batch: int, buffer: int = 2**20, seed: int = 0
) -> Iterator[Float[Tensor, "token *rest"]]:
    """Batches of a stream of activations in a mixed order; the last may be smaller.

    Parameters
    ----------
    source
        Activations some tokens at a time, as ``from_store`` and ``from_model`` give them.
    batch
        Tokens of a batch.
    buffer
        Tokens that are mixed with each other.
    seed
        Same seed, same result.

    Examples
    --------
    >>> pieces = torch.arange(10.0)[:, None].split(3)
    >>> batches = list(mixed(pieces, batch=4, buffer=6))
    >>> [len(one) for one in batches], sorted(torch.cat(batches).flatten().tolist()) == list(range(10))
    ([4, 4, 2], True)
    """
    if batch < 1 or buffer < 1:
        raise OutOfRange(f"batches of {batch} out of {buffer}: expected 1 or more of each")
    draw = torch.Generator().manual_seed(seed)
    held: list[Tensor] = []
    waiting: list[Tensor] = []
    for piece in source:
        if not isinstance(piece, Tensor) or piece.ndim == 0:
            raise TokensError(f"a piece of the stream is a {type(piece).__name__}: expected a tensor (token, ...)")
        held.append(piece)
        while sum(map(len, held)) >= buffer:
            pool = _shuffled(held, draw)
            half = max(1, buffer // 2)
            yield from _batches(waiting, pool[:half], batch)
            held = [pool[half:]]
    if held and sum(map(len, held)):
        yield from _batches(waiting, _shuffled(held, draw), batch)
    if waiting:
        yield torch.cat(waiting)


def _shuffled(pieces: Sequence[Tensor], draw: torch.Generator) -> Tensor:
    pool = torch.cat(list(pieces))
    return pool[torch.randperm(len(pool), generator=draw).to(pool.device)]


def _batches(waiting: list[Tensor], new: Tensor, batch: int) -> Iterator[Tensor]:
    """Whole batches out of what waits and what is new; the rest waits."""
    pool = torch.cat([*waiting, new])
    whole = len(pool) // batch * batch
    yield from pool[:whole].split(batch) if whole else ()
    waiting[:] = [pool[whole:]] if whole < len(pool) else []


@checked
def from_store(store: Store, *, piece: int = 4096, seed: int | None = None) -> Iterator[Tensor]:
    """A store's activations some tokens at a time, its shards in the corpus's order or in one drawn from ``seed``."""
    order = range(store.n_shards) if seed is None else _permutation(store.n_shards, seed)
    for number in order:
        yield from store.shard(number).split(piece)


@checked
def from_model(model: Model, blocks: Iterable[Block], site: Any, *, batch_tokens: int = 2048) -> Iterator[Tensor]:
    """A site's activations as the model gives them, row by row of the blocks; layers beyond the site are not run."""
    sites = list(model.anatomy.sites(site))
    if len(sites) != 1:
        raise OutOfRange(f"{site} is {len(sites)} sites: name one, such as 'resid_post.0'")
    (at,) = sites
    for block in blocks:
        if not isinstance(block, Block):
            raise TokensError(f"a block is a {type(block).__name__}: expected blocks, as blocks_of gives them")
        for tokens, _ in block.batches(batch_tokens):
            yield activations(model, tokens.to(model.device), at)


def activations(model: Model, tokens: Any, site: Site) -> Tensor:
    """A site at the real tokens of one batch, (token, ...)."""
    run = execute(model.anatomy, tokens, read=[site], logits=False)
    return run[site][tokens.mask]


def _permutation(n: int, seed: int) -> list[int]:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
