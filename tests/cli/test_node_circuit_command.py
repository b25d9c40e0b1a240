"""``caseback circuit --nodes``: circuits of features and neurons, printed, as JSON, saved; what it refuses."""

import json

import pytest

from caseback import cli
from caseback.decode.dictionaries import Facts, TopK, save_dictionary
from caseback.model.circuit import Circuit

FEW = ["agreement", "--count", "2", "--method", "eap", "--strongest", "6"]


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["circuit", *map(str, arguments)])
    return ended.value.code


@pytest.fixture
def dictionaries(tmp_path):
    """Two dictionaries of random rows: of one layer's stream, and of another's MLP."""
    paths = []
    for name, site in (("stream", "resid_post.1"), ("mlp", "mlp_out.2")):
        save_dictionary(TopK(160, 320, k=4, facts=Facts(site=site)), path := tmp_path / f"{name}.safetensors")
        paths += ["--dictionaries", path]
    return paths


def test_features_are_found_judged_printed_and_saved(capsys, tmp_path, dictionaries):
    saved = tmp_path / "circuit.json"
    page = tmp_path / "circuit.html"
    assert run(*FEW, "--nodes", "features", *dictionaries, "--save", saved, "--html", page) == 0
    assert page.read_text("utf-8").startswith("<!doctype html>")
    printed = capsys.readouterr().out
    assert "features by attribution" in printed and "no dictionary covers" in printed
    assert all(way in printed for way in ("errors of the circuit", "all errors", "no errors"))
    circuit = Circuit.load(saved)
    kinds = {node.kind for node in circuit.nodes}
    assert kinds <= {"feature", "error", "logits"} and "error" in kinds
    assert len(circuit.nodes - {node for node in circuit.nodes if node.kind == "logits"}) == 6


def test_neurons_as_json(capsys):
    assert run(*FEW, "--nodes", "neurons", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "caseback.node_circuit"
    assert document["size"]["nodes"] == len(document["nodes"]) == 6
    sizes = [abs(row["score"]) for row in document["nodes"]]
    assert sizes == sorted(sizes, reverse=True)
    assert {row["way"] for row in document["judgement"]} == {"errors of the circuit"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--nodes", "features"], "features need dictionaries"),
        (["--nodes", "neuron"], "expected one of features, neurons, heads"),
        (["--nodes", "neurons", "--method", "acdc"], "expected one of eap, eap-ig, exact"),
        (["--nodes", "neurons", "--graph", "graph.json"], "drawn (--html) or saved (--save)"),
        (["--nodes", "features", "--dictionaries", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_what_it_refuses_is_one_line(capsys, line, says):
    assert run("agreement", "--count", "2", *line) == 2
    printed = capsys.readouterr().err
    assert says in printed and printed.count("\n") == 1


def test_dictionaries_of_other_nodes_are_refused(capsys, dictionaries):
    assert run("agreement", "--count", "2", "--nodes", "neurons", *dictionaries) == 2
    assert "expected nodes='features'" in capsys.readouterr().err


def test_a_circuit_at_spans_is_printed_drawn_and_saved(capsys, tmp_path):
    saved, page = tmp_path / "circuit.json", tmp_path / "circuit.html"
    few = ["agreement", "--spans", "--count", "4", "--method", "eap", "--edges", "40"]
    assert run(*few, "--save", saved, "--html", page) == 0
    printed = capsys.readouterr().out
    assert "after subject" in printed and "edges of 2740 at 4 places" in printed
    circuit = Circuit.load(saved)
    assert 0 < len(circuit) <= 40 and {node.pos for node in circuit.nodes} <= {
        *("beginning", "subject", "after subject", "attractor")
    }
    assert "Where in the prompt does" in page.read_text("utf-8")
    assert run(*few, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "caseback.span_circuit" and document["size"]["edges"] == len(circuit)
    assert document["curve"][-1]["placed"][0] == pytest.approx(1, abs=0.05)
    for more, says in (
        (["--nodes", "neurons"], "both --spans and --nodes"),
        (["--method", "acdc"], "does not score edges at places"),
        (["--graph", tmp_path / "x.json"], "--graph"),
    ):
        assert run(*few, *more) == 2
        assert says in capsys.readouterr().err
