"""`caseback graph`: the same document for people, machines and browsers."""

import json

import pytest

import caseback as cb
from caseback.cli import main
from caseback.decode.dictionaries import Facts, TopK, save
from caseback.localize.circuits import attribution_graph, load_graph
from caseback.reports.graphs.attribution import attribution_graph_document
from caseback.reports.graphs.feature import feature_graph_document
from caseback.reports.graphs.flow import flow_graph_document

FLOW = ("--method", "flow")
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
    status, out, _ = run(capsys, PROMPT, *FLOW, "--json", "--threshold", "0.1", "--least", "0.05", "--html", str(page))
    document = json.loads(out)
    assert status == 0 and page.read_text("utf-8").startswith("<!doctype html>")
    assert document == json.loads(json.dumps(flow_graph_document(cb.load("meadow"), PROMPT, threshold=0.1, least=0.05)))
    status, out, _ = run(capsys, PROMPT, *FLOW, "--top", "2")
    assert status == 0 and "What leads to ␣Mary" in out and out.count("logits[") == 2
    status, out, _ = run(capsys, "5,1,2", *FLOW, "--ids", "--pos", "1", "--json")
    assert status == 0 and json.loads(out)["nodes"]["name"][0].endswith("@1")


def test_the_command_draws_what_one_feature_reads(capsys, tmp_path):
    model = cb.load("meadow")
    dictionaries = [
        TopK(160, 64, k=4, seed=i, facts=Facts(site=site)) for i, site in enumerate(("resid_post.0", "attn_out.2"))
    ]
    for one in dictionaries:
        save(one, tmp_path / f"{one.facts.site}.safetensors")
    state = model.run(PROMPT, read=["attn_out.2"])["attn_out", 2][0, 6][None]
    name = f"L2F{int(dictionaries[1].encode(state).argmax())}:attn_out"
    files = [
        text for one in dictionaries for text in ("--dictionaries", str(tmp_path / f"{one.facts.site}.safetensors"))
    ]
    page = tmp_path / "graph.html"
    options = (PROMPT, "--feature", name, "--pos", "6", *files)
    status, out, err = run(capsys, *options, "--query-key", "2", "--html", str(page), "--json")
    assert status == 0, err
    expected = feature_graph_document(model, PROMPT, name, dictionaries, pos=6, query_key=2)
    assert json.loads(out) == json.loads(json.dumps(expected)) and len(expected["attention"]) == 2
    assert page.read_text("utf-8").startswith("<!doctype html>")
    ways = {way for heads in expected["edges"]["heads"] for way, _ in heads}
    assert ways <= {f"L2H{head}" for head in range(model.n_heads)}
    total = sum(expected["edges"]["weight"])
    assert abs(total) > 0.1 and expected["scores"][0]["value"] <= 1
    status, out, _ = run(capsys, *options)
    assert status == 0 and f"What leads to {name}@6, by feature" in out and "Why heads look" in out
    for more in (("--target", " Mary"), FLOW):
        status, _, err = run(capsys, *options, *more)
        assert status and "--feature is explained with" in err


def test_the_command_draws_attribution_and_writes_it_for_other_viewers(capsys, tmp_path):
    transcoders = [
        TopK(160, 320, k=8, relu=False, seed=i, facts=Facts(site=f"mlp_norm.{i}", target=f"mlp_out.{i}"))
        for i in range(4)
    ]
    save(transcoders, tmp_path / "set", format="circuit_tracer")
    viewed, page = tmp_path / "viewed.json", tmp_path / "graph.html"
    options = ("--target", " Mary", "--foil", " John", "--max-nodes", "60", "--effects", "3", "--node", "1")
    more = ("--dictionaries", str(tmp_path / "set"), "--save", str(viewed), "--html", str(page), "--json")
    status, out, err = run(capsys, PROMPT, *options, *more)
    assert status == 0, err
    document = json.loads(out)
    assert page.read_text("utf-8").startswith("<!doctype html>")
    whole = attribution_graph(cb.load("meadow"), PROMPT, transcoders, targets=" Mary", foil=" John", max_nodes=60)
    expected = attribution_graph_document(cb.load("meadow"), PROMPT, transcoders, graph=whole, node=1, interventions=3)
    assert document["nodes"]["name"] == expected["nodes"]["name"] and len(document["interventions"]) == 3
    assert [target["text"] for target in document["targets"]] == [" Mary", " John"]
    kinds = set(load_graph(viewed)["kind"].values.tolist())
    assert "feature" in kinds and "error" in kinds
    status, out, _ = run(capsys, PROMPT, *options)
    assert status == 0 and "What leads to ␣Mary" in out and "Interventions" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((PROMPT, "--method", "flows"), "no method is called 'flows'. Did you mean flow?"),
        ((PROMPT, *FLOW, "--pos", "99"), "position 99"),
        ((PROMPT, *FLOW, "--threshold", "2"), "expected 0 <= least <= threshold < 1"),
        (("  ",), "the prompt is empty"),
        ((PROMPT, *FLOW, "--target", " Mary"), "are for --method attribution"),
        ((PROMPT, "--pos", "3"), "explains the last position"),
        ((PROMPT, "--target", " Mary", "--foil", " Mary"), "the foil ' Mary' is a target"),
        ((PROMPT, "--gate", "shut"), "gate 'shut' is unknown"),
        ((PROMPT, "--max-nodes", "0"), "expected at least 1"),
        ((PROMPT, "--dictionaries", "nowhere"), "nowhere"),
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
