"""One pass over a corpus: tables of statistics and stored activations, in memory or as a job in a folder.

    table = merge over blocks, in their order, of the table over each block

In a folder the corpus is first written down as blocks of rows (4 bytes a token), which are the shards of a job: so
workers need neither the corpus nor its tokenizer, an interruption costs the block in hand, and any number of workers
comes to the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caseback.errors import CasebackError, LoadError
from caseback.jobs.budget import limit
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.job import Job, Plan, expect_same, other_inputs, plan_in
from caseback.jobs.launch import HERE, results
from caseback.jobs.progress import progress_bar
from caseback.jobs.safe_files import write_tensors
from caseback.jobs.whole_file import make_folder
from caseback.jobs.working import advance, threads_of
from caseback.model.anatomy.sites import Site, parse
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.stream.collection import Collection, table_path
from caseback.stream.documents import Corpus, documents
from caseback.stream.job_model import digest_of, options_of
from caseback.stream.marks import token_kinds
from caseback.stream.one_pass import pass_over, sites_read
from caseback.stream.packing import Block, blocks_of, rows_of
from caseback.stream.room import batch_tokens_of
from caseback.stream.rows_on_disk import begins_with_held, holds_block, read_block, rows_path
from caseback.stream.store import StoredSite, site_folder
from caseback.stream.tables.registry import TABLES, TableLike, tables_of
from caseback.stream.tables.table import Seen, State, Table

KIND = "collect"


@checked
def collect(
    model: Model,
    corpus: Corpus,
    tables: TableLike | Iterable[TableLike] = (),
    *,
    activations: Sequence[Any] = (),
    folder: str | Path | None = None,
    length: int | None = None,
    bos: bool | None = None,
    column: str = "text",
    shard_tokens: int | None = None,
    interleave: int = 1,
    seed: int = 0,
    batch_tokens: int | None = None,
    padding: str = "right",
    threads: int | None = None,
    workers: int = 1,
    on: str = HERE,
    progress: bool = False,
) -> Collection:
    """Run a model over a corpus once, and keep what is asked for.

    Parameters
    ----------
    model
        The model.
    corpus
        Texts, lists of token ids, ``Tokens``, pairs of one of these and labels, records, or the ``Path`` of a file or
        folder of texts, JSON lines or Parquet; an iterator is gone through once.
    tables
        Which statistics: names, ``{name: options}``, or tables, see ``caseback.stream.TABLES``; or ``"all"`` that the
        model has.
    activations
        Sites whose activations are stored at every token, such as ``"resid_post.5"``; they need a ``folder``.
    folder
        Where the job is kept. The same call goes on after an interruption; a corpus that has grown at its end adds to
        what is there.
    length
        Tokens per row at most; 128 by default, or the model's context where that is shorter.
    bos
        Whether the model's first token stands in front of each row; by default as the tokenizer does it.
    column
        Where records have their text.
    shard_tokens
        Tokens per shard; by default the limit ``shard_tokens``.
    interleave
        So many shards are filled at a time, with documents dealt to them at random: for training that mixes little.
    seed
        Same seed, same result.
    batch_tokens
        Tokens per pass, padding included; by default the limit ``stream_tokens``, or fewer where the free memory does
        not hold what is read of so many.
    padding
        The side of the padding.
    threads
        Of each worker; by default this process's, shared out among the workers.
    workers, on
        Where it runs; see ``caseback.jobs.launch``. They need a ``folder``, but for one worker here.
    progress
        Show a progress bar.

    Returns
    -------
    Collection
        ``collection[name]`` is a table as an ``xarray.Dataset``, ``collection.store(site)`` what was stored.

    Raises
    ------
    CasebackError
        For an empty corpus, nothing to collect, activations or workers without a folder.
    LoadError
        For a folder of another job, saying what differs, and a column or file that is not there.
    SiteAbsent, UnknownSite
        For what the model does not have.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> collection = collect(model, ["Mary went to the store.", "the cat"], ["stream_moments"])
    >>> collection.n_tokens, dict(collection["stream_moments"]["mean"].sizes)
    (10, {'layer': 4, 'd_model': 160})
    """
    chosen = _present(model) if tables == "all" else tables_of(tables)
    sites = [site for given in activations for site in model.anatomy.sites(given)]
    if not chosen and not sites:
        raise CasebackError("nothing to collect: name tables, or sites whose activations are to be stored")
    read = sites_read(model.anatomy, chosen, sites)  # what the model does not have is refused before the corpus is read
    options: dict[str, Any] = {
        "tables": [{table.name: table.options()} for table in chosen.values()],
        "activations": [str(site) for site in sites],
        "batch_tokens": batch_tokens_of(model, read, length=length, folder=folder, given=batch_tokens),
        "padding": padding,
    }
    work = Collecting(model, chosen, sites, options["batch_tokens"], padding)
    rows = rows_of(model, documents(corpus, column=column), length=length, bos=bos)
    blocks = blocks_of(rows, limit("shard_tokens", given=shard_tokens), interleave=interleave, seed=seed)
    if folder is None:
        if sites or workers != 1 or on != HERE:
            raise CasebackError("stored activations and other workers need a folder: give folder=")
        return in_memory(work, blocks, progress=progress)
    own = threads_of(folder, threads, workers)
    job = begin(folder, blocks, options, work.depends_on(), own, progress=progress)
    return finished(job, work, workers=workers, on=on, progress=progress)


def _present(model: Model) -> dict[str, Table]:
    """Every table that the model has."""
    tables = tables_of(list(TABLES))
    return {name: table for name, table in tables.items() if table.absent(model.anatomy) is None}


def work_of(job: Job, model: Model) -> Collecting:
    """The work of a collection that was begun elsewhere.

    Raises
    ------
    LoadError
        For another model than the one that the job is of.
    """
    options = options_of(job, passing=True)
    sites = [Site(*parse(site)) for site in options["activations"]]
    work = Collecting(model, tables_of(options["tables"]), sites, options["batch_tokens"], options["padding"])
    differ = [name for name, digest in work.depends_on().items() if job.plan.depends_on.get(name) != digest]
    if differ:
        raise LoadError(
            f"{str(job.folder)!r} is a job of another model than {model.name}: name the one that it was begun with "
            f"(what differs: {', '.join(differ)})"
        )
    return work


def begin(
    folder: str | Path,
    blocks: Iterator[Block],
    options: Mapping[str, Any],
    depends_on: Mapping[str, str],
    threads: int,
    *,
    kind: str = KIND,
    progress: bool = False,
) -> Job:
    """Write a corpus down as the shards of a job.

    Raises
    ------
    LoadError
        For a folder of another job, before anything in it is written.
    """
    at = make_folder(folder, "the collection")
    beside = [site_folder(site) for site in options.get("activations", ())]
    plan = Plan(kind, options, depends_on, [], [], threads, "token", beside)
    held = plan_in(at)
    before = [] if held is None else list(held.shards)
    if held is not None:
        expect_same(held, replace(plan, shards=before), str(folder))
    make_folder(at / "rows", "the collection")
    digests: list[str] = []
    sizes: list[int] = []
    bar = progress_bar(show=progress, what="rows", unit="token", unit_scale=True)
    for number, block in enumerate(blocks):
        tensors = block.tensors()
        digests.append(fingerprint([tensors, block.first_row, block.first_token]))
        sizes.append(block.n_tokens)
        other = number < len(before) and before[number] != digests[-1]
        if other and (number < len(before) - 1 or not begins_with_held(block, at, number)):
            raise other_inputs(str(folder), number)
        if not holds_block(path := rows_path(at, number), digests[-1]):
            first = {"first_row": str(block.first_row), "first_token": str(block.first_token)}
            write_tensors(path, tensors, {"block": digests[-1], **first})
        bar.update(block.n_tokens)
    bar.close()
    if not digests:
        raise CasebackError("the corpus is empty: no document has the tokens that a row needs")
    return Job.begin(at, replace(plan, shards=digests, sizes=sizes), "the collection", last_grew=True)


def finished(job: Job, work: Collecting, *, workers: int = 1, on: str = HERE, progress: bool = False) -> Collection:
    """Do what is left of a collection, and put the shards' tables together."""
    states: dict[str, State] = {}
    for tensors in results(job, work, workers=workers, on=on, progress=progress):
        for name, table in work.tables.items():
            own = {key.removeprefix(f"{name}/"): x for key, x in tensors.items() if key.startswith(f"{name}/")}
            states[name] = table.merge(states[name], own) if name in states else own
    for name, state in states.items():
        make_folder(job.folder / "tables", "the collection")
        write_tensors(table_path(job.folder, name), state, {"shards": fingerprint(list(job.plan.shards))})
    return Collection(work.model, work.tables, states, job.whole_size, job.folder)


