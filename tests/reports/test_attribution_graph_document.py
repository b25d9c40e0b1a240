"""The document of an attribution graph says what the graph says, and warns where it should not be believed."""

import json

import numpy as np
import pytest

import caseback as cb
import shelf
from caseback.decode.dictionaries import Facts, TopK, dictionary_digest
from caseback.errors import ArgumentError, OutOfRange
from caseback.localize.circuits import (
    attribution_graph,
    graph_effects,
    graph_scores,
    head_loadings,
    load_supernodes,
    prune_graph,
    save_graph,
)
from caseback.reports.dictionaries.features import features_document
from caseback.reports.graphs.attribution import attribution_graph_document
from caseback.reports.graphs.paths import effects

PROMPT = "Mary gave the ball to"


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def graph(model):
    return attribution_graph(model, PROMPT, "neurons", targets=" John", foil=" Mary", max_nodes=200)


@pytest.fixture(scope="module")
def document(model, graph):
    return attribution_graph_document(model, PROMPT, graph=graph, interventions=4)


def test_nodes_and_edges_are_the_graphs(document, graph):
    nodes, edges = document["nodes"], document["edges"]
    for source, target, weight in zip(edges["source"], edges["target"], edges["weight"], strict=True):
        own = graph.weight.sel(writer=nodes["name"][source], reader=nodes["name"][target])
        assert weight == pytest.approx(float(own), abs=1e-5)
    small = prune_graph(graph, node=0.9, edge=0.995)
    assert {name for name in nodes["name"] if not name.startswith("logits")} == set(small.writer.values) - {"bias"}
    shown = np.array(nodes["share"])
    assert (shown >= 0).all() and (shown <= 1).all() and "bias" not in nodes["kind"]
    assert [score["value"] for score in document["scores"]] == pytest.approx(list(graph_scores(graph).values()))


def test_a_foil_has_the_opposite_weight_and_what_supports_it_is_against_the_target(document):
    target, foil = document["targets"]
    assert (target["text"], foil["text"], foil["weight"]) == (" John", " Mary", -target["weight"])
    sign = effects(document)
    at = document["nodes"]["name"].index("embed@1")  # the word Mary
    assert sign[at] < 0


def test_interventions_are_measured(model, graph, document):
    rows = document["interventions"]
    names = [row["name"].removeprefix("without ") for row in rows]
    again = graph_effects(model, graph, groups=names)
    np.testing.assert_allclose([row["measured"] for row in rows], again.measured.values[:, 0], atol=1e-5)
    assert [document["nodes"]["name"][row["nodes"][0]] for row in rows] == names


def test_heads_of_an_edge_are_shares_with_the_way_past_them(model, graph, document):
    heads = head_loadings(model, prune_graph(graph, node=0.9, edge=0.995), top=3)
    nodes, edges = document["nodes"], document["edges"]
    for source, target, listed in list(zip(edges["source"], edges["target"], edges["heads"], strict=True))[::50]:
        if listed is None:
            continue
        assert sum(abs(share) for _, share in listed) == pytest.approx(1, abs=1e-5)
        own = heads.sel(writer=nodes["name"][source], reader=nodes["name"][target])
        named = [name for name, _ in listed if name != "skip"]
        assert named == [name for name in own["head"].values.tolist() if name]


def test_words_are_what_a_unit_writes(model):
    """A feature that writes one token's column promotes that token."""
    transcoders = [
        TopK(160, 320, k=8, seed=i, facts=Facts(site=f"mlp_norm.{i}", target=f"mlp_out.{i}")) for i in range(4)
    ]
    column = model.weights.W_U[:, model.token_id(" ball")].detach() * model.weights.final_norm.gamma
    transcoders[3].W_dec.data[:] = column
    found = attribution_graph_document(model, PROMPT, transcoders, node=1, edge=1, interventions=0, k=1)
    nodes = found["nodes"]
    last = [words for name, words in zip(nodes["name"], nodes["words"], strict=True) if name.startswith("L3F")]
    assert last and all(words["up"] == [" ball"] for words in last)


