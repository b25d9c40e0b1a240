"""Circuits as data: names, set algebra, files."""

import json

import networkx as nx
import pytest

import caseback as cb
from caseback.errors import CasebackError
from caseback.model.circuit import Circuit, Edge, Node
from caseback.model.graph.attribution_graph import (
    from_attribution_graph,
    load_attribution_graph,
    save_attribution_graph,
    to_attribution_graph,
)

NAMES = [
    "embed",
    "pos_embed",
    "logits",
    "L0H11",
    "L4KV1",
    "MLP 3",
    "L3N120",
    "L0F7",
    "L0F7:resid_post@3",
    "L1E:attn_out",
    "bias",
    "logits[17]@8",
    "L2H0@end",
    "embed@S1+1",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_nodes_name_is_read_back(name):
    assert str(Node.parse(name)) == name


@pytest.mark.parametrize("text", ["L0H1 -> L1H4.k", "embed -> MLP 0", "L0H1@S1+1 -> L1H4.q@end", "L0N3 -> logits@end"])
def test_an_edges_name_is_read_back(text):
    assert str(Edge.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "L1",
        "H3",
        "MLP",
        "L1H2.q",
        "MLP 1 X4",
        "embed -> L1H2",
        "embed -> MLP 1.q",
        "MLP 0 -> L0H1.q",
        "embed -> L0KV1.q",
        "L0KV0 -> logits",
        "a",
        "",
    ],
)
def test_what_names_no_part_is_refused(text):
    with pytest.raises(CasebackError):
        Edge.parse(text) if "->" in text else Node.parse(text)


def test_set_algebra_and_overlap():
    a = cb.Circuit.of("embed -> L0H0.v", "L0H0 -> logits", "MLP 0")
    b = Circuit.of("L0H0 -> logits", "MLP 0 -> logits", roles={"MLP 0": "recall"})
    assert (a & b) == Circuit.of("L0H0 -> logits", "MLP 0")
    assert len(a | b) == 3 and (a | b).roles == {Node.parse("MLP 0"): "recall"}
    assert (a - b) == Circuit.of("embed -> L0H0.v")
    assert a.iou(b) == pytest.approx(1 / 3) and a.iou(b, "nodes") == pytest.approx(3 / 4)
    assert Circuit().iou(Circuit()) == 1.0
    assert a != b and a == Circuit.of("MLP 0", "L0H0 -> logits", "embed -> L0H0.v") and len({a, b, a}) == 2


def test_positions_are_dropped_and_the_larger_score_kept():
    edges = [Edge.parse(f"L0H0@{pos} -> logits@end") for pos in ("S1", "S2")]
    found = Circuit(frozenset(edges), scores=dict(zip(edges, (0.5, -2.0), strict=True))).at_all_positions()
    assert found == Circuit.of("L0H0 -> logits") and list(found.scores.values()) == [-2.0]


def test_the_top_edges_by_size_or_by_sign():
    scores = {Edge.parse(f"L0H{h} -> logits"): s for h, s in enumerate((0.1, -3.0, 2.0, 0.0))}
    circuit = Circuit(scores=scores)
    assert circuit.top(2) == Circuit.of("L0H1 -> logits", "L0H2 -> logits")
    assert circuit.top(2, absolute=False) == Circuit.of("L0H2 -> logits", "L0H0 -> logits")
    for count in (0, 5):
        with pytest.raises(CasebackError, match="expected 1 to 4"):
            circuit.top(count)


def test_files(tmp_path):
    made = Circuit.of(
        "embed@S1 -> L0H0.v@S1+1", "L0H0@S1+1 -> L1H1.k@S1+1", "L1H1@end -> logits@end",
        roles={"L1H1@end": "induction"}, task="ioi", model="meadow", sizes=[1, 2],
    )  # fmt: skip
    made = Circuit(made.edges, made.nodes, {edge: 0.25 for edge in made.edges}, made.roles, made.about)
    made.save(tmp_path / "c.json")
    read = Circuit.load(tmp_path / "c.json")
    assert read == made and read.scores == made.scores and read.roles == made.roles and read.about == made.about
    made.to_graphml(tmp_path / "c.graphml")
    graph = nx.read_graphml(tmp_path / "c.graphml")
    assert graph.nodes["L1H1@end"]["role"] == "induction" and graph.number_of_edges() == 3
    assert made.to_networkx().edges["embed@S1", "L0H0@S1+1", "v"]["score"] == 0.25
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["c.graphml", "c.json"]


def test_a_file_that_holds_no_circuit_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"format": "other"}))
    (tmp_path / "b.json").write_text("{")
    for name in ("a.json", "b.json", "c.json"):
        with pytest.raises(CasebackError, match="circuit"):
            Circuit.load(tmp_path / name)


