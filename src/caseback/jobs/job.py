"""Long work in a folder: a plan that lists shards, a file for each shard's result, and nothing else to go wrong.

    plan     = f(inputs, options)                     never of how many work on it
    result_i = work(plan, shard_i)                    the same bytes, whoever computes it, and whenever
    whole    = merge(result_0, ..., result_n)         in the order of the shards

A shard is done when its file is there and says that it belongs to this plan. So one process or fifty, on one machine
or on all that see the folder, come to the same bytes; a worker that is killed costs the shard in its hands; and going
on is the same call again. Whatever differs from the plan in the folder is refused by name.

    job.json                    kind, options, what it depends on, the shards
    shards/00000.safetensors    a shard's result, with a digest of its content
    claims/00000                who works on it (``claims``)
    failed/00000.json           why it could not be done
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from caseback.errors import LoadError
from caseback.jobs.claims import Claims
from caseback.jobs.fingerprint import fingerprint
from caseback.jobs.forms import read_record
from caseback.jobs.safe_files import read_json, read_tensors, write_json, write_tensors
from caseback.jobs.whole_file import make_folder

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "caseback job 1"
_FORM = {
    **{"kind": str, "options": dict, "depends_on": dict, "shards": [str], "sizes": [int], "threads": int},
    **{"unit": str, "beside": [str]},
}


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes
    ----------
    kind
        What kind of work it is, by the name that ``caseback work`` knows.
    options
        Plain values that the work follows.
    depends_on
        By name a digest of all else that the result follows from: the model, say.
    shards
        Of each shard a digest of its inputs.
    sizes
        How much work each shard is, in ``unit``.
    threads
        Of each worker: they are part of what the last bits follow from.
    unit
        What is counted, for progress.
    beside
        Folders in which a shard has a file beside its result.
    """

    kind: str
    options: Mapping[str, Any]
    depends_on: Mapping[str, str]
    shards: Sequence[str]
    sizes: Sequence[int] = ()
    threads: int = 1
    unit: str = "shard"
    beside: Sequence[str] = ()

    def differences(self, other: Plan) -> list[str]:
        """By name what is not the same in two plans, the shards aside; plain values as they are here and there."""
        one, two = self._facts(), other._facts()
        differ = [name for name in dict.fromkeys([*one, *two]) if one.get(name) != two.get(name)]
        digests = {**self.depends_on, **other.depends_on}
        return [_in_words(name, one.get(name), two.get(name), name not in digests) for name in differ]

    def _facts(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "beside": list(self.beside),
            **self.options,
            **self.depends_on,
            "threads": self.threads,
        }


