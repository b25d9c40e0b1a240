"""A command's function that takes groups of options, as the flat function that typer reads.

    def trace(prompt: str, measured: Measured = Measured(metric="prob")): ...
    ->  trace(*, prompt: str, target: ... = None, foil: ... = None, metric: ... = "prob")

which calls the first with the group as one instance again. A group is a dataclass of `caseback.cli.options`.
"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints


class Words(dict[str, str]):
    """A command's own help for options of a group: ``Annotated[Sample, Words(count="Pairs of prompts.")]``."""


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Take the options of a command's groups one by one, and hand them over as groups.

    Parameters
    ----------
    command
        A function whose parameters are arguments and options as typer knows them, or groups. A group's default is an
        instance, whose values are the defaults of its options; without one, options that have no default are required.

    Returns
    -------
    Callable
        With the flat signature; the command itself is its ``__wrapped__``.

    Examples
    --------
    >>> from caseback.cli.options import Sample
    >>> @with_options
    ... def draw(sample: Sample = Sample(count=3)) -> None:
    ...     print(sample)
    >>> [f"{name}={option.default}" for name, option in signature(draw).parameters.items()]
    ['seed=0', 'count=3']
    >>> draw(seed=1, count=2)
    Sample(seed=1, count=2)
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type] = {}
    flat: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        annotation = hints[parameter.name]
        group, words = annotation, Words()
        if get_origin(annotation) is Annotated:
            group, words = get_args(annotation)[:2]
        if is_dataclass(group) and isinstance(group, type):
            groups[parameter.name] = group
            flat += _options_of(group, parameter.default, words)
        else:
            flat.append(Parameter(parameter.name, _KIND, default=parameter.default, annotation=annotation))

    @wraps(command)
    def flat_command(**values: Any) -> None:
        whole = {
            name: group(**{option.name: values.pop(option.name) for option in fields(group)})
            for name, group in groups.items()
        }
        command(**values, **whole)

    # typer asks for both
    flat_command.__signature__ = Signature(flat)  # pyright: ignore[reportAttributeAccessIssue]
    flat_command.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return flat_command


_KIND = Parameter.KEYWORD_ONLY  # so that an option with a default may stand before one without


def _options_of(group: type, given: Any, words: Words) -> Iterator[Parameter]:
    """The options of one group, with the defaults of an instance and a command's own words."""
    hints = get_type_hints(group, include_extras=True)
    unknown = words.keys() - {option.name for option in fields(group)}
    if unknown:
        raise TypeError(f"{group.__name__} has no option {', '.join(sorted(unknown))} to give words for")
    for option in fields(group):
        default = Parameter.empty if option.default is MISSING else option.default
        if given is not Parameter.empty:
            default = getattr(given, option.name)
        annotation = hints[option.name]
        if option.name in words:
            kind, declared = get_args(annotation)
            declared = copy(declared)
            declared.help = words[option.name]
            annotation = Annotated[kind, declared]
        yield Parameter(option.name, _KIND, default=default, annotation=annotation)
