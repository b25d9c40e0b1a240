"""Functions inside functions, sent to another process as the call that made them: a closure cannot be sent itself.

logit_diff(" Mary", " John").bind   ->   (module, "logit_diff", (" Mary", " John"), {})   ->   the same there
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from caseback.errors import ArgumentError

P = ParamSpec("P")
R = TypeVar("R", bound=Any)


class OfACall:
    """The ``bind`` of a record together with the call that made the record, as which it is pickled."""

    def __init__(self, bind: Callable[..., Any], *call: Any):
        self.__wrapped__, self.call = bind, call

    def __call__(self, *args: Any) -> Any:
        return self.__wrapped__(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _called_again, self.call


def _called_again(module: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return getattr(import_module(module), name)(*args, **kwargs).bind


def sent_as_a_call(make: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function of a module that makes records with a ``bind``, such as metrics, so that they can be pickled.

    What the function is called with must be what can be pickled: plain values, tensors, runs.

    Examples
    --------
    >>> import pickle
    >>> from caseback.model.running.metrics import logit
    >>> pickle.loads(pickle.dumps(logit(3, pos=1))).pos
    1
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def making(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"{make.__name__}: {error}") from None
        record = make(*args, **kwargs)
        return replace(record, bind=OfACall(record.bind, make.__module__, make.__name__, args, kwargs))

    return making
