"""`caseback edit`: a fact before and after, one document for people and machines, an edit in a file, mistakes in a line."""

import json
import math

import pytest

import caseback as cb
from caseback.cli import main
from caseback.edit import Fact, fine_tuned, load_knowledge_edit, scores, summary
from caseback.edit.knowledge_edit import change_of
from caseback.errors import CasebackError
from caseback.model.anatomy.dense import weight_matrix
from caseback.reports.editing import REMARK, editing_document
from caseback.views.page.editing import editing_html

FACT = ["The capital of {} is", "--subject", "Italy", "--new", "Oslo", "--layers", "0"]
MORE = [
    *("--paraphrase", "The capital city of {} is called"),
    *("--neighbor", "The capital of Spain is -> Madrid", "--neighbor", "The people of Italy speak"),
]


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.txt"
    places = ("store", "park", "school", "house")
    file.write_text("".join(f"{name} went to the {place}.\n" for name in ("Mary", "Tom", "Anna") for place in places))
    return str(file)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["edit", *arguments])
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def test_the_document_says_what_the_edited_model_does(capsys, model, tmp_path):
    status, out, err = run(capsys, *FACT, *MORE, "--json", "--save", str(tmp_path / "edit"))
    assert status == 0, err
    document = json.loads(out)
    edit = load_knowledge_edit(tmp_path / "edit", model)
    assert document["method"] == edit.method == "ROME without C" and document["layers"] == [0]
    assert document["remark"] == REMARK and document["plain_text"] is None
    (fact,) = document["facts"]
    assert (fact["true"], fact["new"]) == (" Rome", " Oslo")  # the model's own first choice
    groups = [(row["group"], row["answer"], row["against"]) for row in fact["prompts"]]
    assert groups == [
        ("efficacy", " Oslo", " Rome"),
        ("paraphrase", " Oslo", " Rome"),
        ("neighborhood", " Madrid", " Oslo"),
        ("neighborhood", " Italian", " Oslo"),
    ]
    pieces = lambda text: model.tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    new = pieces(" Oslo")[0]
    for row in fact["prompts"]:
        for when, m in (("before", model), ("after", edit.on(model))):
            logits = m.run(row["text"]).logits[0, -1]
            wanted = pieces(row["answer"])
            assert row[when]["new_rank"] == int((logits > logits[new]).sum()) + 1
            assert row[when]["rank"] == int((logits > logits[wanted[0]]).sum()) + 1
            if len(wanted) == 1:
                assert row[when]["log_prob"] == pytest.approx(float(logits.log_softmax(-1)[wanted[0]]), abs=1e-4)
            whole = model.text(m.generate(row["text"], max_new_tokens=5))[0]
            assert whole.removeprefix(row["text"]).startswith(row[when]["says"])
            assert row[when]["exact"] == row[when]["says"].startswith(row["answer"])
    assert fact["prompts"][0]["before"]["says"].startswith(" Rome")
    assert fact["prompts"][0]["after"]["says"].startswith(" Oslo")
    for when, m in (("before", model), ("after", edit.on(model))):
        table = summary(scores(m, edit.facts))
        for name, values in document["summary"].items():
            value = float(table.sel(measure=name))
            assert values[when] is None if math.isnan(value) else values[when] == pytest.approx(value, abs=1e-6)
    assert document["summary"]["portability_exact"] == {"before": None, "after": None}


@pytest.mark.parametrize("method", ["rome", "memit", "emmet", "alphaedit"])
def test_methods_that_know_what_is_usually_read(capsys, corpus, method):
    rest = ["--method", method, "--corpus", corpus, "--steps", "3", "--json"]
    rest += ["--weight", "10"] if method == "memit" else []
    rest += ["--ridge", "1"] if method != "alphaedit" else []
    status, out, err = run(capsys, *FACT, *rest)
    assert status == 0, err
    document = json.loads(out)
    assert "without" not in document["method"] and document["plain_text"]["texts"] == 12
    assert document["plain_text"]["kl"] >= 0 and document["changes"][0]["norm"] > 0