@dataclass
class Job:
    """A plan in its folder.

    Attributes
    ----------
    folder
        Where.
    plan
        What is to be done.
    """

    folder: Path
    plan: Plan
    _common: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        plan = self.plan
        self._common = fingerprint([plan.kind, dict(plan.options), dict(plan.depends_on), plan.threads])

    @classmethod
    def begin(cls, folder: str | Path, plan: Plan, what: str = "the job", *, last_grew: bool = False) -> Job:
        """Put a plan into a folder, or go on with the same one.

        Parameters
        ----------
        folder
            New, empty, or with the same job; a job whose inputs have grown at their end keeps what was done.
        plan
            What is to be done.
        what
            What the folder is for, in words.
        last_grew
            Whether the caller knows that the last shard in the folder is the beginning of the one in the plan.

        Raises
        ------
        LoadError
            For a folder that holds another job, saying what differs, or other things.
        WriteError
            For one that cannot be written to.

        Examples
        --------
        >>> import tempfile, torch
        >>> plan = Plan("squares", {"power": 2}, {}, ["a", "b"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     job = Job.begin(folder, plan)
        ...     job.keep(0, {"x": torch.ones(2)})
        ...     Job.begin(folder, plan).undone()
        [1]
        """
        make_folder(folder, what)
        at = Path(folder)
        if (held := plan_in(at)) is not None:
            expect_same(held, plan, str(folder), last_grew=last_grew)
            if list(held.shards) == list(plan.shards):
                return cls(at, held)
        job = cls(at, plan)
        for room in ("shards", "claims", "failed"):
            make_folder(at / room, what)
        write_json(at / "job.json", {"format": FORMAT, **job._record()})
        return job

    @classmethod
    def open(cls, folder: str | Path) -> Job:
        """The job in a folder.

        Raises
        ------
        LoadError
            For a folder without one, or a damaged one.
        """
        path = Path(folder) / "job.json"
        if not os.path.isfile(path):
            raise LoadError(f"{str(folder)!r} holds no job: expected a job.json in it, as caseback collect writes one")
        record = read_record(path, FORMAT, _FORM, "job")
        if not 1 <= record["threads"] < 2**31:
            raise LoadError(f"{str(path)!r} cannot be read: threads is {record['threads']}, expected 1 or a few")
        if len(record["sizes"]) not in (0, len(record["shards"])):
            raise LoadError(
                f"{str(path)!r} cannot be read: {len(record['sizes'])} sizes of {len(record['shards'])} shards"
            )
        return cls(Path(folder), Plan(**{name: record[name] for name in Plan.__dataclass_fields__}))

    def _record(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "kind": plan.kind,
            "options": dict(plan.options),
            "depends_on": dict(plan.depends_on),
            "shards": list(plan.shards),
            "sizes": list(plan.sizes),
            "threads": plan.threads,
            "unit": plan.unit,
            "beside": list(plan.beside),
        }

    def __len__(self) -> int:
        return len(self.plan.shards)

    @property
    def claims(self) -> Claims:
        """Who works on which shard."""
        return Claims(self.folder / "claims")

    def path(self, shard: int) -> Path:
        """The file of a shard's result."""
        return self.folder / "shards" / f"{shard:05d}.safetensors"

    def size(self, shard: int) -> int:
        """How much work a shard is."""
        return self.plan.sizes[shard] if self.plan.sizes else 1

    @property
    def whole_size(self) -> int:
        """How much work all shards are."""
        return sum(map(self.size, range(len(self))))

    def digest(self, shard: int) -> str:
        """Of all that a shard's result follows from."""
        return fingerprint([self._common, self.plan.shards[shard]])

    def beside(self, shard: int, folder: str) -> Path:
        """The file that a shard has in another folder, with ``result_of`` among its metadata as the result itself."""
        return self.folder / folder / f"{shard:05d}.safetensors"

    def done(self, shard: int) -> bool:
        """Whether all files of a shard are there, and this job's; that their content is whole shows when it is read."""
        paths = [self.path(shard), *(self.beside(shard, folder) for folder in self.plan.beside)]
        return all(_result_of(path) == self.digest(shard) for path in paths)

    def undone(self) -> list[int]:
        """The shards whose result is not there."""
        return [shard for shard in range(len(self)) if not self.done(shard)]

    def keep(self, shard: int, tensors: Mapping[str, Tensor]) -> None:
        """Write a shard's result.

        Raises
        ------
        WriteError
            Where it cannot be written: what was done before stays.
        """
        write_tensors(self.path(shard), tensors, {"result_of": self.digest(shard)})
        self.failure_path(shard).unlink(missing_ok=True)

    def read(self, shard: int) -> dict[str, Tensor]:
        """A shard's result.

        Raises
        ------
        LoadError
            For one that is absent, damaged, or another job's.
        """
        tensors, metadata = read_tensors(self.path(shard))
        if metadata.get("result_of") != self.digest(shard):
            raise LoadError(f"{str(self.path(shard))!r} is a result of another job: remove it, and run the job again")
        return tensors

    def failure_path(self, shard: int) -> Path:
        """Where it is written why a shard could not be done."""
        return self.folder / "failed" / f"{shard:05d}.json"

    def failures(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Shards that could not be done, and why."""
        for shard in range(len(self)):
            if os.path.exists(path := self.failure_path(shard)) and not self.done(shard):
                yield shard, read_json(path)


def _in_words(name: str, one: Any, two: Any, shown: bool) -> str:
    plain = shown and all(isinstance(value, str | int | float | None) for value in (one, two))
    return f"{name} ({one} there, {two} here)" if plain else name


def _result_of(path: Path) -> str | None:
    """The digest that a file says it is the result of; None where there is no such file."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("result_of")
    except (OSError, SafetensorError, ValueError):
        return None


def plan_in(folder: Path) -> Plan | None:
    """The plan of the job in a folder; None for a folder that a new one may be put into.

    Raises
    ------
    LoadError
        For a damaged job, and a folder with other things in it.
    """
    if os.path.exists(folder / "job.json"):
        return Job.open(folder).plan
    if any(name for name in os.listdir(folder) if not name.startswith(".") and name not in _OWN):
        raise LoadError(f"{str(folder)!r} holds other things and no job: choose an empty or a new folder")
    return None


def expect_same(held: Plan, plan: Plan, folder: str, *, last_grew: bool = False) -> None:
    """Refuse a plan that is not the one in a folder, nor the same with more at its end.

    Raises
    ------
    LoadError
        Saying what differs.
    """
    differ = held.differences(plan)
    if differ:
        raise LoadError(f"{folder!r} holds another job: choose another folder (what differs: {', '.join(differ)})")
    same = len(held.shards) - last_grew
    for number, (one, other) in enumerate(zip(held.shards[:same], plan.shards, strict=False)):
        if one != other:
            raise other_inputs(folder, number)
    if len(plan.shards) < len(held.shards):
        raise other_inputs(folder, len(plan.shards))


def other_inputs(folder: str, number: int) -> LoadError:
    """The refusal of inputs that are not those of the job in a folder."""
    return LoadError(f"{folder!r} holds a job on other inputs (from shard {number} on): choose another folder")


_OWN = ("shards", "claims", "failed", "rows", "activations")
