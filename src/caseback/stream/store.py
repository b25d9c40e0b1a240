"""Activations of one site at every token of a corpus, in shards that are read by memory map.

    activations/resid_post.5/00000.safetensors      x (token, ...) in the model's own dtype, ids, row, pos

A token's place in the corpus is its shard's first place and its place in the shard. Where a shard was changed after it
was written, or cut short, its digest says so when it is first read.
"""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from caseback.errors import ArgumentError, LoadError, OutOfRange, did_you_mean
from caseback.jobs.job import Job
from caseback.jobs.safe_files import read_tensors, write_tensors
from caseback.jobs.whole_file import make_folder
from caseback.model.anatomy.sites import Site, as_site
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.stream.job_model import expect_job_of, options_of
from caseback.stream.packing import Block
from caseback.stream.rows_on_disk import read_block

Stored = Literal["x", "ids", "row", "pos"]


def site_folder(site: Site | str) -> str:
    """Where in a job's folder the activations of a site are."""
    return f"activations/{str(site).replace('/', '_')}"


class StoredSite:
    """A shard of activations on its way to a file: rows of a block come in any order, and each takes its place."""

    def __init__(self, n_tokens: int):
        self.n_tokens = n_tokens
        self.values: Tensor | None = None

    def put(self, places: Int[Tensor, " token"], values: Tensor) -> None:
        """Activations of some of the block's tokens."""
        if self.values is None:
            self.values = torch.empty(self.n_tokens, *values.shape[1:], dtype=values.dtype)
        self.values[places.cpu()] = values.cpu()

    def write(self, job: Job, shard: int, site: Site, block: Block) -> None:
        """Write the file, before the shard's result says that it is there."""
        assert self.values is not None
        lengths = block.lengths.long()
        row = torch.arange(len(block)).repeat_interleave(lengths)
        pos = torch.arange(block.n_tokens) - block.row_starts[row]
        path = job.beside(shard, site_folder(site))
        make_folder(path.parent, "the activations")
        tensors = {"x": self.values, "ids": block.ids, "row": (row + block.first_row).int(), "pos": pos.int()}
        write_tensors(path, tensors, {"result_of": job.digest(shard)})


