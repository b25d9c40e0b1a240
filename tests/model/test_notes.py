"""Notes on units: merging is the same in any order, files are whole, and what is no note is refused."""

import itertools
import json

import pytest

import caseback as cb
import shelf
from caseback.errors import ArgumentError, CasebackError, LoadError, OutOfRange, UnknownSite


def test_a_person_has_one_note_on_a_unit():
    notes = cb.Notes(model="m").put("MLP 1 N3", " first ", by="ann").put("L1N3", "second", "more", by="ann")
    assert [(n.unit, n.label, n.text, n.edition) for n in notes] == [("L1N3", "second", "more", 2)]
    assert notes.put("L1N3@5", "other", by="bob").labels("L1N3@end") == ["second", "other"]


def test_merging_is_the_same_in_any_order():
    start = cb.Notes().put("L0H1", "a", by="ann").put("L2F7:resid_post", "b", by="bob")
    several = [
        start.put("L0H1", "a2", by="ann"),
        start.withdraw("L2F7:resid_post", by="bob").put("L0N4", "c", by="cy"),
        start.put("MLP 1", "d", by="ann"),
    ]
    merged = set()
    for order in itertools.permutations(several):
        whole = cb.Notes(model="m")
        for one in (*order, *order):
            whole = whole.merged(one)
        merged.add(whole)
    (whole,) = merged
    assert [(n.unit, n.label) for n in whole] == [("L0H1", "a2"), ("L0N4", "c"), ("MLP 1", "d")]
    assert whole.model == "m" and whole.of("L2F7:resid_post") == []


def test_two_files_that_contradict_each_other_are_not_merged():
    start = cb.Notes(model="m", dictionary="1")
    with pytest.raises(ArgumentError, match="ann says 'x' of L0H1 here and 'y' there"):
        start.put("L0H1", "x", by="ann").merged(start.put("L0H1", "y", by="ann"))
    with pytest.raises(ArgumentError, match="notes on the model 'm', not 'n'"):
        start.merged(cb.Notes(model="n"))
    with pytest.raises(ArgumentError, match="notes on the dictionary '1', not '2'"):
        start.merged(cb.Notes(dictionary="2"))


def test_what_is_written_is_read(tmp_path):
    notes = cb.Notes(model="m", dictionary="d").put("L0H1", "ä\n<b>", "\u202e", by="ann").put("embed", "x")
    notes = notes.withdraw("embed")
    notes.save(tmp_path / "notes.json")
    assert cb.Notes.load(tmp_path / "notes.json") == notes
    data = json.loads((tmp_path / "notes.json").read_text())
    data["notes"][0]["label"] = "changed"
    (tmp_path / "notes.json").write_text(json.dumps(data))
    with pytest.raises(LoadError):
        cb.Notes.load(tmp_path / "notes.json")
    (tmp_path / "notes.json").write_text("[]")
    with pytest.raises(LoadError):
        cb.Notes.load(tmp_path / "notes.json")


def test_what_is_no_note_is_refused():
    with pytest.raises(CasebackError, match="names no component"):
        cb.Notes().put("nothing", "x")
    with pytest.raises(ArgumentError, match="an empty label"):
        cb.Notes().put("L0H1", "  ")
    with pytest.raises(ArgumentError, match="'bob' has no note on L0H1"):
        cb.Notes().put("L0H1", "x", by="ann").withdraw("L0H1", by="bob")
    with pytest.raises(ArgumentError, match="expected one"):
        cb.Notes((cb.Note("L0H1"), cb.Note("L0H1")))
    with pytest.raises(ArgumentError, match="expected the unit's own name, 'L0H1'"):
        cb.Notes((cb.Note("L0H1@3", label="x"),))
    model = shelf.model("llama")
    with pytest.raises(OutOfRange):
        cb.Notes().put("L0H99", "x").expect(model)
    with pytest.raises(UnknownSite, match="layer 99"):
        cb.Notes().put("L99F1", "x").expect(model)
    with pytest.raises(ArgumentError, match="notes on the model"):
        cb.Notes(model="another").expect(model)
    cb.Notes().put("L0H1", "x").put("MLP 1", "y").put("embed", "z").put("L1F10000", "w").expect(model)
