"""`caseback behavior`: the same numbers for people, for machines and as a page; `caseback ioi` says what it is now."""

import json

import pytest

import caseback as cb
from caseback.cli import main
from caseback.organisms.compiled.indirect_object import ROLES
from caseback.views.text.behavior import print_behavior


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main([*arguments])
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def test_without_a_name_behaviors_are_listed(capsys):
    status, out, _ = run(capsys, "behavior")
    assert status == 0 and "greater_than" in out and "function-vector" in out
    _, told, _ = run(capsys, "behavior", "--json")
    assert json.loads(told)[0]["roles"][0]["name"] == "name mover"


def test_the_hand_made_circuit_is_reported(capsys):
    of = ("behavior", "ioi", "--model", "indirect_object")
    status, out, _ = run(capsys, *of)
    _, told, _ = run(capsys, *of, "--json")
    document = json.loads(told)
    assert status == 0 and document["kind"] == "caseback.behavior" and document["version"] == 1
    (one,) = document["behaviors"]
    proved = {head["component"] for head in one["heads"] if head["grade"] == "proved"}
    assert proved == {str(head) for head, role in ROLES.items() if not role.startswith("backup")}
    assert all(f"  {head}  " in out for head in proved) and "present" in out


def test_several_behaviors_are_compared_and_drawn(capsys, tmp_path):
    page = tmp_path / "page.html"
    status, out, err = run(capsys, "behavior", "induction", "agreement", "--count", "8", "--html", str(page))
    assert status == 0 and "induction and agreement: L2H0" in out and str(page) in err
    drawn = page.read_text()
    assert drawn.count("<script") == 2
    assert "previous token" in drawn and "Jaccard" in drawn


def test_a_function_vector_is_saved_as_an_edit(capsys, tmp_path):
    file = tmp_path / "vector.safetensors"
    ask = ("behavior", "function-vector", "--task", "capital", "--other", "language", "--count", "8")
    status, out, _ = run(capsys, *ask, "--save", str(file))
    assert status == 0 and "function vector, zero-shot" in out and "carries it over" in out
    (edit,) = cb.load_edits(file)
    assert edit.site == "resid_post"


def test_sets_of_pairs_are_compared(capsys, tmp_path):
    files = []
    for structure in ("simple", "noun_phrase"):
        drawn = cb.tasks.agreement(structure=structure).prompts(cb.load("meadow"), 40).pairs
        rows = [
            {"clean_prefix": pair.clean.text, "patch_prefix": pair.corrupt.text, "case": pair.group.split()[1]}
            | {"clean_answer": pair.target[0], "patch_answer": pair.foil[0]}
            for pair in drawn
        ]
        files.append(tmp_path / f"{structure}.json")
        files[-1].write_text("\n".join(map(json.dumps, rows)))
    page = tmp_path / "page.html"
    both = ("--pair-set", str(files[0]), "--pair-set", str(files[1]), "--count", "8", "--html", str(page))
    status, out, _ = run(capsys, "behavior", *both)
    assert status == 0 and "heads of simple, noun_phrase" in out and "in the counterfactuals" in out
    assert "heads of noun_phrase, simple" in page.read_text()
    for line, words in (
        (["ioi", "--pair-set", str(files[0])], "leave out 'ioi'"),
        (["--pair-set", str(files[0]), "--pair-set", str(files[0])], "two files have one name"),
    ):
        status, _, err = run(capsys, "behavior", *line)
        assert status == 2 and words in err


def test_the_command_that_moved_answers_with_the_new_one(capsys):
    status, out, err = run(capsys, "ioi", "--model", "indirect_object")
    assert (status, out) == (2, "") and "caseback behavior ioi" in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["ionic"], "no behavior is called 'ionic'"),
        (["function-vector"], "needs --task"),
        (["function-vector", "ioi", "--task", "capital"], "by itself"),
        (["ioi", "--task", "capital"], "--task is of function-vector"),
        (["--html", "page.html"], "name a behavior"),
        (["agreement", "--model", "indirect_object"], "knows the words of ioi alone"),
        (["ioi", "--count", "2"], "expected 4 or more"),
        (["function-vector", "--task", "no-such-function"], "neither a file nor a function"),
    ],
)
def test_a_mistake_is_one_line(capsys, line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "behavior", *line)
    assert status == 2 and out == "" and words in err and err.strip().count("\n") == 0


def test_a_document_saved_before_transfers_had_words_is_drawn(capsys):
    ask = ("behavior", "function-vector", "--task", "capital", "--other", "language", "--count", "8", "--json")
    document = json.loads(run(capsys, *ask)[1])
    for one in document["behaviors"]:
        for transfer in one["transfers"]:
            del transfer["words"]
    print_behavior(document)
    assert "the other function's" in " ".join(capsys.readouterr().out.split())
