"""A corpus's rows on disk: made once, resumed after an interruption, asked again with new queries.

    index.json              what made the rows, and a checksum of the model, of the corpus and of each shard's examples
    rows-00000.safetensors  rows of some examples, their tokens, and numbers beside them
    curvature.safetensors   bases that the rows are written in, where there are any

Every file is written whole or not at all, the index last: what it does not name does not count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caseback.errors import LoadError, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.forms import expect_form
from caseback.jobs.progress import progress_bar
from caseback.jobs.safe_files import expect_whole, read_json, read_tensors, write_json, write_tensors
from caseback.jobs.whole_file import make_folder
from caseback.localize.inputs.training.examples import CorpusCounts, Example, digest, examples_of
from caseback.localize.inputs.training.projection import width
from caseback.localize.inputs.training.rows import Chunk, Maker
from caseback.model.running.model import Model

FORMAT = 2
_INDEX, _CURVATURE = "index.json", "curvature.safetensors"
_FORM = {
    **{"model": str, "setup": dict, "shards": [{"file": str, "examples": int, "digest": str}], "complete": bool},
    **{"said": {"split?": int, "pieces?": int, "skipped?": int}, "beside?": [str], "curvature?": [str]},
}


class GradientStore:
    """Rows of a corpus in a folder.

    Parameters
    ----------
    folder
        Made where there is none.
    model
        The model that the rows belong to.
    setup
        What else makes a row, as JSON data: a store of another setup is refused.

    Raises
    ------
    LoadError
        For a folder that holds something else, or rows of another model or setup.
    """

    def __init__(self, folder: str | Path, model: Model, setup: dict[str, Any]):
        self.folder, self.model = Path(folder), model
        setup = json.loads(json.dumps(setup))
        self.index: dict[str, Any] = {
            "format": FORMAT,
            "model": fingerprint(model),
            "setup": setup,
            "shards": [],
            "complete": False,
            "said": {},
        }
        if os.path.exists(self.folder / _INDEX):
            self._resume()
        elif os.path.isfile(self.folder) or (os.path.isdir(self.folder) and any(self.folder.glob("[!.]*"))):
            raise LoadError(f"{str(folder)!r} is a file or a folder of something else: name an empty or a new folder")
        else:
            make_folder(self.folder, "the store")

    def _resume(self) -> None:
        path = self.folder / _INDEX
        try:
            index = read_json(path)
            theirs = index["format"], index["model"], index["setup"], index["shards"], index["complete"]
        except (LoadError, KeyError) as error:
            raise LoadError(f"{str(path)!r} is not the index of a gradient store: {error}") from error
        if theirs[0] != FORMAT:
            raise LoadError(f"{str(path)!r} has format {theirs[0]}: expected {FORMAT}. Make the store again")
        expect_whole(index, path)
        expect_form(index, _FORM, path)
        if unknown := index["said"].keys() - {count.name for count in fields(CorpusCounts)}:
            raise LoadError(f"{str(path)!r} cannot be read: said has {min(unknown)!r}")
        if theirs[1] != self.index["model"]:
            raise LoadError(
                f"the store {str(self.folder)!r} was made with other weights than those of {self.model.name!r}: its "
                "gradients are not this model's. Use another folder"
            )
        setup = self.index["setup"]
        differ = sorted(key for key in setup.keys() | theirs[2].keys() if setup.get(key) != theirs[2].get(key))
        if differ:
            differences = "; ".join(
                f"{key} is {_short(theirs[2].get(key))}, not {_short(setup.get(key))}" for key in differ
            )
            raise LoadError(f"the store {str(self.folder)!r} was made otherwise: {differences}. Use another folder")
        self.index = index

    @property
    def complete(self) -> bool:
        """Whether a whole corpus is in it."""
        return bool(self.index["complete"])

    def keep(self) -> None:
        """Write the index."""
        write_json(self.folder / _INDEX, self.index)

    def curvature(self) -> dict[str, Tensor] | None:
        """The bases that were kept with the rows."""
        if "curvature" not in self.index:
            return None
        names = self.index["curvature"]
        return dict(zip(names, _read(self.folder / _CURVATURE, *names), strict=True))

    def keep_curvature(self, tensors: dict[str, Tensor]) -> None:
        """Keep bases; from now on they belong to the store."""
        write_tensors(self.folder / _CURVATURE, tensors)
        self.index["curvature"] = sorted(tensors)
        self.keep()

    def fill(self, maker: Maker, corpus: Any, *, max_length: int | None = None, progress: bool = False) -> Stored:
        """Bring a corpus in, going on where an earlier call stopped; with no corpus, what is there.

        Raises
        ------
        LoadError
            For another corpus than the one begun with, or none where the store is not complete.
        """
        if corpus is None:
            if not self.complete:
                raise LoadError(f"the store {str(self.folder)!r} is not complete: give the corpus, to go on with it")
            return Stored(self, maker)
        corpus_counts = CorpusCounts()
        stream = examples_of(maker.model, corpus, max_length=max_length, corpus_counts=corpus_counts)
        done = self._check(stream)
        size = torch.empty((), dtype=maker.model.dtype).element_size()
        window = limit("influence_window")
        row_bytes = max(4, size) * width(maker.projector)
        step = window * max(1, limit("influence_shard_bytes") // (window * row_bytes))
        with progress_bar(initial=done, show=progress, what="gradients", unit="example") as bar:
            while shard := list(islice(stream, step)):
                if self.complete:
                    raise LoadError(self._other_corpus("has more examples"))
                self._write(maker, shard, done)
                done += len(shard)
                bar.update(len(shard))
        if not done:
            raise TokensError("the corpus is empty: expected lines of at least 2 tokens")
        corpus_counts.warn()
        if not self.complete:
            self.index["complete"], self.index["said"] = True, vars(corpus_counts)
            self.keep()
        return Stored(self, maker)

    def _check(self, stream: Iterator[Example]) -> int:
        """Skip the examples that are in the store, having made sure that they are the same."""
        done = 0
        for shard in self.index["shards"]:
            again = list(islice(stream, shard["examples"]))
            if digest(again) != shard["digest"]:
                raise LoadError(self._other_corpus(f"differs among examples {done} to {done + shard['examples'] - 1}"))
            done += len(again)
        return done

    def _other_corpus(self, how: str) -> str:
        return (
            f"the store {str(self.folder)!r} belongs to another corpus: this one {how}. Use another folder, or give "
            "no corpus to ask the one that is stored"
        )

    def _write(self, maker: Maker, shard: list[Example], first: int) -> None:
        held: dict[str, Tensor] = {}
        for chunk in maker.chunks(shard, first=first):
            at = torch.tensor(chunk.numbers) - first
            arrays = {"rows": torch.cat([piece for _, piece in chunk.pieces], 1), **chunk.beside}
            for name, values in arrays.items():
                place = held.setdefault(name, values.new_zeros(len(shard), *values.shape[1:], device="cpu"))
                place[at] = values.cpu()
        self.index["beside"] = sorted(held.keys() - {"rows"})
        held["ids"] = torch.tensor(list(chain.from_iterable(e.ids for e in shard)), dtype=torch.int32)
        held["told"] = torch.tensor([(len(e.ids), e.line, e.piece, e.first) for e in shard])
        name = f"rows-{len(self.index['shards']):05d}.safetensors"
        write_tensors(self.folder / name, held)
        self.index["shards"].append({"file": name, "examples": len(shard), "digest": digest(shard)})
        self.keep()


class Stored:
    """Rows read from a store, a shard at a time."""

    def __init__(self, store: GradientStore, maker: Maker):
        self.store, self.segments = store, maker.projector.segments
        self.corpus_counts = CorpusCounts(**store.index["said"])
        self.examples: list[Example] = []
        for shard in store.index["shards"]:
            ids, places = _read(store.folder / shard["file"], "ids", "told")
            ids, places = ids.numpy(), places.numpy()
            # the examples' tokens stand one after another: their lengths say where each ends
            ends = np.cumsum(places[:, 0])
            for (length, line, piece, begin), end in zip(places.tolist(), ends.tolist(), strict=True):
                self.examples.append(Example(tuple(ids[end - length : end].tolist()), line, piece, begin))

    def __iter__(self) -> Iterator[Chunk]:
        done = 0
        for shard in self.store.index["shards"]:
            rows, *beside = _read(self.store.folder / shard["file"], "rows", *self.store.index["beside"])
            numbers = list(range(done, done + len(rows)))
            done += len(rows)
            named = dict(zip(self.store.index["beside"], beside, strict=True))
            yield Chunk(numbers, [(segment, rows[:, segment]) for segment in self.segments], named)


def _read(path: Path, *names: str) -> list[Tensor]:
    """Some tensors of a file."""
    refuse = "{path} of the gradient store cannot be read: {why}. Make the store again"
    tensors, _ = read_tensors(path, names, refuse=refuse)
    return [tensors[name] for name in names]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