class Store:
    """The activations of one site, shard by shard.

    Attributes
    ----------
    job
        The job that they were collected in.
    site
        Which site.
    """

    def __init__(self, job: Job, site: Site):
        if not isinstance(job, Job) or not isinstance(site, Site):
            raise ArgumentError("a store is of a job and a site: open one with open_store(folder, site)")
        self.job, self.site = job, site
        self._ends = list(accumulate(map(job.size, range(len(job)))))
        self._checked: set[int] = set()
        self._rows: list[list[int]] | None = None

    @property
    def n_tokens(self) -> int:
        """How many tokens there are."""
        return self._ends[-1]

    @property
    def n_shards(self) -> int:
        """How many files."""
        return len(self.job)

    def __len__(self) -> int:
        return self.n_tokens

    def _path(self, shard: int) -> Path:
        return self.job.beside(shard, site_folder(self.site))

    @checked
    def expect_model(self, model: Model) -> None:
        """Refuse a model other than the one whose activations these are.

        Raises
        ------
        LoadError
        """
        expect_job_of(self.job, model, "activations")

    @checked
    def verify(self, shard: int) -> None:
        """Read a whole shard and compare its digest; a shard is verified once, when it is first read.

        Raises
        ------
        LoadError
            For one that is absent, damaged or another job's.
        """
        if shard in self._checked:
            return
        try:
            _, metadata = read_tensors(self._path(shard))
        except LoadError as error:
            raise LoadError(f"{error}; remove it, and the same call of collect makes it again") from None
        if metadata.get("result_of") != self.job.digest(shard):
            raise LoadError(f"{str(self._path(shard))!r} is of another job: collect again")
        self._checked.add(shard)

    @checked
    def shard(self, number: int, rows: slice = slice(None), *, name: Stored = "x") -> Tensor:
        """Activations (or ``"ids"``, ``"row"``, ``"pos"``) of a shard's tokens, those of a slice alone."""
        self.verify(number)
        try:
            with safe_open(self._path(number), "pt") as file:
                return file.get_slice(name)[rows]
        except (OSError, SafetensorError) as error:
            raise LoadError(f"{str(self._path(number))!r} cannot be read: {error}") from None

    @property
    def width(self) -> int:
        """Numbers of a token, heads side by side."""
        self.verify(0)
        with safe_open(self._path(0), "pt") as file:
            return math.prod(file.get_slice("x").get_shape()[1:])

    @checked
    def block_of(self, name: Stored, first: int, count: int) -> Tensor:
        """``"ids"``, ``"row"`` or ``"pos"`` of tokens one behind another, within one shard."""
        number = bisect_right(self._ends, first)
        start = first - (self._ends[number] - self.job.size(number))
        return self.shard(number, slice(start, start + count), name=name)

    @checked
    def row(self, number: int) -> list[int]:
        """The token ids of a row of the corpus.

        Raises
        ------
        OutOfRange
            For a row that the corpus does not have.
        """
        if self._rows is None:
            blocks = [read_block(self.job.folder, shard) for shard in range(self.n_shards)]
            self._rows = [block.row(i) for block in blocks for i in range(len(block))]
        if not 0 <= number < len(self._rows):
            raise OutOfRange(f"row {number}: there are {len(self._rows)}")
        return self._rows[number]

    @checked
    def blocks(self, tokens: int) -> Iterator[tuple[int, Tensor]]:
        """All activations in pieces of so many tokens at most, each with the place of its first token."""
        for number in range(self.n_shards):
            size = self.job.size(number)
            first = self._ends[number] - size
            for at in range(0, size, tokens):
                yield first + at, self.shard(number, slice(at, min(size, at + tokens)))

    @checked
    def at(self, index: Int[Tensor, " token"] | Sequence[int], *, name: Stored = "x") -> Tensor:
        """Activations (or ``"ids"``, ``"row"``, ``"pos"``) at places of the corpus.

        Raises
        ------
        OutOfRange
            For a place that the corpus does not have.
        """
        index = index if isinstance(index, Tensor) else torch.tensor(list(index), dtype=torch.int64)
        if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
            raise ArgumentError(
                f"places of shape {tuple(index.shape)}, {index.dtype}: expected a list of whole numbers"
            )
        index = index.long().cpu()
        if len(index) and (int(index.min()) < 0 or int(index.max()) >= self.n_tokens):
            raise OutOfRange(f"places {int(index.min())} to {int(index.max())}: there are {self.n_tokens} tokens")
        parts: list[Tensor] = []
        order = index.argsort(stable=True)
        for number, places in self._by_shard(index[order]):
            parts.append(self.shard(number, name=name)[places])
        joined = torch.cat(parts) if parts else self.shard(0, slice(0, 0), name=name)
        result = torch.empty_like(joined)
        result[order] = joined
        return result

    def _by_shard(self, ordered: Tensor) -> Iterator[tuple[int, Tensor]]:
        shards = torch.tensor([bisect_right(self._ends, int(place)) for place in ordered], dtype=torch.long)
        for number in shards.unique().tolist():
            yield number, ordered[shards == number] - (self._ends[number] - self.job.size(number))

    def __repr__(self) -> str:
        return f"Store({self.site}, {self.n_tokens:,} tokens in {self.n_shards} shards)"


@checked
def open_store(folder: str | Path, site: Any = None) -> Store:
    """The activations of a site in a folder that ``collect`` wrote.

    Parameters
    ----------
    folder
        The job's folder.
    site
        A site by name, such as ``"resid_post.5"``; by default the one that is stored.

    Raises
    ------
    LoadError
        For a folder without a job, a site that was not stored, several of which none is named, or a collection that
        is not complete.
    """
    job = Job.open(folder)
    stored = options_of(job)["activations"]
    if site is None:
        if len(stored) != 1:
            held = f"activations of {', '.join(stored)}: say which" if stored else "no activations"
            raise LoadError(f"{str(folder)!r} holds {held}")
        site = stored[0]
    where = as_site(site)
    name = str(where)
    if name not in stored:
        raise LoadError(f"{str(folder)!r} holds no activations of {name}. {did_you_mean(name, stored)}")
    left = job.undone()
    if left:
        raise LoadError(f"{str(folder)!r} is not complete, {len(left)} of {len(job)} shards are left: run it again")
    if not os.path.isdir(job.folder / site_folder(name)):
        raise LoadError(f"{str(folder)!r} has lost the activations of {name}")
    return Store(job, where)