@pytest.mark.parametrize(
    "rest",
    [
        ["--method", "rome", "--contexts", "2", "--kl", "0", "--lr", "0.3", "--published"],
        ["--method", "alphaedit", "--share", "0.3", "--ridge", "0.01", "--contexts", "0"],
        ["--method", "ft", "--bound", "0.01", "--lr", "0.02"],
        ["--method", "grace", "--radius", "0.5"],
        ["--method", "wise", "--contexts", "2", "--density", "0.5", "--margins", "5,20,10", "--lr", "0.01"],
    ],
)
def test_settings_of_single_methods_are_the_function_s(capsys, corpus, model, rest, monkeypatch):
    method, taken = rest[1], {}
    name = "fine_tuned" if method == "ft" else method
    original = getattr(cb.edit, name)
    monkeypatch.setattr(cb.edit, name, lambda *given, **how: taken.update(how) or original(*given, **how))
    texts = [] if method in ("ft", "grace", "rome") else ["--corpus", corpus]
    status, _, err = run(capsys, *FACT, *rest, *texts, "--steps", "3", "--json")
    assert status == 0, err
    taken |= {n: getattr(taken["search"], n) for n in ("kl", "lr") if method == "rome"}
    taken["contexts"] = len(taken.get("contexts", ()))
    pairs = dict(zip(rest[2::2], rest[3::2], strict=False))
    for option, value in pairs.items():
        if option == "--margins":
            assert taken["margins"] == (5.0, 20.0, 10.0)
        elif option != "--published":
            assert taken[option[2:]] == float(value), option
    assert taken.get("published", False) is ("--published" in rest)


def test_the_norm_is_that_of_the_change_in_full(model):
    fact = Fact("The capital of {} is", "Italy", "Oslo")
    edit = fine_tuned(model, [fact], 1, steps=2)
    document = editing_document(model, edit, plain_text=["Mary went to the store."], generate=1)
    (change,) = document["changes"]
    norm = float(change_of(edit.edits[0]).norm())
    own = float(weight_matrix(model.hf.transformer.h[1].mlp.c_proj).detach().double().norm())
    assert change["norm"] == pytest.approx(norm) and change["share"] == pytest.approx(norm / own)
    asked = document["facts"][0]["prompts"][0]
    assert asked["against"] is None and asked["before"]["against_log_prob"] is None  # no true answer was given
    assert document["summary"]["efficacy"]["after"] is None


def test_a_neighbor_that_has_the_new_answer_is_beside_no_other(model):
    same = Fact("The capital of {} is", "Italy", "Oslo", "Rome", neighbors=[("The capital of Norway is", " Oslo")])
    more = Fact("The capital of {} is", "Italy", "Oslo", "Rome", neighbors=[("The capital of Spain is", "Madrid")])
    document = editing_document(model, fine_tuned(model, [same], 1, steps=1), generate=1)
    assert [row["against"] for row in document["facts"][0]["prompts"]] == [" Rome", None]
    assert document["summary"]["neighborhood"] == {"before": None, "after": None}
    assert document["summary"]["neighborhood_exact"]["before"] is not None
    assert scores(model, [same, more]).sel(measure="neighborhood").values[1] == 1


@pytest.mark.parametrize("method", ["grace", "wise"])
def test_a_memory_changes_no_matrix_and_is_drawn(capsys, tmp_path, corpus, method):
    page = tmp_path / "page.html"
    status, out, err = run(capsys, *FACT, "--method", method, "--corpus", corpus, "--html", str(page))
    assert status == 0 and "a memory beside it" in out, err
    assert "a memory" in page.read_text() and page.read_text().count("<script") == 2


@pytest.mark.parametrize("layout", ["counterfact", "zsre"])
def test_published_facts(capsys, tmp_path, layout):
    facts = [("Italy", "Rome"), ("Spain", "Madrid"), ("France", "Paris")]
    if layout == "counterfact":
        records = [
            {
                "requested_rewrite": {
                    "prompt": "The capital of {} is",
                    "subject": subject,
                    "target_new": {"str": "Oslo"},
                    "target_true": {"str": true},
                }
            }
            for subject, true in facts
        ]
    else:
        records = [
            {"src": f"The capital of {subject} is", "subject": subject, "alt": "Oslo", "answers": [true]}
            for subject, true in facts
        ]
    file = tmp_path / "facts.json"
    file.write_text(json.dumps(records))
    status, out, err = run(capsys, "--facts", str(file), "--count", "2", "--layers", "0", "--steps", "2", "--json")
    assert status == 0, err
    document = json.loads(out)
    assert [fact["subject"] for fact in document["facts"]] == ["Italy", "Spain"]
    assert document["changes"][0]["rank"] == 2


