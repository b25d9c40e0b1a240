"""What a behavior is, as plain data: a task, and the roles that parts of a model have in it.

A role says where a part writes, where it looks, where the same look is when the relation is absent, which intervention
proves it, and which way the metric then moves:

    total      the part's output at its place is replaced by the counterfactual's
    direct     the logits alone read the counterfactual's output of the part
    ROLE       the queries of the heads with that role alone read it

fall = metric(clean) - metric(under the intervention)    times ``sign``: above 0 where the part works as the role says
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.model.arguments import checked
from caseback.tasks.prompts import Prompts
from caseback.tasks.task import Task

SORTS = ("head", "mlp")
TOTAL, DIRECT = "total", "direct"
Look = tuple[str, str]
"""Query and key, each a place of the task or of the behavior."""
Sign = int | Callable[[Prompts], Float[np.ndarray, " batch"]]


@checked
@dataclass(frozen=True)
class Role:
    """What some parts of a model do in a behavior.

    Attributes
    ----------
    name
        What the field calls it.
    about
        What such a part does, in a sentence.
    at
        The place where it writes, which of a head is its query.
    to
        The place that a head looks at; empty where it is chosen by its effect alone.
    control
        The same look where the relation is absent: another query and key of the clean prompts; None for the same places
        of the corrupt prompts.
    by
        What proves it: ``"total"``, ``"direct"``, or the name of a role before it, through whose queries it works.
    sign
        1 where taking the part out lowers the metric, -1 where that raises it; or a function of the prompts that says
        so for each.
    sort
        ``"head"`` or ``"mlp"``.
    """

    name: str
    about: str
    at: str
    to: str = ""
    control: Look | None = None
    by: str = TOTAL
    sign: Sign = 1
    sort: str = "head"

    def __post_init__(self) -> None:
        if self.sort not in SORTS:
            raise CasebackError(f"sort {self.sort!r} is unknown. {did_you_mean(self.sort, SORTS)}")
        if self.to and self.sort != "head":
            raise CasebackError(f"role {self.name!r}: an MLP looks nowhere, so it has no place {self.to!r}")
        if self.by == DIRECT and self.at != "end":
            raise CasebackError(f"role {self.name!r}: logits are read at the end, so what is direct is there too")

    @property
    def proof(self) -> str:
        """The intervention in words."""
        own = f"output at {self.at} from the counterfactual"
        if self.by == TOTAL:
            return own
        return f"{own}, read by {'the logits' if self.by == DIRECT else f'the queries of {self.by} heads'} alone"

    def signs(self, prompts: Prompts) -> Float[np.ndarray, " batch"]:
        """What a fall is multiplied by, prompt by prompt."""
        return np.full(len(prompts), float(self.sign)) if isinstance(self.sign, int) else self.sign(prompts)


@checked
@dataclass(frozen=True)
class Behavior:
    """A task, and who does what in it.

    Attributes
    ----------
    name, about
        What it is called, and what is asked, in a sentence.
    task
        Makes the task.
    roles
        Whom to look for; one whose proof goes through another role stands behind it.
    entry, citation
        The Primer's entry, and who described it.
    places
        The places of the stream that are exchanged to see which carry the behavior.
    extra
        Places that the task has no name for: from prompts to one position each.
    """

    name: str
    about: str
    task: Callable[[], Task]
    roles: tuple[Role, ...]
    entry: str
    citation: str
    places: tuple[str, ...] = ("end",)
    extra: Mapping[str, Callable[[Prompts], Int[Tensor, " batch"]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        before: list[str] = []
        for role in self.roles:
            if role.by not in (TOTAL, DIRECT, *before):
                raise CasebackError(
                    f"role {role.name!r} is proved by {role.by!r}: expected {TOTAL}, {DIRECT} or a role before it "
                    f"({', '.join(before) or 'there is none'})"
                )
            if role.name in before:
                raise CasebackError(f"two roles are called {role.name!r}")
            before.append(role.name)

    def at(self, prompts: Prompts, place: str) -> Int[Tensor, " batch"]:
        """The position of a place in each prompt.

        Raises
        ------
        CasebackError
            For a place that neither the task nor the behavior knows.
        """
        return self.extra[place](prompts) if place in self.extra else prompts.at(place)
