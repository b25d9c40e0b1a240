"""`caseback erase`: one document for people and machines, an eraser in a file, mistakes in one line."""

import json

import pytest

import caseback as cb
from caseback.cli import main
from caseback.decode import read_states
from caseback.decode.erasure import load_eraser, load_oracle_eraser

SHE, HE = ("Mary", "Anna", "Emma", "Sara", "Lisa", "Kate"), ("John", "Paul", "Tom", "Jack", "David", "Mark")
NAMES = dict.fromkeys(SHE, "she") | dict.fromkeys(HE, "he")
ROWS = [
    {"text": f"{name} {did} to the {place}", "who": pronoun, "name": name}
    for name, pronoun in NAMES.items()
    for place in ("store", "park")
    for did in ("went", "walked")
]


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["erase", *arguments])
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def test_the_table_and_the_document_say_the_same(capsys, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    line = [texts, "--label", "who", "--site", "resid_post:1,resid_post:2", "--draws", "4"]
    status, out, _ = run(capsys, *line, "--json", "--save", str(tmp_path / "eraser"))
    document = json.loads(out)
    assert status == 0 and document["texts"] == {"count": 48, "held_out": 12, "classes": {"he": 24, "she": 24}}
    assert [row["place"] for row in document["places"]] == ["resid_post.1", "resid_post.2"]
    for row in document["places"]:
        assert row["before"] > 0.9 and row["rank"] == 1 and 0 < row["removed"] < 0.5
        assert row["after"] <= 0.75 and row["low"] <= row["after"] <= row["high"]
        assert set(row["effects"]) == {
            "erased",
            "random of equal rank",
            "random of equal variance",
            "label given back",
        }
    assert document["majority"] == 0.5 and document["clean"] == pytest.approx(0, abs=1e-6)
    assert document["together"]["erased"] > 0
    status, out, _ = run(capsys, *line)
    assert status == 0 and "48 texts (he 24, she 24), of which 12 were held out" in out
    assert all(row["place"] in out for row in document["places"]) and "all of them" in out
    model = cb.load("meadow")
    eraser = load_eraser(tmp_path / "eraser", model)
    assert eraser.method == "leace" and eraser.classes == ["he", "she"] and eraser.provenance["n"] == 36
    states = read_states(model, [row["text"] for row in ROWS], sites=["resid_post.1", "resid_post.2"])
    assert eraser.apply(states).x.shape == states.x.shape


@pytest.mark.parametrize(
    "options",
    [
        ["--method", "inlp", "--group", "name"],
        ["--method", "mean", "--everywhere", "--loss"],
        ["--method", "sal", "--scrub"],
        ["--method", "orth", "--scrub", "--everywhere", "--group", "name"],
    ],
)
def test_methods_and_places(capsys, texts, options):
    status, out, err = run(capsys, texts, "--label", "who", "--site", "resid_post", "--draws", "2", "--json", *options)
    assert status == 0, err
    document = json.loads(out)
    assert len(document["places"]) == 4 and document["together"] is not None
    assert any(row["rank"] >= 1 for row in document["places"])
    if "inlp" not in options:  # which stops by other held-out names
        assert all(row["after"] <= max(row["before"], 0.75) for row in document["places"])
    if "--scrub" in options:
        assert document["method"].startswith("scrubbed by ")
    if "--loss" in options:
        assert document["clean"] > 1


@pytest.mark.parametrize("method", ["oracle", "quadratic"])
@pytest.mark.parametrize("options", [[], ["--everywhere", "--loss"]])
def test_methods_that_take_labels_stand_beside_labels_dealt_at_random(capsys, texts, tmp_path, method, options):
    page, file = tmp_path / "page.html", tmp_path / "eraser"
    line = [
        texts,
        "--label",
        "who",
        "--site",
        "resid_post:1,resid_post:2",
        "--draws",
        "3",
        "--method",
        method,
        *options,
    ]
    status, out, err = run(capsys, *line, "--json", "--save", str(file), "--html", str(page))
    assert status == 0, err
    document = json.loads(out)
    assert document["method"] == f"{method}_leace"
    for row in document["places"]:
        # everywhere, the words before the name tell nothing of it
        assert row["before"] > (0.6 if options else 0.9) and row["after"] < row["before"]
        low, high = row["effects"]["labels dealt at random"]
        assert low <= high and row["effects"]["erased"] != 0
        assert 0 < row["removed"] < 1 and row["rank"] == (1 if method == "oracle" else 160)
    assert list(document["together"]) == ["erased", "labels dealt at random"]
    assert load_oracle_eraser(file, cb.load("meadow")).classes == ["he", "she"]
    assert "labels dealt at random" in page.read_text() and "label given back" not in page.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--label", "gender"], "has no column 'gender'"),
        (["--label", "who", "--method", "leaec"], "method 'leaec' is unknown. Did you mean leace"),
        (["--label", "who", "--method", "oracle", "--scrub"], "oracle takes labels"),
        (["--label", "who", "--method", "quadratic", "--draws", "1"], "expected at least 2"),
        (["--label", "who", "--loss"], "come before what its last position says"),
        (["--label", "who", "--group", "who"], "2 groups: expected 4 or more"),
        (["--label", "text"], "a class has 1 examples"),
        (["--label", "who", "--site", "resid_pots"], "no site is called"),
        (["--label", "who", "--site", ","], "no sites"),
        (["--label", "who", "--site", "resid_post:9"], "layer 9"),
    ],
)
def test_a_mistake_is_one_line(capsys, texts, options, words):
    status, out, err = run(capsys, texts, *options)
    assert status == 2 and out == "" and words in err and err.strip().count("\n") == 0