def test_warnings_where_errors_carry_it_and_layers_have_no_dictionary(model):
    one = TopK(160, 320, k=8, facts=Facts(site="mlp_norm.1", target="mlp_out.1"))
    found = attribution_graph_document(model, PROMPT, one, node=1, edge=1, interventions=0)
    assert any("3 layers have no dictionary" in line for line in found["warnings"])
    assert any(line.startswith("Errors carry most of it") for line in found["warnings"])
    assert found["interventions"] == []


def test_a_document_holds_no_more_than_it_may(model, graph):
    found = attribution_graph_document(model, PROMPT, graph=graph, interventions=0, most_nodes=20, most_edges=50)
    kinds = found["nodes"]["kind"]
    assert len(kinds) - kinds.count("embed") - kinds.count("logits") <= 20 and len(found["edges"]["weight"]) <= 50
    for wrong in ({"interventions": -1}, {"query_key": -1}, {"most_nodes": 0}, {"most_edges": 0}, {"k": 0}):
        with pytest.raises(OutOfRange, match="expected 0 or more interventions"):
            attribution_graph_document(model, PROMPT, graph=graph, **wrong)


@pytest.mark.parametrize("name", ["gemma2", "gpt_neox", "qwen3"])
def test_families_have_documents(name):
    model = shelf.model(name)
    found = attribution_graph_document(model, shelf.ids((7,)), max_nodes=30, interventions=2)
    assert found["about"]["method"] == "attribution" and len(found["interventions"]) == 2


def test_what_people_call_units_stands_on_nodes(model, graph):
    strongest = next(n for n in graph.writer.values if n.startswith("L3N")).partition("@")[0]
    notes = cb.Notes(model="meadow").put(strongest, "ends of stories", by="ann").put(strongest, "stops", by="bob")
    found = attribution_graph_document(model, PROMPT, graph=graph, node=1, edge=1, interventions=0, notes=notes)
    texts = {text for name, text in _texts(found) if name.partition("@")[0] == strongest}
    assert texts == {"ends of stories; stops"}
    with pytest.raises(ArgumentError, match="other"):
        attribution_graph_document(model, PROMPT, graph=graph, notes=cb.Notes(model="other"))


def test_notes_on_a_dictionary_are_of_its_own_layer(model):
    every = [TopK(160, 320, k=8, seed=i, facts=Facts(site=f"mlp_norm.{i}", target=f"mlp_out.{i}")) for i in range(4)]
    whole = attribution_graph_document(model, PROMPT, every, node=1, edge=1, interventions=0)
    first = next(name for name, _ in _texts(whole) if name.startswith("L2F")).partition("@")[0]
    digest = dictionary_digest(every[2])
    notes = cb.Notes(model="meadow", dictionary=digest).put(first, "a name").put(first.replace("L2", "L1"), "another")
    found = attribution_graph_document(model, PROMPT, every, node=1, edge=1, interventions=0, notes=[notes])
    assert {text for _, text in _texts(found) if text in ("a name", "another")} == {"a name"}
    with pytest.raises(ArgumentError, match="not among those of this graph"):
        attribution_graph_document(model, PROMPT, every[:2], notes=notes)


def _texts(document):
    return list(zip(document["nodes"]["name"], document["nodes"]["text"], strict=True))


