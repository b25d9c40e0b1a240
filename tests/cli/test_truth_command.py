"""`caseback truth`: the closed world, files of statements and of facts, a model's own answers, and every mistake in a line."""

import json

import pytest

from bad_inputs.valid_truth import statements_file
from caseback import cli


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["truth", *map(str, arguments)])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_closed_world_as_text_json_and_page(capsys, tmp_path):
    page = tmp_path / "truth.html"
    options = ["--count", "8", "--methods", "two_dimensional,answer_log_prob", "--html", page]
    code, out, err = run(capsys, *options)
    assert code == 0 and "two_dimensional" in out and "bag_of_tokens" in out and "negated" in out, err
    assert "class='decision'" in page.read_text()
    code, out, _ = run(capsys, *options, "--json")
    document = json.loads(out)
    assert code == 0 and document["kind"] == "caseback.truth" and document["title"] == "the closed world"
    assert {row["name"] for row in document["rows"] if row["baseline"]} >= {"length", "log_prob", "bag_of_tokens"}


def test_a_file_of_statements(capsys, tmp_path):
    file = statements_file(tmp_path)
    code, out, err = run(capsys, file, "--methods", "mass_mean", "--folds", "2", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["plane"] is None and [topic["count"] for topic in document["topics"]] == [4] * 4
    assert document["rows"][0]["negated"] is None


def test_facts_and_answers_to_them(capsys, tmp_path):
    places = {
        "France": "Paris",
        "Italy": "Rome",
        "Spain": "Madrid",
        "Egypt": "Cairo",
        "Poland": "Bern",
        "Japan": "Rome",
        "Ireland": "Cairo",
        "Norway": "Paris",
        "Greece": "Bern",
        "Sweden": "Madrid",
    }
    for name, wording in (("capital", "The capital of {} is"), ("city", "If you visit the capital of {}, you are in")):
        samples = [{"subject": s, "object": o} for s, o in places.items()]
        data = {"name": name, "prompt_templates": [wording], "samples": samples}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    options = ["--relations", "--methods", "answer_log_prob", "--hold-out", "facts", "--folds", "2", "--json"]
    code, out, err = run(capsys, tmp_path, *options)
    assert code == 0, err
    assert json.loads(out)["statements"]["count"] == 2 * 10 * 4  # both wordings have a verb that takes "not"
    code, out, err = run(capsys, tmp_path, *options, "--answers")
    assert code == 0, err
    document = json.loads(out)
    assert document["statements"]["true"] == 8 and document["title"].startswith("answers to ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sampled", "4"], "give --answers too"),
        (["--answers", "--sampled", "1"], "expected 2 or more"),
        (["a.csv", "b.csv"], "expected one"),
        (["a.csv", "--answers"], "give --relations"),
        (["--relations"], "needs a file"),
        (["no such.csv"], "no such.csv"),
        (["--methods", "magic"], "no detector is called 'magic'"),
        (["--hold-out", "heads", "--methods", "mass_mean"], "expected 'topics' or 'facts'"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, says):
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and says in err, err