def in_memory(work: Collecting, blocks: Iterator[Block], *, kind: str = KIND, progress: bool = False) -> Collection:
    """A collection that is not kept in a folder.

    Raises
    ------
    CasebackError
        For an empty corpus.
    """
    states: dict[str, State] = {}
    n_tokens = 0
    bar = progress_bar(show=progress, what=kind, unit="token", unit_scale=True)
    for block in blocks:
        new = work.states(block)
        states = {k: work.tables[k].merge(states[k], state) for k, state in new.items()} if states else new
        n_tokens += block.n_tokens
        bar.update(block.n_tokens)
    bar.close()
    if not n_tokens:
        raise CasebackError("the corpus is empty: no document has the tokens that a row needs")
    return Collection(work.model, work.tables, states, n_tokens, None)


class Collecting:
    """The work of a shard: a model's pass over a block, for tables and for what is stored."""

    def __init__(self, model: Model, tables: Mapping[str, Table], sites: Sequence[Site], batch_tokens: int, side: str):
        self.model, self.tables, self.sites = model, dict(tables), list(sites)
        self.batch_tokens, self.side = batch_tokens, side
        self.kinds = token_kinds(model)

    def depends_on(self) -> dict[str, str]:
        """Digests of what the results follow from besides rows and options."""
        return {"model": digest_of(self.model), "vocabulary": fingerprint(self.kinds)}

    def to(self, device: torch.device) -> Collecting:
        """The same on another device."""
        self.model.hf.to(device)
        return self

    def states(self, block: Block, stores: Mapping[Site, StoredSite] | None = None) -> dict[str, State]:
        """The tables of a block, and its activations put into ``stores``."""
        stores = stores or {}

        def put(seen: Seen) -> None:
            for site, store in stores.items():
                store.put(seen.index - block.first_token, seen.at(site))
            advance(len(seen.index))

        return pass_over(
            self.model,
            block,
            self.tables,
            self.kinds,
            batch_tokens=self.batch_tokens,
            side=self.side,
            also=put,
            also_sites=list(stores),
        )

    def __call__(self, job: Job, shard: int) -> dict[str, Tensor]:
        block = read_block(job.folder, shard, job.plan.shards[shard])
        stores = {site: StoredSite(block.n_tokens) for site in self.sites}
        states = self.states(block, stores)
        for site, store in stores.items():
            store.write(job, shard, site, block)
        return {f"{name}/{key}": x for name, state in states.items() for key, x in state.items()}
