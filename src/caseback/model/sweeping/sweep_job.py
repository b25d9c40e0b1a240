"""A sweep as a job in a folder: each shard is some variants after each other, about as many token rows as a limit says.

Which variants a shard has follows from the sweep alone. A worker is given model, prompts, edits and metric by the
process that starts it, has them from the same call made elsewhere, or reads all but the model in the folder
(``sweep_file``).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, LoadError, WriteError
from caseback.jobs.budget import limit
from caseback.jobs.fingerprint import fingerprints
from caseback.jobs.forms import expect_form
from caseback.jobs.job import Job, Plan
from caseback.jobs.launch import HERE, results
from caseback.jobs.sent_calls import OfACall
from caseback.jobs.working import advance, threads
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.assembled import assembled
from caseback.model.anatomy.identity import model_digest
from caseback.model.anatomy.sites import SITES
from caseback.model.running.edits import Apply, Edit, listed
from caseback.model.running.metrics import Metric
from caseback.model.running.passing import undisturbed
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.running.user_hooks import drop_output_hooks
from caseback.model.sweeping.sweep_file import SweepData, read_sweep, sweep_path, write_sweep
from caseback.model.sweeping.variants import Variants, put

if TYPE_CHECKING:
    from caseback.model.running.model import Model

KIND = "sweep"


class Sweeping:
    """The work of a shard: the metric of some variants on every prompt."""

    def __init__(
        self,
        anatomy: Anatomy,
        tokens: Tokens,
        variants: Sequence[Edit | Sequence[Edit]],
        metric: Metric,
        given: Edit | Sequence[Edit],
        token_budget: int | None,
        row_budget: int | None = None,
    ):
        self.anatomy, self.tokens, self.metric, self._token_budget = anatomy, tokens, metric, token_budget
        self.variants, self.given = [listed(variant) for variant in variants], listed(given)
        self.row_budget = limit("sweep_shard_tokens", tokens.ids.device, given=row_budget)
        self._ready: Variants | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Sent without what follows from the rest: the anatomy and the unedited run are found again.
        drop_output_hooks(self.anatomy.hf)
        anatomy = self.anatomy.hf, self.anatomy.tokenizer, self.anatomy.standing
        budgets = self.token_budget, self.row_budget  # as they stand here, whatever the limits are elsewhere
        return _arrived, (*anatomy, self.tokens, self.variants, self.metric, self.given, *budgets)

    def to(self, device: torch.device) -> Sweeping:
        """The same on another device."""
        self.anatomy.hf.to(device)
        self.tokens, self._ready = self.tokens.to(device), None
        return self

    @property
    def ready(self) -> Variants:
        """The variants, resolved, with the unedited run: made once in each process."""
        if self._ready is None:
            self._ready = Variants(self.anatomy, self.tokens, self.variants, self.metric, self.given)
        return self._ready

    @property
    def token_budget(self) -> int:
        """How many tokens a pass has: fixed when it is first asked for, and sent to others as it is here."""
        if self._token_budget is None:
            self._token_budget = self.ready.tokens_per_pass()
        return self._token_budget

    def expect_sendable(self) -> None:
        """Refuse what no other process can be given: Python's functions, and sites that this program registered.

        Raises
        ------
        CasebackError
            Naming the edit or the metric.
        """
        standing = [edit for _, edit in self.anatomy.standing]
        edits = [edit for each in [standing, self.given, *self.variants] for edit in each]
        for edit in edits:
            if isinstance(edit, Apply):
                raise CasebackError(
                    f"{edit.describe()} is a Python function, which cannot be sent to other processes: use workers=1"
                )
        if not isinstance(self.metric.bind, OfACall):
            raise CasebackError(
                f"the metric {self.metric.name!r} is a Python function, which cannot be sent to other processes: use "
                "workers=1, or one of caseback's metrics, such as cb.logit_diff"
            )
        read = [site if isinstance(site, str) else site[0] for site in self.metric.reads]
        sites = [*(edit.site for edit in edits), *read]
        for name in sites:
            kind = SITES.get(name.partition(".")[0])
            if kind is not None and kind.view is not None:
                raise CasebackError(
                    f"{name!r} is a site that was registered in this process, which others do not have: use workers=1"
                )

    def data(self) -> SweepData:
        """What the folder is given to hold of it."""
        standing = {id(edit): edit for _, edit in self.anatomy.standing}  # one of several layers stands there for each
        return SweepData(self.tokens, self.variants, self.metric, self.given, list(standing.values()))

    def slices(self) -> list[tuple[int, int]]:
        """The first and the last variant but one of each shard."""
        shards, first, rows = [], 0, 0
        for i, segments in enumerate(self.ready.segments):
            rows += sum(map(len, segments))
            if rows >= self.row_budget or i == len(self.ready) - 1:
                shards.append((first, i + 1))
                first, rows = i + 1, 0
        return shards

    def plan(self, n_threads: int) -> Plan:
        """The sweep as a job: what it depends on, and its shards."""
        ready, anatomy = self.ready, self.anatomy
        depends_on = fingerprints(
            {"prompts": self.tokens, "edits": ready.content(), "metric": [self.metric, ready.unedited]}
        )
        slices = self.slices()
        return Plan(
            KIND,
            {"token_budget": self.token_budget, "shard_tokens": self.row_budget},
            {**depends_on, "model": model_digest(anatomy.hf, anatomy.standing)},
            [f"variants {first} to {stop}" for first, stop in slices],
            [stop - first for first, stop in slices],
            n_threads,
            "variant",
        )

    @as_found
    def __call__(self, job: Job, shard: int) -> dict[str, Tensor]:
        first, stop = self.slices()[shard]
        ready = self.ready
        values = ready.unedited.repeat(stop - first, 1)
        segments = [segment for own in ready.segments[first:stop] for segment in own]
        with undisturbed(self.anatomy, grad=False):
            noise = values.new_zeros(())
            for measured in ready.run(segments, self.token_budget):
                put(values, measured, first)
                noise = noise if measured.noise is None else torch.maximum(noise, measured.noise.to(noise))
        advance(stop - first)
        return {"values": values, "noise": noise}


def _arrived(hf: Any, tokenizer: Any, standing: Any, *given: Any) -> Sweeping:
    return Sweeping(assembled(hf, tokenizer, standing), *given)


def budget_of(folder: str | Path, given: int | None = None) -> int | None:
    """How many tokens a pass of a sweep in a folder has: what is given, else as many as when the folder was made.

    Raises
    ------
    LoadError
        For a damaged job.
    """
    if given is None and os.path.exists(Path(folder) / "job.json"):
        return Job.open(folder).plan.options.get("token_budget")
    return given


def work_of(job: Job, model: Model) -> Sweeping:
    """The work of a sweep that was begun elsewhere, from what its folder holds.

    Raises
    ------
    LoadError
        For a sweep that its folder does not hold, and a model other than the one that it is of.
    """
    options = dict(job.plan.options)
    expect_form(options, {"token_budget": int, "shard_tokens": int}, f"options of {job.folder / 'job.json'}")
    data = read_sweep(job, model)
    own = model.edited(data.standing) if data.standing else model
    budgets = options["token_budget"], options["shard_tokens"]
    work = Sweeping(own.anatomy, data.tokens, data.variants, data.metric, data.given, *budgets)
    with threads(job.plan.threads):
        plan = work.plan(job.plan.threads)
    # a run among the edits is there without what the sweep does not read of it: the file has the edits' own digest
    plan = replace(plan, depends_on={**plan.depends_on, "edits": job.plan.depends_on["edits"]})
    differ = job.plan.differences(plan) or (["shards"] if plan.shards != job.plan.shards else [])
    if differ:
        raise LoadError(
            f"{str(job.folder)!r} holds a sweep that is not of {model.name} as it is here (what differs: "
            f"{', '.join(differ)}): expected the same model, dtype and versions of the libraries"
        )
    return work


def _write_if_data(job: Job, work: Sweeping) -> None:
    """Write a sweep down where it is data alone; with a function in it it is joined by the same call."""
    try:
        work.expect_sendable()
        write_sweep(job, work.data())
    except WriteError:
        raise
    except CasebackError:
        return


def swept_in(
    folder: str | Path, work: Sweeping, *, n_threads: int, workers: int = 1, on: str = HERE, progress: bool = False
) -> tuple[Float[Tensor, "variant batch"], float | None]:
    """The values of a sweep's variants, by whoever works on its folder, and what rounding did to the unedited run.

    Parameters
    ----------
    folder
        Where the job is kept.
    work
        The sweep.
    n_threads
        Of each worker.
    workers, on, progress
        As for ``caseback.jobs.launch``.

    Raises
    ------
    CasebackError
        For what other processes cannot be sent.
    LoadError
        For a folder of another sweep, saying what differs.
    """
    if workers != 1 or on != HERE:
        work.expect_sendable()
    with threads(n_threads):  # last bits of the unedited run follow from them
        job = Job.begin(folder, work.plan(n_threads), "the sweep")
    if not os.path.isfile(sweep_path(job.folder)) and job.undone():
        _write_if_data(job, work)
    own = list(results(job, work, workers=workers, on=on, progress=progress))
    noise = max(float(shard["noise"]) for shard in own) if work.ready.in_half_precision else None
    return torch.cat([shard["values"] for shard in own]).to(work.ready.unedited), noise
