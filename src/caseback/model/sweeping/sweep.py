"""Many edited runs, exactly, for a fraction of their cost.

Each variant is a list of edits; the result is the metric of each variant on each prompt. The planner finds the first
layer and the first position that a variant's edits can change, ``packed`` recomputes only what comes after, many
variants at a time under a token budget, and only the logits that the metric reads are formed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, EditError
from caseback.jobs.budget import limit
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.launch import HERE, expect_here
from caseback.jobs.progress import progress_bar
from caseback.jobs.working import threads_of
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.identity import identity_of
from caseback.model.running.edits import Edit
from caseback.model.running.metrics import Metric
from caseback.model.running.passing import undisturbed
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.sweeping.sweep_job import KIND, Sweeping, budget_of, swept_in
from caseback.model.sweeping.variants import Variants, put


class Swept(NamedTuple):
    """What a sweep gives.

    Attributes
    ----------
    values, unedited
        The metric of every variant on every prompt, and of the unedited run.
    labels
        The variants' names.
    noise
        In half precision, the most by which a variant without an edit missed the unedited run, in any pass; else None.
    """

    values: Float[Tensor, "variant batch"]
    unedited: Float[Tensor, " batch"]
    labels: list[str]
    noise: float | None


@as_found
def sweep(
    anatomy: Anatomy,
    tokens: Tokens,
    variants: Sequence[Edit | Sequence[Edit]],
    metric: Metric,
    *,
    labels: Sequence[str] | None = None,
    given: Edit | Sequence[Edit] = (),
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    folder: str | Path | None = None,
    workers: int = 1,
    on: str = HERE,
    threads: int | None = None,
) -> Swept:
    """Values of every variant on every prompt; see ``Model.sweep``.

    ``given`` are edits of the embeddings that all variants share. They are made once, in the run that every variant
    starts from, and that run's values take the place of the unedited run's.
    """
    if limit("sweep_tokens", tokens.ids.device, given=token_budget) < 1:
        raise EditError(f"token_budget={token_budget}: expected at least 1 row per pass")
    if labels is not None and len(labels) != len(variants):
        raise CasebackError(f"{len(labels)} labels for {len(variants)} variants: expected one for each")
    if folder is not None and checkpoint is not None:
        raise CasebackError(f"both {checkpoint=!s} and {folder=!s}: a sweep is kept in one of them")
    if folder is not None:
        work = Sweeping(anatomy, tokens, variants, metric, given, budget_of(folder, token_budget))
        own = threads_of(folder, threads, workers)
        values, noise = swept_in(folder, work, n_threads=own, workers=workers, on=on, progress=progress)
        ready = work.ready
    else:
        expect_here(workers, on)
        ready = Variants(anatomy, tokens, variants, metric, given)
        values, noise = _swept(ready, metric, ready.tokens_per_pass(token_budget), checkpoint, progress)
    if labels is None:
        labels = ["; ".join(dict.fromkeys(e.describe() for _, _, e in r)) for r in ready.edits]
    return Swept(values, ready.unedited, list(labels), noise)


def _swept(
    ready: Variants, metric: Metric, token_budget: int, checkpoint: str | Path | None, progress: bool
) -> tuple[Float[Tensor, "variant batch"], float | None]:
    values = ready.unedited.repeat(len(ready), 1)
    job = job_of(ready.anatomy, ready.tokens, metric, ready.unedited, ready.content())
    results = Results(checkpoint, job, values)
    todo = [s for segments in ready.segments for s in segments if not results.done[s.variant, s.example]]
    bar = progress_bar(total=len(todo), show=progress, what=KIND, unit="variant")
    with bar, undisturbed(ready.anatomy, grad=False):
        for measured in ready.run(todo, token_budget):
            put(values, measured)
            segments = measured.segments
            results.keep([s.variant for s in segments], [s.example for s in segments], measured.noise)
            bar.update(len(segments))
    return values, float(results.noise) if ready.in_half_precision else None


def job_of(anatomy: Anatomy, tokens: Tokens, metric: Metric, base: Tensor, edits: Any) -> dict[str, Any]:
    """What a checkpoint of a sweep depends on; the unedited run's values stand for what a metric's function holds."""
    model = identity_of(anatomy.hf, anatomy.standing)
    return {"prompts": tokens, "edits": edits, "metric": [metric, base], "model": model}


class Results:
    """Values of a sweep and which of them are known; with a path, they are written to it after every chunk.

    Parameters
    ----------
    path, job
        As for ``Checkpoint``; see ``job_of``.
    values
        (variant, batch), or a vector each; what the file knows is written into it.
    """

    def __init__(self, path: str | Path | None, job: Mapping[str, Any], values: Tensor):
        self.file = Checkpoint(
            path,
            job,
            what="sweep checkpoint",
            other="belongs to another sweep (other prompts, edits, metric or model)",
        )
        self.values, self.done = values, np.zeros(tuple(values.shape[:2]), dtype=bool)
        self.noise = values.new_zeros(())
        if (saved := self.file.read()) is not None:
            self.noise = saved.tensors.get("noise", self.noise).to(values)
            self.done = saved.tensors["done"].numpy()
            values.copy_(saved.tensors["values"].to(values))

    def keep(
        self, variants: Sequence[int] | np.ndarray, examples: Sequence[int] | np.ndarray, noise: Tensor | None = None
    ) -> None:
        """Note that these values are known, and what rounding did in their pass."""
        self.done[variants, examples] = True
        self.noise = self.noise if noise is None else torch.maximum(self.noise, noise.to(self.noise))
        if self.file.path is not None:  # without a file nothing is read from the device before the end
            self.file.write(self._so_far())

    def _so_far(self) -> dict[str, Any]:
        return {"values": self.values.cpu().double(), "noise": self.noise.cpu().double(), "done": self.done}
