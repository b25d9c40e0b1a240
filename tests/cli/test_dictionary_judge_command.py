"""``caseback dictionary judge``: what it says is what the functions give; it goes on, and its mistakes are one line."""

import html
import json

import pytest

import caseback as cb
from bad_inputs.commands import tiny_folder
from caseback import cli
from caseback.decode.dictionaries import Facts, TopK, judge_explanations, load, local_judge, save_dictionary
from caseback.decode.dictionaries import dictionary_digest as digest
from caseback.decode.dictionaries.explanations import judged
from caseback.errors import CasebackError, OutOfRange
from caseback.reports.concepts.judged_explanations import explanations_to_judge, judged_document

pytestmark = pytest.mark.usefixtures("plain")
TEXTS = [f"{a} gave the {c} to {b} in the {p}." for a, b in (("Mary", "John"), ("Tom", "Anna")) for c in ("key", "ball")
         for p in ("store", "park", "garden")]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A dictionary, texts, a judge whose context is long enough, and notes on two features that fire."""
    folder = tmp_path_factory.mktemp("judge")
    one = TopK(160, 320, k=20, facts=Facts(site="resid_post.1"))
    save_dictionary(one, folder / "one.safetensors")
    (folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    codes = one.encode(cb.load("meadow").run(TEXTS, read=["resid_post.1"])["resid_post", 1][:, 1:].flatten(0, 1))
    share = (codes > 0).double().mean(0)
    first, second = (share - 0.15).abs().argsort()[:2].tolist()
    notes = cb.Notes(model="meadow", dictionary=digest(one))
    notes = notes.put(f"L1F{first}:resid_post", "<b>names</b>").put(f"L1F{second}:resid_post", "places", by="ann")
    notes.save(folder / "notes.json")
    tiny_folder(folder / "judge", 512)
    return folder, sorted([first, second])


def line(files, *more):
    folder = files[0]
    asked = ["dictionary", "judge", str(folder / "one.safetensors"), str(folder / "texts.txt")]
    return [*asked, "--asked", str(folder / "judge"), "--windows", "3", "--window-tokens", "4", *more]


def run(capsys, arguments, status=0):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == status, printed.err
    return printed.out if status == 0 else printed.err


def test_json_is_the_document_of_what_the_functions_give(capsys, files):
    folder, features = files
    document = json.loads(run(capsys, line(files, "--notes", str(folder / "notes.json"), "--json")))
    model, one, judge = cb.load("meadow"), load(folder / "one.safetensors"), cb.load(folder / "judge")
    said, texts = explanations_to_judge(model, one, folder / "texts.txt", cb.Notes.load(folder / "notes.json"))
    assert texts == TEXTS and sorted(said) == features and sorted(said.values()) == ["<b>names</b>", "places"]
    table = judge_explanations(model, one, texts, said, local_judge(judge), n=3, window=4)
    assert document == judged_document(model, one, table, judge=judge.name, source=str(folder / "notes.json"))
    assert document["how"]["asked"] == table.attrs["asked"] > 20
    for row, area in zip(document["features"], table["fuzzing_auroc"].values, strict=True):
        assert row["fuzzing"]["auroc"] == area and 0.5 < row["fuzzing"]["chance"] <= 1


def test_the_terminal_and_the_page_have_each_explanation_with_chance_beside(capsys, files, tmp_path):
    folder, features = files
    asked = line(files, "--notes", str(folder / "notes.json"), "--html", str(tmp_path / "page.html"))
    text, page = run(capsys, asked), html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    for word in ("detection", "fuzzing", "another's", "chance", "places", *map(str, features)):
        assert word in text and word in page
    assert "<b>names</b>" in text and "Is what is said of features of <em>resid_post.1</em> right?</h1>" in page
    assert "<b>names</b>" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_without_words_conditions_are_fitted_to_texts_that_are_not_asked_about(capsys, files):
    folder, _ = files
    document = json.loads(run(capsys, line(files, "--count", "3", "--json")))
    assert len(document["features"]) == 3 and document["how"]["source"] == "conditions on tokens"
    said, texts = explanations_to_judge(cb.load("meadow"), load(folder / "one.safetensors"), TEXTS, count=3)
    assert texts == TEXTS[1::2]
    assert {row["feature"]: row["explanation"] for row in document["features"]} == said
    chosen = str(next(iter(said)))
    (row,) = json.loads(run(capsys, line(files, "--features", chosen, "--json")))["features"]
    assert row["detection"]["another"] is None and row["explanation"] == said[int(chosen)]


def test_an_interrupted_judging_goes_on(capsys, files, tmp_path, monkeypatch):
    file = tmp_path / "answers"
    asked = line(files, "--notes", str(files[0] / "notes.json"), "--json", "--checkpoint", str(file))
    whole = run(capsys, [*asked[:-2]])
    monkeypatch.setattr(judged, "limit", lambda name, **how: 5)
    shares, calls = judged._shares, []

    def counting(answers, count):
        calls.append(count)
        if len(calls) == 3:
            raise KeyboardInterrupt  # no signal, which a program that was begun in the background ignores
        return shares(answers, count)

    monkeypatch.setattr(judged, "_shares", counting)
    assert f"what is done is in {file}" in run(capsys, asked, 130)
    assert json.loads(run(capsys, asked))["how"] == json.loads(whole)["how"]
    assert sum(calls) - 5 == json.loads(whole)["how"]["asked"]  # those of the third call are asked twice


def test_mistakes_are_one_line(capsys, files, tmp_path):
    folder, features = files
    notes, explained = ["--notes", str(folder / "notes.json")], ["--explanations", str(tmp_path / "x.jsonl")]
    (tmp_path / "x.jsonl").write_text("", encoding="utf-8")
    other = next(i for i in range(320) if i not in features)
    for more, says in (
        ([*notes, *explained], "both --explanations and --notes"),
        (explained, "nothing is said of any feature"),
        ([*notes, "--features", str(other)], f"nothing is said of feature {other}"),
        (["--features", "999"], "nothing is said of feature 999"),
        ([*notes, "--asked", "meadow"], "context"),
        (["--window-tokens", "1"], "--window-tokens 1: expected at least 2"),
    ):
        err = run(capsys, line(files, *more), 2)
        assert err.count("\n") == 1 and says in err, err


def test_documents_of_something_else_are_refused(files):
    model, one = cb.load("meadow"), load(files[0] / "one.safetensors")
    with pytest.raises(CasebackError, match="expected what judge_explanations returned"):
        judged_document(model, one, cb.behaviors.memorization(model, [("Mary went to the", "store")]))
    with pytest.raises(OutOfRange, match="count is 0"):
        explanations_to_judge(model, one, TEXTS, count=0)
    with pytest.raises(CasebackError, match="does not say which site"):
        explanations_to_judge(model, TopK(160, 32, k=2), TEXTS, cb.Notes().put("L1F3:resid_post", "names"))
