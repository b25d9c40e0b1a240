"""What a job says of itself: its options, and which model it is of, a digest among what it depends on."""

from __future__ import annotations

from typing import Any

from caseback.errors import LoadError
from caseback.jobs.forms import expect_form
from caseback.jobs.job import Job
from caseback.model.anatomy.identity import model_digest
from caseback.model.running.model import Model


def digest_of(model: Model) -> str:
    """The digest by which a job knows its model."""
    return model_digest(model.hf, model.anatomy.standing)


_OPTIONS = {"tables": list, "activations": [str]}
_OF_A_PASS = {"batch_tokens": int, "padding": str}


def options_of(job: Job, *, passing: bool = False) -> dict[str, Any]:
    """The options that a collection was begun with; ``passing`` where a model is to pass over its rows.

    Raises
    ------
    LoadError
        For a job of something else.
    """
    form = _OPTIONS | (_OF_A_PASS if passing else {})
    expect_form(job.plan.options, form, f"options of {job.folder / 'job.json'}")
    return dict(job.plan.options)


def expect_job_of(job: Job, model: Model, what: str) -> None:
    """Refuse a model other than the one that ``what`` in the job's folder is of.

    Raises
    ------
    LoadError
    """
    if job.plan.depends_on.get("model") != digest_of(model):
        raise LoadError(f"{str(job.folder)!r} holds {what} of another model than {model.name}")