def test_supernodes_are_pinned_saved_and_taken_out_together(model, graph, tmp_path):
    shown = prune_graph(graph, node=0.9, edge=0.995)
    units = shown.writer.values[shown["kind"].values == "neuron"].tolist()
    groups = {"first": units[:3], "second": [units[3], "embed@1"]}
    found = attribution_graph_document(model, PROMPT, graph=graph, interventions=1, supernodes=groups)
    names = found["nodes"]["name"]
    assert {g["name"]: [names[i] for i in g["nodes"]] for g in found["supernodes"]} == groups
    again = graph_effects(model, graph, groups=groups)
    rows = {row["name"]: row for row in found["interventions"]}
    for name, members in groups.items():
        row, own = rows[f"without {name}"], again.sel(component=name).isel(vocab=0)
        assert [names[i] for i in row["nodes"]] == members
        assert row["measured"] == pytest.approx(float(own.measured), abs=1e-5)
        assert row["predicted"] == pytest.approx(float(own.predicted), abs=1e-5)
    save_graph(shown, tmp_path / "graph.json", model=model, supernodes=groups)
    data = json.loads((tmp_path / "graph.json").read_text("utf-8"))
    ids = {node["node_id"] for node in data["nodes"]}
    assert {name: len(own) for name, *own in data["qParams"]["supernodes"]} == {"first": 3, "second": 2}
    assert set(data["qParams"]["pinnedIds"]) == {one for _, *own in data["qParams"]["supernodes"] for one in own} <= ids
    read = load_supernodes(tmp_path / "graph.json")
    assert {name: sorted(members) for name, members in read.items()} == {n: sorted(m) for n, m in groups.items()}
    # what a page exports is a document, and another's file has no part of ours
    (tmp_path / "exported.json").write_text(json.dumps(found), encoding="utf-8")
    assert load_supernodes(tmp_path / "exported.json") == groups
    theirs = {**{key: value for key, value in data.items() if key != "caseback"}}
    embed = next(node["node_id"] for node in data["nodes"] if node["node_id"].startswith("E_"))
    theirs["nodes"] = [node for node in data["nodes"] if node["feature_type"] in ("embedding", "logit")]
    theirs["links"], theirs["qParams"] = [], {"supernodes": [["words", embed, "gone_1_2"]]}
    (tmp_path / "theirs.json").write_text(json.dumps(theirs), encoding="utf-8")
    assert list(load_supernodes(tmp_path / "theirs.json")) == ["words"]
    with pytest.raises(ArgumentError, match="not among the"):
        attribution_graph_document(model, PROMPT, graph=graph, interventions=0, supernodes={"a": ["L0N1@77"]})
    with pytest.raises(ArgumentError, match="no node of this graph"):
        save_graph(shown, tmp_path / "no.json", model=model, supernodes={"a": ["L0N1@77"]})


def test_cards_have_texts_where_a_feature_is_active(model):
    every = [TopK(160, 320, k=8, seed=i, facts=Facts(site=f"mlp_norm.{i}", target=f"mlp_out.{i}")) for i in range(4)]
    graph = attribution_graph(model, PROMPT, every, targets=" John")
    units = [
        int(i) for i, layer in zip(graph["index"].values, graph["layer"].values, strict=True) if layer == 1 and i >= 0
    ]
    texts = ["Mary gave the ball to John.", "The dog gave it to Mary in the park."]
    about = features_document(model, every[1], texts, cards=sorted(set(units))[:4])
    found = attribution_graph_document(
        model, PROMPT, every, graph=graph, node=1, edge=1, interventions=0, features=[about]
    )
    cards = {card["feature"]: card["examples"][:3] for card in about["cards"]}
    shown = 0
    for name, own in zip(found["nodes"]["name"], found["nodes"]["examples"], strict=True):
        layer, _, rest = name.partition("F")
        index = int(rest.partition("@")[0]) if layer == "L1" and rest else None
        expected = (
            [{"tokens": one["tokens"], "activations": one["values"]} for one in cards[index]]
            if index in cards
            else None
        )
        assert own == expected
        shown += bool(own)
    assert shown
    with pytest.raises(ArgumentError, match="not among the graph's"):
        attribution_graph_document(model, PROMPT, every[:1], node=1, edge=1, interventions=0, features=[about])