def test_attribution_graph_json_is_what_viewers_require_and_reads_back(tmp_path):
    made = Circuit.of(
        "embed@S1 -> L0H0.v@S1+1", "L0H0@S1+1 -> L1H1.k@end", "L0H0@S1+1 -> L1H1.q@end", "L1H1@end -> logits@end",
        "embed -> MLP 1", "MLP 1 -> logits@end", "MLP 1 N3@0", roles={"L1H1@end": "induction"}, model="tiny",
    )  # fmt: skip
    made = Circuit(made.edges, made.nodes, {edge: 0.5 - i for i, edge in enumerate(sorted(made.edges))}, made.roles)
    tokens = ["a", " b", " c", " d"]
    graph = to_attribution_graph(
        made, tokens, layers=2, slug="one", answer=" e", prob=0.9, positions={"S1": 1, "S1+1": 2}
    )
    assert {"slug", "scan", "prompt_tokens", "prompt"} <= set(graph["metadata"])
    needed = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"}
    assert all(needed <= set(node) for node in graph["nodes"]) and len(graph["nodes"]) == len(made.nodes)
    ids = [node["node_id"] for node in graph["nodes"]]
    assert len(set(ids)) == len(ids) and all({link["source"], link["target"]} <= set(ids) for link in graph["links"])
    by_name = {node["caseback"]: node for node in graph["nodes"]}
    assert by_name["L0H0@S1+1"]["ctx_idx"] == 2 and by_name["logits@end"]["clerp"] == 'Output " e" (p=0.900)'
    assert by_name["L1H1@end"]["clerp"] == "L1H1 · induction" and by_name["embed@S1"]["layer"] == "E"
    assert graph["qParams"]["supernodes"] == [["induction", by_name["L1H1@end"]["node_id"]]]
    assert max(node["influence"] or 0 for node in graph["nodes"]) == pytest.approx(1)
    save_attribution_graph(graph, tmp_path / "one.json")
    read = load_attribution_graph(tmp_path / "one.json")
    assert read == made and read.scores == made.scores and read.roles == made.roles
    save_attribution_graph({**graph, "metadata": {**graph["metadata"], "slug": "two"}}, tmp_path / "two.json")
    index = json.loads((tmp_path / "graph-metadata.json").read_text())
    assert [one["slug"] for one in index["graphs"]] == ["one", "two"]


def test_anothers_attribution_graph_is_read_as_features_at_positions():
    kinds = {"E_5_1": ("embedding", "E"), "0_7_1": ("cross layer transcoder", "0"), "4_9_2": ("logit", "4")}
    kinds |= {"0_1_2": ("mlp reconstruction error", "1"), "4_8_2": ("logit", "4")}
    nodes = [
        {"node_id": name, "feature": 1, "layer": layer, "ctx_idx": int(name[-1]), "feature_type": kind, "jsNodeId": "", "clerp": ""}
        for name, (kind, layer) in kinds.items()
    ]  # fmt: skip
    links = [("E_5_1", "0_7_1", 2.0), ("0_7_1", "4_9_2", 0.5), ("0_7_1", "4_8_2", -1.5), ("0_1_2", "4_9_2", 1.0)]
    data = {"metadata": {"prompt": "x", "scan": "m"}, "nodes": nodes}
    data["links"] = [{"source": a, "target": b, "weight": w} for a, b, w in links]
    read = from_attribution_graph(data)
    edges = ["embed@1 -> L0F7@1", "L0F7@1 -> logits[9]@2", "L0F7@1 -> logits[8]@2", "L1E@2 -> logits[9]@2"]
    assert read == Circuit.of(*edges)
    assert [read.scores[Edge.parse(edge)] for edge in edges] == [2.0, 0.5, -1.5, 1.0]
    assert read.about["targets"] == {"logits[9]@2": 0.0, "logits[8]@2": 0.0}
    with pytest.raises(CasebackError, match="schema version 7: version 1 can be read"):
        from_attribution_graph({**data, "metadata": {"schema_version": 7}})


def test_graphs_that_cannot_be_written_or_read_are_refused(tmp_path):
    circuit = Circuit.of("embed@S1 -> L0H0.v@9", "L0H0@9 -> logits")
    for options, says in (
        ({"tokens": []}, "no tokens"),
        ({"tokens": ["a", "b"]}, "where is 'S1'"),
        ({"tokens": ["a", "b"], "positions": {"S1": 0}}, "stands at token 9 of a prompt of 2"),
    ):
        with pytest.raises(CasebackError, match=says):
            to_attribution_graph(circuit, layers=1, **options)
    with pytest.raises(CasebackError, match="lacks nodes, links"):
        from_attribution_graph({"metadata": {}})
    odd = {"node_id": "0_1_0", "layer": "0", "ctx_idx": 0, "feature_type": "lorsa"}
    with pytest.raises(CasebackError, match="is a 'lorsa'"):
        from_attribution_graph({"metadata": {}, "nodes": [odd], "links": []})
    with pytest.raises(CasebackError, match="not one of its nodes"):
        from_attribution_graph({"metadata": {}, "nodes": [], "links": [{"source": "a", "target": "b", "weight": 1}]})
    (tmp_path / "graph-metadata.json").write_text("[]")
    with pytest.raises(CasebackError, match="not a list of graphs"):
        save_attribution_graph(to_attribution_graph(Circuit(), ["a"], layers=1), tmp_path / "a.json")
    with pytest.raises(CasebackError, match="cannot read a graph"):
        load_attribution_graph(tmp_path / "b.json")


@pytest.mark.parametrize("part", [None, 3, [1], ("L0H1", "logits")])
def test_what_is_no_part_of_a_circuit_is_refused(part):
    with pytest.raises(CasebackError, match="is no part of a circuit: expected names"):
        Circuit.of("L0H1 -> logits", part)
    with pytest.raises(CasebackError, match="is no Node: Circuit.of reads names"):
        Circuit(nodes=[part])
