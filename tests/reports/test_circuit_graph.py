"""A circuit of nodes drawn as a graph: what supports the target is orange, whatever its readers do."""

import pytest

import caseback as cb
from caseback.decode.dictionaries import Facts, TopK
from caseback.errors import CasebackError, OutOfRange
from caseback.model.circuit import Circuit, Edge, Node
from caseback.reports.graphs.of_circuit import circuit_graph_document
from caseback.reports.graphs.paths import effects


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


def circuit(direction="noising"):
    """One feature supports the target, another is against it; a head supports it by lowering what is against it."""
    scores = {"L1F3 -> logits": -2.0, "L2F5 -> logits": 1.0, "L0H1 -> L2F5": -0.5, "L0H2 -> L1F3": -0.75}
    nodes = {"L1F3": -2.0, "L2F5": 1.0, "L0H1": -0.5, "L0H2": -0.75}
    known = {Edge.parse(edge): score for edge, score in scores.items()}
    known |= {Node.parse(node): score for node, score in nodes.items()}
    edges = frozenset(part for part in known if isinstance(part, Edge))
    return Circuit(edges, scores=known, about={"direction": direction, "method": "attribution"})


@pytest.mark.parametrize(("direction", "sign"), [("noising", 1), ("denoising", -1)])
def test_an_edges_sign_is_that_of_its_effect(model, direction, sign):
    document = circuit_graph_document(model, "Mary gave", circuit(direction), target=" the", foil=" a")
    at = dict(zip(document["nodes"]["name"], effects(document), strict=True))
    assert {name: sign * value > 0 for name, value in at.items() if name != "logits"} == {
        "L1F3": True, "L2F5": False, "L0H1": True, "L0H2": True,
    }  # fmt: skip
    names, edges = document["nodes"]["name"], document["edges"]
    sizes = {
        f"{names[s]} -> {names[t]}": abs(weight)
        for s, t, weight in zip(edges["source"], edges["target"], edges["weight"], strict=True)
    }
    assert sizes == {"L1F3 -> logits": 2.0, "L2F5 -> logits": 1.0, "L0H1 -> L2F5": 0.5, "L0H2 -> L1F3": 0.75}
    assert document["about"]["method"] == "feature circuit" and document["about"]["effects by"] == "attribution"
    assert [target["weight"] for target in document["targets"]] == [1.0, -1.0]


def test_features_have_the_words_that_they_write(model):
    one = TopK(160, 320, k=4, facts=Facts(site="mlp_norm.1", target="mlp_out.1"))
    one.W_dec.data[3] = model.weights.W_U[:, model.token_id(" ball")].detach() * model.weights.final_norm.gamma
    document = circuit_graph_document(model, "Mary gave", circuit(), target=" the", dictionaries=[one], k=1)
    words = dict(zip(document["nodes"]["name"], document["nodes"]["words"], strict=True))
    assert words["L1F3"]["up"] == [" ball"] and words["L2F5"] is None and words["L0H1"] is None


def test_positions_are_numbers_and_a_circuit_ends_at_the_logits(model):
    at = Circuit.of("L1F3@1 -> logits@1")
    assert circuit_graph_document(model, "Mary gave", at, target=" the")["nodes"]["pos"] == [1, 1]
    for wrong, says in (
        (Circuit.of("L1F3@end -> logits@end"), "expected positions as numbers"),
        (Circuit.of("L1F3"), "no edge to the logits"),
    ):
        with pytest.raises(CasebackError, match=says):
            circuit_graph_document(model, "Mary gave", wrong, target=" the")
    with pytest.raises(OutOfRange, match="k=0"):
        circuit_graph_document(model, "Mary gave", circuit(), target=" the", k=0)
