"""What a pass over a corpus left: tables as labeled arrays, and stores of activations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from caseback.errors import CasebackError, LoadError, did_you_mean
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.job import Job
from caseback.jobs.safe_files import read_tensors
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.stream.job_model import expect_job_of, options_of
from caseback.stream.store import Store, open_store
from caseback.stream.tables.registry import tables_of
from caseback.stream.tables.table import State, Table


@checked
class Collection:
    """Tables and stored activations of one model over one corpus.

    Attributes
    ----------
    model
        The model.
    tables
        By name.
    n_tokens
        How many tokens the model read.
    folder
        Where the job is; None for one in memory.
    """

    def __init__(
        self, model: Model, tables: Mapping[str, Table], states: Mapping[str, State], n_tokens: int, folder: Path | None
    ):
        self.model, self.tables, self._states = model, dict(tables), dict(states)
        self.n_tokens, self.folder = n_tokens, folder

    @checked
    def state(self, name: str) -> State:
        """A table's sums as they are, to be merged or reduced further."""
        if name not in self._states:
            raise CasebackError(f"no table {name!r} was collected. {did_you_mean(name, self._states)}")
        return self._states[name]

    def __getitem__(self, name: str) -> xr.Dataset:
        state = self.state(name)
        return self.tables[name].result(state, self.model, corpus_tokens=self.n_tokens)

    def __iter__(self) -> Any:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    @property
    def sites(self) -> list[str]:
        """The sites whose activations were stored."""
        return [] if self.folder is None else options_of(Job.open(self.folder))["activations"]

    @checked
    def store(self, site: Any) -> Store:
        """The activations that were stored of a site.

        Raises
        ------
        CasebackError
            Where there is no folder.
        LoadError
            For a site that was not stored.
        """
        if self.folder is None:
            raise CasebackError("this collection is in memory: activations are stored in a folder")
        return open_store(self.folder, site)

    def __repr__(self) -> str:
        return f"Collection({', '.join(self._states) or 'no tables'}; {self.n_tokens:,} tokens)"


@checked
def open_collection(folder: str | Path, model: Model) -> Collection:
    """A collection that was finished before.

    Parameters
    ----------
    folder
        The job's folder.
    model
        The model that it is of.

    Raises
    ------
    LoadError
        For a folder without one, one that is not finished, or another model.
    """
    job = Job.open(folder)
    expect_job_of(job, model, "a collection")
    tables = tables_of(options_of(job)["tables"])
    states = {name: read_table(job, name) for name in tables}
    return Collection(model, tables, states, job.whole_size, job.folder)


def read_table(job: Job, name: str) -> State:
    """A table over the whole corpus of a job that was finished.

    Raises
    ------
    LoadError
        For one that is absent, damaged, or of other shards.
    """
    path = table_path(job.folder, name)
    state, metadata = read_tensors(path, refuse="{path} cannot be read: {why}; run the collection again")
    if metadata.get("shards") != fingerprint(list(job.plan.shards)):
        raise LoadError(f"{str(path)!r} is of other shards than the job has now: run the collection again")
    return state


def table_path(folder: Path, name: str) -> Path:
    """The file of a table over the whole corpus."""
    return folder / "tables" / f"{name}.safetensors"
