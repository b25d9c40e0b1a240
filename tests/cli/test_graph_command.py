"""`caseback graph`: the same document for people, machines and browsers."""

import json

import pytest

import caseback as cb
from caseback.cli import main
from caseback.reports.graphs.flow import flow_graph_document

PROMPT = "When Mary and John went to the store, John gave a drink to"


def run(capsys, *arguments):
    try:
        main(["graph", *arguments])
    except SystemExit as end:
        said = capsys.readouterr()
        return end.code, said.out, said.err
    raise AssertionError("main always exits")


def test_the_command_gives_what_the_library_gives(capsys, tmp_path):
    page = tmp_path / "graph.html"
    status, out, _ = run(capsys, PROMPT, "--json", "--threshold", "0.1", "--least", "0.05", "--html", str(page))
    document = json.loads(out)
    assert status == 0 and page.read_text("utf-8").startswith("<!doctype html>")
    assert document == json.loads(json.dumps(flow_graph_document(cb.load("meadow"), PROMPT, threshold=0.1, least=0.05)))
    status, out, _ = run(capsys, PROMPT, "--top", "2")
    assert status == 0 and "What leads to ␣Mary" in out and out.count("logits[") == 2
    status, out, _ = run(capsys, "5,1,2", "--ids", "--pos", "1", "--json")
    assert status == 0 and json.loads(out)["nodes"]["name"][0].endswith("@1")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((PROMPT, "--method", "flows"), "no method is called 'flows'. Did you mean flow?"),
        ((PROMPT, "--pos", "99"), "position 99"),
        ((PROMPT, "--threshold", "2"), "expected 0 <= least <= threshold < 1"),
        (("  ",), "the prompt is empty"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, says):
    status, out, err = run(capsys, *arguments)
    assert status == 2 and out == "" and says in err


def test_flow_finds_circuits(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["circuit", "agreement", "--method", "flow", "--edges", "40", "--count", "4", "--how", "greedy"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and "by flow" in out and "40 of 685 edges" in out
