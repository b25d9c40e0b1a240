"""The inputs that activate units most, out of a corpus that is streamed through the model once (PRIMER 4.3.14).

    top_u = the k tokens i with the largest a_u(i),    ties to the earlier token

Zhou et al. 2015, Bau et al. 2020; for language models Neuroscope. The top alone misleads (Bolukbasi et al. 2021), so
each unit's whole range is kept too: a histogram, and examples of a sample of tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from caseback.decode.vocabulary.activating.examples import Activating
from caseback.decode.vocabulary.activating.rows import Rows
from caseback.decode.vocabulary.activating.tally import UnitTally, tally_of
from caseback.decode.vocabulary.activating.units import Directions, Heads, Units, units_of
from caseback.errors import CasebackError, LoadError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.job import Job
from caseback.jobs.launch import HERE, expect_here
from caseback.jobs.text_file import JSON_SUFFIXES, read_texts
from caseback.jobs.working import threads_of
from caseback.model.anatomy.sites import Site, parse
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.stream.collect import Collecting, begin, finished, in_memory
from caseback.stream.collection import read_table
from caseback.stream.documents import documents
from caseback.stream.job_model import expect_job_of
from caseback.stream.packing import Block, blocks_of, row_length, rows_of
from caseback.stream.rows_on_disk import read_block
from caseback.stream.tables.table import State

KIND = "activating"


@technique(
    role="unit",
    entry=("4.3.14",),
    citation="Zhou et al. 2015, Bau et al. 2020",
    cost="one forward over the corpus",
)
def activating_inputs(
    model: Model,
    texts: Iterable[Any] | Path,
    site: str,
    *,
    layer: int | None = None,
    units: Sequence[int] | None = None,
    directions: Directions | None = None,
    heads: Heads = "norm",
    top: int = 20,
    per_row: bool = False,
    skip: int = 0,
    threshold: float = 0.0,
    sample: int = 1000,
    seed: int = 0,
    length: int | None = None,
    batch: int | None = None,
    padding: str = "right",
    store: str | Path | None = None,
    shard_tokens: int | None = None,
    workers: int = 1,
    on: str = HERE,
    threads: int | None = None,
    progress: bool = False,
) -> Activating:
    """Find the tokens of a corpus at which units activate most, and how each unit's activations are distributed.

    Activations are ranked as float32; equal ones by their place in the corpus, so neither batches nor padding nor an
    interruption changes what is found, beyond what they change in the activations' own last bits.

    Parameters
    ----------
    model
        The model.
    texts
        Texts, or lists of token ids, gone through once; or the ``Path`` of a text file with one text per line.
    site, layer, units, directions, heads
        What is looked at; see ``units_of``.
    top
        How many tokens are kept for each unit.
    per_row
        Keep only the strongest token of each row.
    skip
        Positions at the beginning of every row that do not count: first tokens often activate like nothing else.
    threshold
        A unit fires where it is above this.
    sample
        Tokens whose activations are kept for all units; drawn by ``seed``.
    length
        Tokens of a row at most; 128 by default, or the model's context where that is shorter.
    batch
        Rows of this length of a batch; shorter rows of like length fill it, so that there are more of them.
    padding
        The side of the padding.
    store
        A folder to keep the collection in, as a job: the same call goes on after an interruption, and with a corpus
        that has grown at its end goes through what is new.
    shard_tokens
        Tokens per shard of the job, which is what an interruption costs; by default the limit ``shard_tokens``.
    workers, on, threads
        Where a job runs, and the threads of each worker; see ``caseback.jobs.launch``.
    progress
        Show a progress bar.

    Returns
    -------
    Activating
        Memory is 4 bytes per token of the corpus, 8 top + 4 sample bytes and 4.1 kB per unit, and one batch.

    Raises
    ------
    CasebackError
        For an empty corpus, an activation that is NaN, workers without a store.
    LoadError
        For a store of something else or of another corpus, saying what differs.
    SiteAbsent, UnknownSite
        For a site that the model lacks, or that has no units.
    OutOfRange
        For units that are not there, and sizes that leave nothing.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> texts = ["Mary went to the store.", "John saw the dog."]
    >>> collection = activating_inputs(model, texts, "mlp_post", layer=1, top=3)
    >>> collection.top(model).dims, collection.n_tokens > 8
    (('feature', 'k'), True)
    """
    if top < 1 or skip < 0 or sample < 1:
        raise OutOfRange(f"top {top}, skip {skip}, sample {sample}: expected at least 1, 0 and 1")
    looked = units_of(model, site, layer=layer, units=units, directions=directions, heads=heads)
    asked = {
        "site": str(looked.site),
        "units": None if looked.chosen is None else list(looked.chosen),
        "directions": _identified(directions, store is not None),
        "heads": heads,
        "top": top,
        "per_row": per_row,
        "skip": skip,
        "threshold": threshold,
        "sample": sample,
        "seed": seed,
        "length": row_length(model, length),
    }
    at_once = limit("corpus_rows", given=batch)
    if at_once < 1:
        raise OutOfRange(f"batches of {at_once} rows: expected 1 or more")
    batch_tokens = at_once * asked["length"]
    table = UnitTally(looked, top, per_row, skip, threshold, sample, seed)
    work = Collecting(model, {KIND: table}, [], batch_tokens, padding)
    corpus = rows_of(model, documents(_texts(texts)), length=asked["length"], least=1)
    blocks = blocks_of(corpus, limit("shard_tokens", given=shard_tokens))
    if store is None:
        expect_here(workers, on, option="store")
        rows = Rows()
        state = in_memory(work, _remembered(blocks, rows), kind=KIND, progress=progress).state(KIND)
        return _collection_of(looked, state, rows, {"fingerprint": "", **asked})
    own = threads_of(store, threads, workers)
    options = {**asked, "batch_tokens": batch_tokens, "padding": padding}
    job = begin(store, blocks, options, work.depends_on(), own, kind=KIND, progress=progress)
    state = finished(job, work, workers=workers, on=on, progress=progress).state(KIND)
    return _collection_of(looked, state, _rows_in(job), _asked_in(job))


@checked
def load_activating(store: str | Path, *, directions: Directions | None = None) -> Activating:
    """Read a collection from its folder.

    Parameters
    ----------
    store
        As given to ``activating_inputs``.
    directions
        The directions or function that it was made with, where there were any: they are not stored.

    Raises
    ------
    LoadError
        For a folder that holds none.
    """
    if not os.path.exists(Path(store) / "job.json"):
        raise LoadError(f"{str(store)!r} holds no collection: expected a folder that activating_inputs wrote")
    job = Job.open(store)
    if job.plan.kind != KIND:
        raise LoadError(f"{str(store)!r} is a job of the kind {job.plan.kind!r}: expected {KIND!r}")
    asked = _asked_in(job)
    if (asked["directions"] is None) != (directions is None):
        raise LoadError(f"{store} was made {'with' if asked['directions'] else 'without'} directions: give the same")
    return _collection_of(_units_in(job, directions), read_table(job, KIND), _rows_in(job), asked)


def work_of(job: Job, model: Model) -> Collecting:
    """The work of a collection that was begun elsewhere.

    Raises
    ------
    LoadError
        For another model, and a collection of directions, which are not stored.
    """
    expect_job_of(job, model, "a collection")
    options = job.plan.options
    if options["directions"] is not None:
        raise LoadError(
            f"{str(job.folder)!r} is of directions that it does not hold: join it by the call that began it"
        )
    asked = [options[name] for name in ("top", "per_row", "skip", "threshold", "sample", "seed")]
    table = UnitTally(_units_in(job, None), *asked)
    return Collecting(model, {KIND: table}, [], options["batch_tokens"], options["padding"])


def _units_in(job: Job, directions: Directions | None) -> Units:
    options = job.plan.options
    chosen = None if options["units"] is None else tuple(options["units"])
    return Units(Site(*parse(options["site"])), chosen, directions, options["heads"])


def _asked_in(job: Job) -> dict[str, Any]:
    """What was asked for, and of which model."""
    own = {name: value for name, value in job.plan.options.items() if name not in ("batch_tokens", "padding")}
    return {"fingerprint": job.plan.depends_on["model"], **own}


def _rows_in(job: Job) -> Rows:
    rows = Rows()
    for shard, digest in enumerate(job.plan.shards):
        block = read_block(job.folder, shard, digest)
        rows.add(block.ids, block.lengths)
    return rows


def _remembered(blocks: Iterable[Block], rows: Rows) -> Iterator[Block]:
    for block in blocks:
        rows.add(block.ids, block.lengths)
        yield block


def _collection_of(units: Units, state: State, rows: Rows, asked: dict[str, Any]) -> Activating:
    tally = tally_of(state)
    if not tally.seen:
        raise CasebackError("the corpus is empty: no text has a token that counts")
    names = list(range(len(tally.keys))) if units.chosen is None else list(units.chosen)
    return Activating(units, names, tally, rows, asked)


def _texts(texts: Iterable[Any] | Path) -> Iterator[Any] | Iterable[Any]:
    if not isinstance(texts, Path):
        return texts
    if not os.path.isfile(texts):
        raise LoadError(f"{texts} is not a file: expected a text file with one text per line")
    return read_texts(texts) if texts.suffix.lower() in JSON_SUFFIXES else _lines(texts)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from (line.rstrip("\n") for line in file)
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read as UTF-8 text: {error}") from None


def _identified(directions: Directions | None, stored: bool) -> str | None:
    """What a store is compared by: a digest of directions, or of a function and of what it holds."""
    if directions is None:
        return None
    if stored or isinstance(directions, torch.Tensor):
        return fingerprint(directions, "directions")
    return getattr(directions, "__qualname__", type(directions).__name__)
