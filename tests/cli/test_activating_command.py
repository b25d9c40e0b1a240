"""``caseback activating``: examples in the terminal, as JSON and as a page; a store to go on from; clear errors."""

import json
from html.parser import HTMLParser

import pytest

from caseback import cli

pytestmark = pytest.mark.usefixtures("plain")

LINES = "Mary went to the store.\nJohn saw the dog.\n\nMary <b>and</b> John went to the park, John gave it to Mary.\n"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(LINES, encoding="utf-8")
    return str(path)


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["activating", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_the_terminal_shows_the_strongest_tokens_in_brackets(capsys, corpus):
    status, out, err = answer(capsys, corpus, "--layer", "1", "--units", "0,5-6", "--top", "2", "--ranges")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("mlp_post.1 of meadow: ")
    assert [line.split()[1] for line in lines if line.startswith("unit ")] == ["0", "5", "6"]
    strongest = lines[lines.index(next(x for x in lines if x.startswith("unit 0"))) + 1]
    assert strongest.count("[") == 1 and "␣" in strongest and " to " in out


def test_json_and_page_hold_the_same_and_the_store_is_gone_on_from(capsys, corpus, tmp_path):
    page, store = tmp_path / "units.html", str(tmp_path / "store")
    arguments = [corpus, "--layer", "1", "--units", "3", "--top", "3", "--store", store, "--json"]
    status, out, err = answer(capsys, *arguments, "--html", str(page))
    assert status == 0 and "written to" in err
    made = json.loads(out)
    (unit,) = made["units"]
    values = [e["value"] for e in unit["examples"]]
    assert values == sorted(values, reverse=True) and len(values) == 3
    assert all(e["values"][e["at"]] == e["value"] for e in unit["examples"])
    assert answer(capsys, *arguments)[1] == out
    assert json.loads((tmp_path / "store" / "job.json").read_text())["kind"] == "activating"
    status, _, err = answer(capsys, corpus, "--layer", "2", "--units", "3", "--top", "3", "--store", store)
    assert status == 2 and "what differs: site (mlp_post.1 there, mlp_post.2 here)" in err

    class Page(HTMLParser):
        tags: list = []
        at: list = []

        def handle_starttag(self, tag, attrs):
            self.tags.append(tag)
            if "at" in dict(attrs).get("class", "").split():
                self.at.append(dict(attrs)["title"])

    text = page.read_text(encoding="utf-8")
    parser = Page()
    parser.feed(text)
    assert len(parser.at) == 3 + sum(len(part["examples"]) for part in unit["ranges"])
    # nothing of the corpus is markup but the examples' own figures and the model's name, and nothing is loaded
    assert parser.tags.count("b") == len(parser.at) + 1 and parser.tags.count("script") == 2
    assert "http" not in text.lower().replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_of_all_units_those_that_stand_out_are_shown(capsys, corpus):
    status, out, _ = answer(capsys, corpus, "--layer", "0", "--site", "z", "--top", "1", "--skip", "1")
    assert status == 0 and out.count("\nunit ") > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--units", "x"], "--units 'x': expected whole numbers"),
        (["--site", "pattern"], "has no units"),
        (["--site", "mlp_pots"], "Did you mean mlp_post"),
        (["--units", "99999"], "unit 99999"),
        (["--top", "0"], "--top 0"),
        (["--layer", "99"], "layer 99 is out of range"),
        (["--html", "/nowhere/at/all.html"], "there is no folder"),
    ],
)
def test_bad_input_is_one_line(capsys, corpus, arguments, message):
    layer = [] if "--layer" in arguments else ["--layer", "0"]
    status, out, err = answer(capsys, corpus, *layer, *arguments)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_an_empty_or_absent_corpus_is_one_line(capsys, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n  \n")
    assert "the corpus is empty" in answer(capsys, str(empty), "--layer", "0")[2]
    assert "is not a file" in answer(capsys, str(tmp_path / "none.txt"), "--layer", "0")[2]
    empty.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as UTF-8" in answer(capsys, str(empty), "--layer", "0")[2]
