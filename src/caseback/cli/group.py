"""A group of options: a class whose fields are options, an instance of which a command takes as one parameter.

It is what a frozen dataclass is, without the code that `dataclass` writes for every class: `caseback --help` makes all
groups, and must answer at once.
"""

from copy import copy
from typing import Any, ClassVar, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class Group:
    """Options that belong together; they are set once, so that an instance may be a default.

    Attributes
    ----------
    options
        The annotation of each, by name: those of the bases first.
    words
        Help of a command's own, by option.

    Examples
    --------
    >>> class Sample(Group):
    ...     count: int = 100
    ...     seed: int = 0
    >>> sample = Sample(count=3)
    >>> sample.count, sample.seed
    (3, 0)
    """

    options: ClassVar[dict[str, Any]] = {}
    words: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        inherited = {name: option for base in reversed(cls.__mro__[1:-1]) for name, option in _own(base).items()}
        cls.options = inherited | _own(cls)

    def __init__(self, *values: Any, **named: Any) -> None:
        given = dict(zip(self.options, values, strict=False)) | named
        unknown = given.keys() - self.options.keys()
        if unknown or len(values) > len(self.options):
            raise TypeError(f"{type(self).__name__} has the options {list(self.options)}, not {values}, {named}")
        for name in self.options:
            vars(self)[name] = given[name] if name in given else getattr(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of {type(self).__name__} cannot be set: options are as they were given")

    def worded(self, **words: str) -> Self:
        """The same group with a command's own help for some of its options."""
        unknown = words.keys() - self.options.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))} to give words for")
        same = copy(self)
        vars(same)["words"] = words
        return same


def _own(group: type) -> dict[str, Any]:
    return {} if group is Group else vars(group).get("__annotations__", {})