def test_a_network_is_trained_on_other_facts_kept_and_read(capsys, tmp_path):
    answers = {"target_new": {"str": "Oslo"}, "target_true": {"str": "Madrid"}}
    rewrite = {"prompt": "The capital of {} is", "subject": "Spain", **answers}
    record = {"requested_rewrite": rewrite, "neighborhood_prompts": ["The people of France speak"]}
    file, network = tmp_path / "others.json", tmp_path / "network"
    file.write_text(json.dumps([record]))
    line = [*FACT[:-2], "--method", "mend", "--editor", str(network), "--json"]
    status, out, err = run(capsys, *line, "--train", str(file), "--layers", "0,2", "--steps", "2")
    assert status == 0, err
    trained = json.loads(out)
    assert trained["method"] == "MEND" and trained["layers"] == [0, 2] and len(trained["changes"]) == 2
    status, out, err = run(capsys, *line)
    assert status == 0, err
    assert json.loads(out)["facts"] == trained["facts"]


def test_the_page_has_every_prompt_and_nothing_as_markup(model):
    fact = Fact("The <b>capital</b> of {} is", "Italy", "Oslo", neighbors=[("The people & of", "<i>")])
    document = editing_document(model, fine_tuned(model, [fact], 1, steps=1, check=False), generate=2)
    page = editing_html(document)
    assert "<b>capital" not in page and "&lt;b&gt;capital" in page and "The people &amp; of" in page
    for row in document["facts"][0]["prompts"]:
        for when in ("before", "after"):
            new = f", new {row[when]['new_rank']}" if row["group"] == "neighborhood" else ""
            assert f"rank {row[when]['rank']}{new}<" in page
    assert REMARK in page
    with pytest.raises(CasebackError, match="cannot be drawn"):
        editing_html(document | {"facts": [{}]})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ([], "nothing says what is edited"),
        (["The capital of {} is"], "a prompt without --subject"),
        (["The capital of {} is", "--subject", "Italy"], "a prompt without --new"),
        (["The capital of Italy is", "--subject", "Spain", "--new", "Oslo"], "occurs 0 times"),
        (["Italy, Italy is", "--subject", "Italy", "--new", "Oslo"], "occurs 2 times"),
        (["{} and {} is", "--subject", "Italy", "--new", "Oslo"], "a place for the subject 2 times"),
        (["The capital of {} is", "--subject", "Italy", "--new", "Rome"], "already answers"),
        (["The capital of {} is", "--subject", "Italy", "--new", "Rome", "--true", "Rome"], "is the present one"),
        ([*FACT, "--true", "Paris"], "does not know"),
        ([*FACT, "--method", "romme"], "--method 'romme' is unknown. Did you mean rome"),
        ([*FACT, "--method", "memit"], "give --corpus"),
        ([*FACT, "--method", "wise"], "shut at plain texts: give --corpus"),
        ([*FACT, "--method", "ft", "--clamp", "2"], "--method ft has no --clamp"),
        ([*FACT, "--share", "0.1"], "--method rome has no --share: it is of alphaedit"),
        ([*FACT, "--published", "--method", "ft"], "--method ft has no --published"),
        ([*FACT, "--method", "wise", "--corpus", "x", "--margins", "5,20"], "expected three numbers, such as 5,20,10"),
        ([*FACT, "--contexts", "-1"], "--contexts"),
        ([*FACT, "--method", "mend"], "give --train FILE"),
        ([*FACT, "--editor", "x"], "--method rome has no --editor: it is of mend"),
        ([*FACT, "--method", "mend", "--editor", "x"], "--layers is of training"),
        ([*FACT[:-2], "--method", "mend", "--editor", "nowhere"], "nowhere"),
        ([*FACT, "--ridge", "2"], "--ridge is added to C"),
        ([*FACT[:-1], "0,1"], "edits one layer"),
        ([*FACT[:-1], "9"], "layer 9 is out of range"),
        ([*FACT, "--neighbor", " "], "--neighbor is empty"),
        ([*FACT, "--facts", "x.json"], "both say what is edited"),
        (["--facts", "x.json"], "x.json"),
        ([*FACT, "--generate", "0"], "--generate"),
        ([*FACT, "--clamp", "nan"], "clamp"),
    ],
)
def test_a_mistake_is_one_line(capsys, line, words):
    status, out, err = run(capsys, *line)
    assert status == 2 and out == "" and words in err and err.strip().count("\n") == 0


@pytest.mark.parametrize("text", ["[]", "{}", "[1]", '[{"prompt": "a"}]', "[", '[{"src": 1}]'])
def test_a_file_of_another_layout_is_refused(capsys, tmp_path, text):
    file = tmp_path / "facts.json"
    file.write_text(text)
    status, out, err = run(capsys, "--facts", str(file))
    assert status == 2 and out == "" and "facts.json" in err and "Traceback" not in err
