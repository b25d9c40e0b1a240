"""The inputs that activate units most, out of a corpus that is streamed through the model once (PRIMER 4.3.14).

    top_u = the k tokens i with the largest a_u(i),    ties to the earlier token

Zhou et al. 2015, Bau et al. 2020; for language models Neuroscope. The top alone misleads (Bolukbasi et al. 2021), so
each unit's whole range is kept too: a histogram, and examples of a sample of tokens.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from caseback.decode.vocabulary.activating.examples import Activating
from caseback.decode.vocabulary.activating.rows import Rows
from caseback.decode.vocabulary.activating.store import Store
from caseback.decode.vocabulary.activating.tally import Tally
from caseback.decode.vocabulary.activating.units import Directions, Heads, Units, units_of
from caseback.errors import CasebackError, LoadError, OutOfRange
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.progress import progress_bar
from caseback.jobs.text_file import JSON_SUFFIXES, read_texts
from caseback.model.anatomy.sites import Site, parse
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.tasks.corpus import corpus_rows

SAVE_SECONDS = 60.0


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
    save_every: float = SAVE_SECONDS,
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
    length, batch
        Tokens of a row and rows of a batch, as for ``corpus_rows``.
    padding
        The side of the padding.
    store
        A folder to keep the collection in. The same call with it goes on after an interruption, and with a corpus
        that has grown at its end goes through what is new.
    save_every
        Seconds between two savings.
    progress
        Show a progress bar.

    Returns
    -------
    Activating
        Memory is 4 bytes per token of the corpus, 8 top + 4 sample bytes and 4.1 kB per unit, and one batch.

    Raises
    ------
    CasebackError
        For an empty corpus, a store of something else or of another corpus, an activation that is NaN.
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
    if top < 1 or skip < 0 or sample < 1 or not save_every >= 0:
        raise OutOfRange(f"top {top}, skip {skip}, sample {sample}: expected at least 1, 0 and 1")
    looked = units_of(model, site, layer=layer, units=units, directions=directions, heads=heads)
    limit = model.context
    asked = {
        # of every weight, which only a store is compared by
        "fingerprint": "" if store is None else fingerprint(model),
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
        "length": min(128, limit or 128) if length is None else length,
    }
    job = _Collecting(looked, asked, None if store is None else Store(store))
    bar = progress_bar(show=progress, unit="token", unit_scale=True)
    saved = time.monotonic()
    for rows in corpus_rows(model, _texts(texts), length=asked["length"], batch=batch, least=1):
        fresh = job.unseen(rows)
        if fresh is not None:
            # the side is chosen anew: rows come padded as the tokenizer of ids pads them
            job.add(model, fresh.padded_on(padding))
            bar.update(int(fresh.mask.sum()))
        if job.store is not None and time.monotonic() - saved >= save_every:
            job.save(whole=False)
            saved = time.monotonic()
    bar.close()
    return job.finish()


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
    held = Store(store).read()
    if held is None:
        raise LoadError(f"{store} holds no collection: expected a folder that activating_inputs wrote")
    stored, tally, rows = held
    if (stored["directions"] is None) != (directions is None):
        raise LoadError(f"{store} was made {'with' if stored['directions'] else 'without'} directions: give the same")
    at = Site(*parse(stored["site"]))
    chosen = None if stored["units"] is None else tuple(stored["units"])
    return Activating(Units(at, chosen, directions, stored["heads"]), stored.pop("names"), tally, rows, stored)


class _Collecting:
    """A collection on its way."""

    def __init__(self, units: Units, asked: dict[str, Any], store: Store | None):
        self.units, self.asked, self.store = units, asked, store
        self.tally: Tally | None = None
        self.rows = Rows()
        self.names: list[int] = []
        self.passed = 0  # rows of the corpus seen in this call
        held = None if store is None else store.read()
        if held is not None and store is not None:
            stored, self.tally, self.rows = held
            store.expect(stored, asked)
            self.names = stored["names"]
        self.done = self.rows.n_rows

    def unseen(self, tokens: Tokens) -> Tokens | None:
        """The rows of a batch that were not counted already; those that were must be the same."""
        old = min(len(tokens), max(0, self.done - self.passed))
        for i in range(old):
            if tokens.ids[i][tokens.mask[i]].tolist() != self.rows[self.passed + i]:
                self._another(f"row {self.passed + i} differs")
        self.passed += len(tokens)
        return tokens[old:] if old < len(tokens) else None

    def _another(self, why: str) -> None:
        raise CasebackError(
            f"{self.store.folder if self.store else ''} was collected from another corpus ({why}): "
            "give the same corpus, or choose another folder"
        )

    def add(self, model: Model, tokens: Tokens) -> None:
        values = self.units.values(self.units.run(model, tokens))
        if self.tally is None:
            self.names = list(range(values.shape[1])) if self.units.chosen is None else list(self.units.chosen)
            self.tally = Tally.empty(values.shape[1], self.asked["top"])
        mask = tokens.mask.cpu()
        row = (torch.arange(len(mask))[:, None].expand_as(mask))[mask]
        counts = tokens.position_ids.cpu()[mask] >= self.asked["skip"]
        index = self.rows.n_tokens + torch.arange(len(row))
        self.rows.add(tokens.ids.cpu()[mask], mask.sum(1))
        if not bool(counts.all()):
            values, row, index = values[counts.to(values.device)], row[counts], index[counts]
        self.tally.add(
            values,
            index,
            row if self.asked["per_row"] else None,
            threshold=self.asked["threshold"],
            sample=self.asked["sample"],
            seed=self.asked["seed"],
        )

    def save(self, *, whole: bool) -> None:
        if self.store is not None and self.tally is not None:
            self.store.write(self.asked, self.names, self.tally, self.rows, whole=whole)

    def finish(self) -> Activating:
        if self.passed < self.done:
            self._another(f"it had {self.done} rows, not {self.passed}")
        if self.tally is None or not self.tally.seen:
            raise CasebackError("the corpus is empty: no text has a token that counts")
        self.save(whole=True)
        return Activating(self.units, self.names, self.tally, self.rows, self.asked)


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
