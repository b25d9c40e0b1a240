"""A high-level causal model: what a network is claimed to compute, as variables that are functions of one another.

    v = f_v(parents of v)             the inputs are given, everything else follows in order
    do(v := x)                        f_v is set aside and v is x

An interchange takes a variable's value from another input's run: M(b | do(V = V(s))) (PRIMER 3.2.32).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from caseback.errors import CasebackError, did_you_mean
from caseback.model.arguments import checked

Mechanism = tuple[Sequence[str], Callable[..., Any]]
Values = Mapping[str, Any]


@checked
@dataclass(frozen=True, eq=False)
class CausalModel:
    """Variables in the order in which they are worked out.

    Attributes
    ----------
    inputs
        The values that each input variable may have.
    mechanisms
        For every other variable its parents and the function of their values. They stand in topological order: each
        after all its parents.
    output
        The variable that the network's answer is compared with; by default the last.

    Raises
    ------
    CasebackError
        For a variable that stands before one of its parents, is its own ancestor, has an unknown parent or is
        declared twice, for an input without values, and for an unknown output.

    Examples
    --------
    >>> equality = CausalModel(
    ...     inputs={"a": "xy", "b": "xy", "c": "xy"},
    ...     mechanisms={
    ...         "a is b": (["a", "b"], lambda a, b: a == b),
    ...         "answer": (["a is b", "c"], lambda same, c: c if same else "z"),
    ...     },
    ... )
    >>> equality.run({"a": "x", "b": "x", "c": "y"})["answer"]
    'y'
    >>> equality.interchange({"a": "x", "b": "x", "c": "y"}, {"a is b": {"a": "x", "b": "y", "c": "y"}})["answer"]
    'z'
    """

    inputs: Mapping[str, Sequence[Hashable]]
    mechanisms: Mapping[str, Mechanism]
    output: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", {name: tuple(values) for name, values in self.inputs.items()})
        object.__setattr__(self, "mechanisms", {v: (tuple(p), f) for v, (p, f) in self.mechanisms.items()})
        if not self.inputs or not self.mechanisms:
            raise CasebackError("a causal model needs inputs and at least one variable that is made from them")
        if not self.output:
            object.__setattr__(self, "output", list(self.mechanisms)[-1])
        self._check()

    def _check(self) -> None:
        empty = [name for name, values in self.inputs.items() if not values]
        if empty:
            raise CasebackError(f"input {empty[0]!r} has no values: list those that it may have")
        twice = [name for name in self.mechanisms if name in self.inputs]
        if twice:
            raise CasebackError(f"{twice[0]!r} is an input and has a function too: give one of the two another name")
        for name, (parents, function) in self.mechanisms.items():
            if not callable(function):
                raise CasebackError(f"variable {name!r}: expected (parents, function), got {function!r} as function")
            for parent in parents:
                if parent not in self.variables:
                    raise CasebackError(
                        f"variable {name!r} has the unknown parent {parent!r}. {did_you_mean(parent, self.variables)}"
                    )
        try:
            order = [*TopologicalSorter({v: p for v, (p, _) in self.mechanisms.items()}).static_order()]
        except CycleError as error:
            raise CasebackError(
                f"the causal model is cyclic: {' -> '.join(reversed(error.args[1]))}; no variable may depend on itself"
            ) from None
        known = set(self.inputs)
        for name, (parents, _) in self.mechanisms.items():
            late = [parent for parent in parents if parent not in known]
            if late:
                sorted_ = [v for v in order if v in self.mechanisms]
                raise CasebackError(
                    f"variables are not in topological order: {name!r} stands before its parent {late[0]!r}. An order "
                    f"that serves: {', '.join(sorted_)}"
                )
            known.add(name)
        self.expect(self.output)

    @property
    def variables(self) -> tuple[str, ...]:
        """Inputs first, then the others in order."""
        return (*self.inputs, *self.mechanisms)

    def expect(self, variable: str) -> str:
        """Refuse a name that no variable has.

        Raises
        ------
        CasebackError
            With the names that are close to it.
        """
        if variable not in self.variables:
            raise CasebackError(f"no variable is called {variable!r}. {did_you_mean(variable, self.variables)}")
        return variable

    def run(self, inputs: Values, do: Values | None = None) -> dict[str, Any]:
        """The value of every variable.

        Parameters
        ----------
        inputs
            A value for each input.
        do
            Values that some variables are set to, inputs included, whatever their functions say.

        Raises
        ------
        CasebackError
            For an input without a value, or a value for a name that no variable has.
        """
        do = dict(do or {})
        for name in (*do, *inputs):
            self.expect(name)
        missing = [name for name in self.inputs if name not in inputs and name not in do]
        if missing:
            raise CasebackError(f"input {missing[0]!r} has no value: expected one for each of {', '.join(self.inputs)}")
        values: dict[str, Any] = {}
        for name in self.inputs:
            values[name] = do[name] if name in do else inputs[name]
        for name, (parents, function) in self.mechanisms.items():
            values[name] = do[name] if name in do else function(*(values[parent] for parent in parents))
        return values

    def interchange(self, base: Values, sources: Mapping[str, Values]) -> dict[str, Any]:
        """Every variable's value on ``base`` when each variable of ``sources`` has the value it has on its source."""
        return self.run(base, {variable: self.run(source)[variable] for variable, source in sources.items()})

    def draws(self, seed: int) -> Iterator[dict[str, Any]]:
        """Inputs drawn independently and uniformly, without end."""
        rng = random.Random(seed)
        while True:
            yield {name: rng.choice(values) for name, values in self.inputs.items()}

    def all_inputs(self) -> Iterator[dict[str, Any]]:
        """Every combination of the inputs' values."""
        for combination in itertools.product(*self.inputs.values()):
            yield dict(zip(self.inputs, combination, strict=True))
