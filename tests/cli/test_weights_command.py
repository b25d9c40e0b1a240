"""``caseback weights``: neurons, heads and singular vectors as tables, JSON and pages; one line for a mistake."""

import json
import re

import pytest

from caseback import cli


@pytest.fixture(autouse=True)
def wide(monkeypatch, plain):
    monkeypatch.setenv("COLUMNS", "140")


def answer(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["weights", "meadow", *arguments])
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layer", "2", "--head", "1", "--top", "4"], ["OV of L2H1", "from", "own token largest"]),
        (["--layer", "2", "--head", "1", "--matrix", "qk", "--top", "2"], ["QK of L2H1"]),
        (["--layer", "2", "--head", "1", "--svd", "--top", "2"], ["Singular vectors of ov", "share"]),
        (["--layer", "2", "--head", "1", "--matrix", "o", "--top", "2"], ["Directions of o", "o 0", "o 1"]),
        (["--layer", "1", "--svd", "--matrix", "in", "--top", "2"], ["Singular vectors of in", "#"]),
        (["--layer", "1", "--neuron", "5", "--top", "3"], ["Neuron 5 of layer 1", "in", "out"]),
    ],
)
def test_tables(capsys, arguments, said):
    status, out, _ = answer(capsys, *arguments)
    assert status == 0
    for word in said:
        assert word in out


def test_json_is_the_result(capsys):
    status, out, _ = answer(capsys, "--layer", "2", "--head", "1", "--top", "4", "--json")
    made = json.loads(out)
    assert status == 0 and made["dims"]["k"] == 4 and len(made["data_vars"]["top_from_text"]["data"]) == 4
    status, out, _ = answer(capsys, "--layer", "1", "--neuron", "5", "--top", "3", "--json")
    made = json.loads(out)
    assert status == 0 and {"in", "out"} <= set(made)
    assert made["out"]["attrs"]["technique"] == "decode.vocabulary.weights_as_words"
    assert len(made["out"]["data_vars"]["top_text"]["data"]) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["--layer", "2", "--head", "1", "--svd", "--top", "2"],
        ["--layer", "1", "--svd", "--matrix", "in", "--top", "2"],
        ["--layer", "1", "--neuron", "5", "--top", "3"],
        ["--layer", "2", "--head", "1", "--top", "4"],
        ["--layer", "2", "--head", "1", "--matrix", "o", "--top", "2"],
    ],
)
def test_the_page_has_the_numbers_of_the_json(capsys, tmp_path, arguments):
    page = tmp_path / "weights.html"
    page.write_text("what was there before")
    table = answer(capsys, *arguments)[1]
    status, out, err = answer(capsys, *arguments, "--html", str(page))
    assert status == 0 and out == table and f"written to {page}" in err
    first = page.read_bytes()
    status, out, err = answer(capsys, *arguments, "--json", "--html", str(page))
    assert status == 0 and f"written to {page}" in err and page.read_bytes() == first
    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)
    drawn = json.loads(data)
    shown = set(numbers(drawn.get("panels") or drawn["pairs"]))
    whole = set(numbers(json.loads(out)))
    assert shown and shown <= whole
    if "--svd" in arguments or "--neuron" in arguments:
        assert {x for x in whole if x != int(x)} <= shown


def numbers(data):
    if isinstance(data, dict | list):
        for part in data.values() if isinstance(data, dict) else data:
            yield from numbers(part)
    elif isinstance(data, float):
        yield data


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--layer", "0"], "--head or --neuron"),
        (["--layer", "0", "--head", "0", "--neuron", "0"], "one of them"),
        (["--layer", "0", "--neuron", "0", "--matrix", "ov"], "goes with"),
        (["--layer", "0", "--head", "0", "--matrix", "vo"], "unknown"),
        (["--layer", "0", "--head", "99"], "head 99"),
        (["--layer", "99", "--head", "0"], "99"),
        (["--layer", "0", "--head", "0", "--top", "0"], "at least 1"),
        (["--layer", "0", "--head", "0", "--dictionaries", "somewhere"], "give --find WORD"),
        (["--find", " Paris", "--force"], "--force reads --dictionaries"),
        (["--layer", "0", "--head", "0", "--html", "no/where.html"], "there is no folder"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, said):
    status, out, err = answer(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("caseback:")]
    assert status == 2 and out == "" and len(lines) == 1 and said in lines[0]


def test_a_page_cannot_be_a_folder(capsys, tmp_path):
    status, _, err = answer(capsys, "--layer", "0", "--neuron", "0", "--html", str(tmp_path))
    assert status == 2 and "it is a folder" in err


def test_a_word_is_looked_for_in_dictionaries_too(capsys, tmp_path):
    from caseback.decode.dictionaries import Facts, TopK, save

    for layer in (0, 1):
        facts = Facts(site=f"resid_post.{layer}", model="meadow")
        save(TopK(160, 40, k=2, facts=facts, seed=layer), tmp_path / str(layer))
    given = [part for layer in (0, 1) for part in ("--dictionaries", str(tmp_path / str(layer)))]
    status, out, _ = answer(capsys, "--find", " Mary", "--top", "12", *given)
    assert status == 0 and "features that write" in out and "F" in out
    status, out, _ = answer(capsys, "--find", " Mary", "--top", "12", *given, "--json")
    assert status == 0 and all(f"L{layer}F" in out for layer in (0, 1)) and ":resid_post" in out
