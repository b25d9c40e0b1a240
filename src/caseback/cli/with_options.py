"""A command's function that takes groups of options, as the flat function that typer reads.

    def trace(prompt: str, measured: Measured = Measured(metric="prob")): ...
    ->  trace(*, prompt: str, target: ... = None, foil: ... = None, metric: ... = "prob")

which calls the first with the group as one instance again.
"""

from collections.abc import Callable, Iterator
from copy import copy
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args

from caseback.cli.group import Group
from caseback.cli.number_options import with_bounds

_KIND = Parameter.KEYWORD_ONLY  # so that an option with a default may stand before one without


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
    ...     print(sample.count, sample.seed)
    >>> [f"{name}={option.default}" for name, option in signature(draw).parameters.items()]
    ['seed=0', 'count=3']
    >>> draw(seed=1, count=2)
    2 1
    """
    groups: dict[str, type[Group]] = {}
    flat: list[Parameter] = []
    for name, parameter in signature(command, eval_str=True).parameters.items():
        group = parameter.annotation
        if isinstance(group, type) and issubclass(group, Group):
            groups[name] = group
            flat += _options_of(group, None if parameter.default is Parameter.empty else parameter.default)
        else:
            flat.append(parameter.replace(kind=_KIND, annotation=with_bounds(name, group)))

    @wraps(command)
    def flat_command(**values: Any) -> None:
        whole = {
            name: group(**{option: values.pop(option) for option in group.options}) for name, group in groups.items()
        }
        command(**values, **whole)

    # typer asks for both
    flat_command.__signature__ = Signature(flat)  # pyright: ignore[reportAttributeAccessIssue]
    flat_command.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return flat_command


def _options_of(group: type[Group], given: Group | None) -> Iterator[Parameter]:
    """The options of one group, with the defaults and the words of an instance."""
    source = group if given is None else given
    for name, annotation in group.options.items():
        if name in source.words:
            kind, declared = get_args(annotation)
            declared = copy(declared)
            declared.help = source.words[name]
            annotation = Annotated[kind, declared]
        default = getattr(source, name, Parameter.empty)
        yield Parameter(name, _KIND, default=default, annotation=with_bounds(name, annotation))
