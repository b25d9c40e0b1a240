"""Which model a job is of: a digest among what the job depends on."""

from __future__ import annotations

from caseback.errors import LoadError
from caseback.jobs.job import Job
from caseback.model.anatomy.identity import model_digest
from caseback.model.running.model import Model


def digest_of(model: Model) -> str:
    """The digest by which a job knows its model."""
    return model_digest(model.hf, model.anatomy.standing)


def expect_job_of(job: Job, model: Model, what: str) -> None:
    """Refuse a model other than the one that ``what`` in the job's folder is of.

    Raises
    ------
    LoadError
    """
    if job.plan.depends_on.get("model") != digest_of(model):
        raise LoadError(f"{str(job.folder)!r} holds {what} of another model than {model.name}")
