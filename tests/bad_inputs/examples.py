"""A valid call for a door without one of ours: the first that the examples in its own docstring make."""

import contextlib
import doctest
import importlib
import inspect
import io
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def arguments_of_example(function: Callable[..., Any]) -> dict[str, Any] | None:
    """By name, what the examples call a function with first; None where they do not call it by its name."""
    module = importlib.import_module(function.__module__)
    calls: list[dict[str, Any]] = []

    def recorded(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(function).bind(*args, **kwargs)
        result = function(*args, **kwargs)
        calls.append(_flat(bound))
        return result

    for test in doctest.DocTestFinder(recurse=False).find(function, function.__name__, module):
        names = vars(module) | {function.__name__: recorded}
        for example in test.examples:
            with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(example.source, function.__name__, "exec"), names)
            if calls:
                return calls[0]
    return None


def _flat(bound: inspect.BoundArguments) -> dict[str, Any]:
    arguments = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments.pop(name, None)
        elif parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    return arguments
