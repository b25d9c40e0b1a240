"""Notes that people keep on a model's units: what a head, a neuron or a feature is taken to be, in one small file.

    unit        a name: L3H2, MLP 4, L3N17, L3F1042:resid_post        ``model.graph.names``
    label       a few words                        note    more of them
    by          who says so                        edition counted up each time that the same person says otherwise

A person has one note on a unit. Two files merge into one that has all notes of both; where they hold editions of one
note, the later stays, so merging is the same in any order and as often as one likes. A withdrawn note is an edition
without a label: otherwise the other file would bring it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caseback.artifacts.artifact import load_json, save_json
from caseback.artifacts.kinds import NOTES
from caseback.errors import ArgumentError, CasebackError, LoadError
from caseback.jobs.json_text import expect_form
from caseback.model.arguments import checked
from caseback.model.graph.names import parse_name

if TYPE_CHECKING:
    from caseback.model.running.model import Model


@dataclass(frozen=True, order=True)
class Note:
    """What one person says of one unit.

    Attributes
    ----------
    unit
        Its name, without a position.
    by
        Who says it; empty where nobody gave a name.
    label
        A few words; empty where the note was withdrawn.
    text
        More of them.
    edition
        How often this person has said something of this unit.
    """

    unit: str
    by: str = ""
    label: str = ""
    text: str = ""
    edition: int = 1


@dataclass(frozen=True)
class Notes:
    """Notes on units of one model, and of one dictionary of its states where they are on features.

    Attributes
    ----------
    notes
        All of them, withdrawn ones too, by unit and author.
    model
        The model's name; empty where it was not said.
    dictionary
        What ``dictionary_digest`` gives of the dictionary whose features are meant; empty where it was not said.

    Examples
    --------
    >>> mine = Notes(model="meadow").put("L1H4", "repeats names", by="ann")
    >>> theirs = Notes(model="meadow").put("L1H4", "induction", by="bob").put("L0N3", "full stops", by="bob")
    >>> both = mine.merged(theirs)
    >>> both.labels("L1H4"), len(both)
    (['repeats names', 'induction'], 3)
    >>> both == theirs.merged(mine) == both.merged(mine)
    True
    >>> len(both.withdraw("L0N3", by="bob"))
    2
    """

    notes: tuple[Note, ...] = ()
    model: str = ""
    dictionary: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.notes, tuple):
            raise ArgumentError(f"notes are a {type(self.notes).__name__}: expected a tuple of them")
        known: set[tuple[str, str]] = set()
        for note in self.notes:
            if not isinstance(note, Note):
                raise ArgumentError(f"a note is a {type(note).__name__}: expected Note(unit, by, label, text)")
            if str(parse_name(note.unit)) != note.unit or "@" in note.unit:
                bare = str(parse_name(note.unit.partition("@")[0]))
                raise ArgumentError(f"a note on {note.unit!r}: expected the unit's own name, {bare!r}")
            if note.edition < 1 or (note.unit, note.by) in known:
                raise ArgumentError(f"{note.by or 'nobody'}'s note on {note.unit}: expected one, of an edition from 1")
            known.add((note.unit, note.by))
        object.__setattr__(self, "notes", tuple(sorted(self.notes)))

    def __iter__(self) -> Iterator[Note]:
        """The notes that stand, by unit and author."""
        return (note for note in self.notes if note.label)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @checked
    def of(self, unit: str) -> list[Note]:
        """The notes on a unit.

        Raises
        ------
        CasebackError
            For what names no unit.
        """
        own = _unit(unit)
        return [note for note in self if note.unit == own]

    @checked
    def labels(self, unit: str) -> list[str]:
        """The labels of a unit, by author."""
        return [note.label for note in self.of(unit)]

    @checked
    def put(self, unit: str, label: str, text: str = "", *, by: str = "") -> Notes:
        """These notes with another, in place of what the same person said of the unit.

        Raises
        ------
        ArgumentError
            For an empty label.
        CasebackError
            For what names no unit.
        """
        if not label.strip():
            raise ArgumentError(f"an empty label for {unit}: expected a few words, or withdraw the note")
        return self._with(Note(_unit(unit), by, label.strip(), text.strip()))

    @checked
    def withdraw(self, unit: str, *, by: str = "") -> Notes:
        """These notes without one of them.

        Raises
        ------
        ArgumentError
            Where that person has none on the unit.
        """
        own = _unit(unit)
        if not any(note.by == by for note in self.of(own)):
            others = ", ".join(sorted(repr(note.by) for note in self.of(own))) or "nobody"
            raise ArgumentError(f"{by!r} has no note on {own}: {others} has")
        return self._with(Note(own, by))

    @checked
    def merged(self, other: Notes) -> Notes:
        """All notes of both; of two editions of one note the later.

        Raises
        ------
        ArgumentError
            For notes on another model or dictionary, or the same edition of one note with other words.
        """
        by_key = {(note.unit, note.by): note for note in self.notes}
        for note in other.notes:
            own = by_key.get((note.unit, note.by))
            if own is not None and own.edition == note.edition and own != note:
                raise ArgumentError(
                    f"{note.by or 'nobody'} says {own.label!r} of {note.unit} here and {note.label!r} there, and "
                    "neither is the later: put one of them again"
                )
            if own is None or own.edition < note.edition:
                by_key[note.unit, note.by] = note
        facts = {name: _one(name, getattr(self, name), getattr(other, name)) for name in ("model", "dictionary")}
        return Notes(tuple(by_key.values()), **facts)

    @checked
    def expect(self, model: Model, dictionary: str = "") -> None:
        """Refuse notes on another model or dictionary, or on units that the model does not have.

        Parameters
        ----------
        model
            The model.
        dictionary
            What ``dictionary_digest`` gives, where features are looked at.

        Raises
        ------
        ArgumentError
            For another model or dictionary.
        OutOfRange, UnknownSite
            For a head, neuron or layer that the model lacks.
        """
        from caseback.model.graph.units import components_of

        _one("model", self.model, model.name)
        _one("dictionary", self.dictionary, dictionary)
        for note in self:
            name = parse_name(note.unit)
            if name.kind in ("head", "neuron", "mlp"):
                components_of(model, note.unit)
            elif name.layer >= 0:
                model.anatomy.layer(name.layer)

    @checked
    def save(self, path: str | Path) -> None:
        """Write them to a JSON file, whole or not at all."""
        notes = [asdict(note) for note in self.notes]
        save_json({"model": self.model, "dictionary": self.dictionary, "notes": notes}, NOTES, path)

    @classmethod
    def load(cls, path: str | Path) -> Notes:
        """Read what ``save`` wrote.

        Raises
        ------
        LoadError
            For a file that holds no notes, or a damaged one.
        """
        data = load_json(path, NOTES)
        with expect_form(f"{path} holds no notes of the form that is read"):
            notes = [_read(note) for note in data["notes"]]
            model, dictionary = _text(data["model"]), _text(data["dictionary"])
        try:
            return cls(tuple(notes), model, dictionary)
        except CasebackError as error:
            raise LoadError(f"{path} holds no notes of the form that is read: {error}") from None

    def _with(self, note: Note) -> Notes:
        own = next((other for other in self.notes if (other.unit, other.by) == (note.unit, note.by)), None)
        rest = tuple(other for other in self.notes if other is not own)
        return replace(self, notes=(*rest, replace(note, edition=own.edition + 1) if own else note))


def _unit(text: str) -> str:
    """A unit's name as notes keep it: positions are left out, older spellings written anew."""
    return str(parse_name(text)._replace(pos=""))


def _one(what: str, own: str, other: str) -> str:
    if own and other and own != other:
        raise ArgumentError(f"notes on the {what} {own!r}, not {other!r}: expected the same {what}")
    return own or other


def _read(data: Any) -> Note:
    unit, by, label, text = (_text(data[name]) for name in ("unit", "by", "label", "text"))
    if isinstance(data["edition"], bool) or not isinstance(data["edition"], int):
        raise ValueError(f"edition {data['edition']!r}")
    return Note(unit, by, label, text, data["edition"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
