"""What a server was started with besides its model: dictionaries and directions, by names that clients may say.

A client names what stands here and nothing else; no file is ever opened for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.features.attach import attached
from caseback.decode.dictionaries.features.places import place_of_codes
from caseback.decode.directions.directions import Directions
from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.budget import limit
from caseback.model.running.edits import Edit, Scale
from caseback.model.running.model import Model

KINDS = ("dictionaries", "directions")


@dataclass(frozen=True)
class Shelf:
    """Dictionaries and directions by name.

    Attributes
    ----------
    dictionaries
        Each is a site of its name while the server runs.
    directions
        Each at one place or several.
    """

    dictionaries: Mapping[str, Dictionary] = field(default_factory=dict)
    directions: Mapping[str, Directions] = field(default_factory=dict)

    def dictionary(self, name: str) -> Dictionary:
        """A dictionary by its name.

        Raises
        ------
        CasebackError
            For one that the server was not started with.
        """
        return _named(self.dictionaries, name, "dictionary", "--dictionaries FILE")

    def feature(self, name: str, unit: int, factor: float) -> Edit:
        """The edit that multiplies a feature.

        Raises
        ------
        CasebackError, OutOfRange
            For a dictionary or a feature that is not there.
        """
        dictionary = self.dictionary(name)
        if unit >= dictionary.n_features:
            raise OutOfRange(f"feature {unit} of {name!r}: it has {dictionary.n_features}, from 0 on")
        return Scale(name, factor, layer=place_of_codes(dictionary).layer, unit=unit)

    def transcoders(self) -> list[Dictionary]:
        """All transcoders.

        Raises
        ------
        CasebackError
            Where there is none.
        """
        listed = [one for one in self.dictionaries.values() if one.facts.is_transcoder]
        if not listed:
            raise CasebackError("there is no transcoder here: start the server with some (--dictionaries FILE)")
        return listed

    def direction(self, name: str, place: str | None, strength: float) -> list[Edit]:
        """The edits that add a direction, at one place or, where none is said, at the best one.

        Raises
        ------
        CasebackError
            For a direction or a place that is not there.
        """
        directions = _named(self.directions, name, "direction", "--directions FILE")
        return directions.at(place or _best(directions)).edits(strength)

    def names(self, kind: str, contains: str = "") -> dict[str, Any]:
        """Names of ``dictionaries`` or ``directions``, as many as are sent at once, and how many there are.

        Parameters
        ----------
        kind
            ``"dictionaries"`` or ``"directions"``.
        contains
            What the names contain, in whatever case.
        """
        held: Mapping[str, Any] = {"dictionaries": self.dictionaries, "directions": self.directions}[kind]
        fitting = [name for name in held if contains.lower() in name.lower()]
        return {"names": fitting[: limit("server_names")], "count": len(fitting)}

    def start(self) -> dict[str, Any]:
        """What a page needs of it at start: names, as many as are sent at once, and how many transcoders there are."""
        transcoders = sum(one.facts.is_transcoder for one in self.dictionaries.values())
        return {kind: self.names(kind) for kind in KINDS} | {"transcoders": transcoders}

    def facts(self, kind: str, contains: str = "") -> dict[str, Any]:
        """Names as ``names`` gives them, and under ``facts`` what is known of each, as plain data.

        Parameters
        ----------
        kind, contains
            As for ``names``.
        """
        listed = self.names(kind, contains)
        about = self._of_dictionary if kind == "dictionaries" else self._of_direction
        return {**listed, "facts": {name: about(name) for name in listed["names"]}}

    def _of_dictionary(self, name: str) -> dict[str, Any]:
        one = self.dictionaries[name]
        return {"site": one.facts.site, "features": one.n_features, "transcoder": one.facts.is_transcoder}

    def _of_direction(self, name: str) -> dict[str, Any]:
        one = self.directions[name]
        places = {"places": one.names[: limit("server_names")], "place_count": len(one.names)}
        return {**places, "best": _best(one), "toward": str(one.classes[1])}


def _best(directions: Directions) -> str:
    told_apart = any(name in directions.table for name in ("separation", "auroc"))
    return directions.best if told_apart else directions.names[0]


def _named(shelf: Mapping[str, Any], name: str, what: str, option: str) -> Any:
    if name not in shelf:
        hint = did_you_mean(name, shelf) or f"The server was started without any: {option}"
        raise CasebackError(f"there is no {what} {name[:60]!r} here. {hint}")
    return shelf[name]


@contextmanager
def standing(model: Model, shelf: Shelf) -> Iterator[None]:
    """The shelf's dictionaries as sites of the model, for as long as the block runs."""
    with ExitStack() as until:
        for name, dictionary in shelf.dictionaries.items():
            until.enter_context(attached(model, dictionary, name=name))
        yield


def names_of(stems: Iterable[str]) -> list[str]:
    """What things from files are called: the files' names in letters, digits and _.

    Raises
    ------
    CasebackError
        For two that would have one name.

    Examples
    --------
    >>> names_of(["layer-2", "3"])
    ['layer_2', '_3']
    """
    names = [_identifier(stem) for stem in stems]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CasebackError(f"two files would both be called {twice[0]!r}: give them names of their own")
    return names


def _identifier(text: str) -> str:
    name = re.sub(r"[^0-9A-Za-z_]", "_", text) or "_"
    return name if name.isidentifier() else f"_{name}"
