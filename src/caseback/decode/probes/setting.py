"""What every probe is given: representations at sites, a label for each example, and which examples judge it.

One of ``n_folds`` parts of the groups is held out; the others are trained on, and dealt again where something has to be
chosen, such as a penalty. All that is wrong with the input is said here, in one place for all probes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.decode.probes.splits import folds, held_out, numbered, say_repeated
from caseback.decode.representations import representations
from caseback.decode.states import States
from caseback.errors import CasebackError

Labels = Sequence[Any] | Tensor | np.ndarray
"""One for each example."""


@dataclass(frozen=True)
class Given:
    """Representations and labels.

    Attributes
    ----------
    x
        Representations, by site and example; what an example is (a vector, a row of tokens) is the probe's matter.
    names
        Of the sites.
    classes
        The labels in order; ``labels`` are numbers of these.
    labels
        Of all examples.
    groups
        A number for each example's group; None where each is its own.
    """

    x: Float[Tensor, "site example *d"]
    names: list[str]
    classes: list[Any]
    labels: Int[np.ndarray, " example"]
    groups: Int[np.ndarray, " example"] | None

    @classmethod
    def of(
        cls,
        x: Any,
        y: Labels,
        *,
        groups: Labels | None = None,
        sites: Sequence[Any] | None = None,
        dims: str = "(site, example, d_model)",
    ) -> Given:
        """Read what a caller gave.

        Raises
        ------
        CasebackError
            For one class, counts that differ, numbers that are not finite, and features that never vary.
        """
        data = representations(x, dims)
        n = data.shape[1]
        classes, labels = numbered(y, "labels", n)
        if len(classes) < 2:
            raise CasebackError(f"all {n} labels are {classes[0]!r}: a probe needs two classes or more")
        of = None if groups is None else numbered(groups, "groups", n)[1]
        return cls(data, site_names(sites, len(data), x), classes, labels, of)

    def tasks(self, types: Labels | None, random: np.random.Generator) -> dict[str, np.ndarray]:
        """The labels, the same ones shuffled, and with ``types`` a label drawn for each type (Hewitt & Liang 2019)."""
        tasks = {"task": self.labels, "shuffled": random.permutation(self.labels)}
        if types is not None:
            distinct, type_of = numbered(types, "types", len(self.labels))
            tasks["control"] = random.choice(self.labels, size=len(distinct))[type_of]
        return tasks


@dataclass(frozen=True)
class Setting(Given):
    """Representations and labels, and which examples are held out.

    Attributes
    ----------
    test
        The examples that are held out.
    n_folds, seed
        How groups were dealt.
    repeated
        How many held-out examples are the same as one that is trained on.
    """

    test: Bool[np.ndarray, " example"]
    n_folds: int
    seed: int
    repeated: int

    @classmethod
    def dealt(cls, given: Given, *, n_folds: int, seed: int) -> Setting:
        """Hold out one of ``n_folds`` parts of the groups.

        Raises
        ------
        CasebackError
            For too few groups or examples of a class.
        """
        data, classes, labels, of = given.x, given.classes, given.labels, given.groups
        test = held_out(labels, classes, of, n_folds, seed)
        repeated = say_repeated(data.flatten(2), torch.from_numpy(test).to(data.device), stacklevel=5)
        return cls(data, given.names, classes, labels, of, test, n_folds, seed, repeated)

    @property
    def held(self) -> Bool[Tensor, " example"]:
        """``test``, where the representations are."""
        return torch.from_numpy(self.test).to(self.x.device)

    @property
    def train(self) -> Int[np.ndarray, " trained"]:
        """The examples that are not held out."""
        return np.flatnonzero(~self.test)

    @property
    def held_groups(self) -> Int[np.ndarray, " held"] | None:
        """The groups of the examples that are held out."""
        return None if self.groups is None else self.groups[self.test]

    def inner(self) -> list[np.ndarray]:
        """Folds of the examples that are trained on, as places among these."""
        groups = None if self.groups is None else self.groups[self.train]
        return folds(self.labels[self.train], groups, self.n_folds, self.seed)

    def attrs(self) -> dict[str, int]:
        """How the numbers came about, for a table."""
        sizes = {"n_train": int((~self.test).sum()), "n_test": int(self.test.sum()), "repeated": self.repeated}
        return {"seed": self.seed, **sizes}


def site_names(sites: Sequence[Any] | None, count: int, x: Any = None) -> list[str]:
    """A name for each site; by default those that ``States`` bring, or numbers."""
    names = (x.names if isinstance(x, States) else list(range(count))) if sites is None else list(sites)
    if len(names) != count:
        raise CasebackError(f"{len(names)} names for {count} sites: expected one for each")
    return [str(name) for name in names]
