"""The page of a circuit: all that it shows is in it, nothing is loaded, and no text becomes markup."""

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from page_data import page_data
from test_report import Page

import caseback as cb
import shelf
from caseback.errors import CasebackError
from caseback.localize.circuits import edge_attribution, faithfulness_curve, judge, select
from caseback.model.algebra.readout import readout
from caseback.model.circuit import Circuit, Node
from caseback.model.graph.graph import Graph
from caseback.reports.circuit import circuit_document
from caseback.views.page.circuit import circuit_html, write_circuit_page


@pytest.fixture(scope="module")
def drawn():
    model = cb.load("meadow")
    prompts = cb.tasks.get("relation").prompts(model, 4)
    told = prompts.clean, prompts.corrupt, prompts.metric
    scores = edge_attribution(model, *told)
    circuit = replace(select(model, scores, 50), roles={Node.parse("L2H0"): "mover </script><b>"})
    curve = faithfulness_curve(model, *told, scores)
    made = judge(model, *told, circuit, groups=prompts.groups, sets=1)
    return model, circuit, circuit_document(
        model, prompts.clean[:1], circuit, counterfactual=prompts.corrupt[:1], task="relation", curves={"eap": curve},
        judgement=made, other=select(model, scores, 30), other_name="smaller",
    )  # fmt: skip


def test_the_document_has_members_first_and_all_scores(drawn):
    model, circuit, document = drawn
    assert {(e["source"], e["target"], e["slot"]) for e in document["edges"] if e["in"]} == {
        (str(e.source), str(e.target), e.slot) for e in circuit.edges
    }
    sizes = [abs(e["score"]) for e in document["edges"]]
    assert sizes == sorted(sizes, reverse=True) and document["total"] == len(Graph.of(model.anatomy).edges)
    assert document["other"]["shared"] == sum(e["in"] and e["other"] for e in document["edges"])
    few = circuit_document(model, "Mary gave the ball to", circuit, most=40)
    assert len(few["edges"]) == 40 and all(e["in"] for e in few["edges"])
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt_projected"])
def test_readings_are_shares_of_the_logits_and_patterns_the_heads_own(name):
    model = shelf.model(name)
    prompt = shelf.ids((6,))
    document = circuit_document(model, model.tokens(prompt), Circuit.of("L0H1 -> logits"), k=model.d_vocab)
    last = model.n_layers - 1
    run = model.run(prompt, read=["pattern", "mlp_out", ("resid_post", last)])
    np.testing.assert_allclose(document["patterns"]["L0H1"], run["pattern", 0][0, 1].float(), rtol=1e-5)
    read = readout(model, list(range(model.d_vocab)), run["resid_post", last])
    for node, part in (("logits", run["resid_post", last]), ("MLP 1", run["mlp_out", 1])):
        shares = read.of(part)[0]
        shares = shares - shares.mean(-1, keepdim=True)
        for at, (up, down) in enumerate(document["readings"]["nodes"][node]):
            said = {document["readings"]["texts"][i]: value for i, value in up}
            mine = [said[model.token_text(i)] for i in range(model.d_vocab)]
            np.testing.assert_allclose(mine, shares[at].float(), rtol=1e-3, atol=1e-4)
            assert [value for _, value in up] == sorted(mine, reverse=True)
            assert [value for _, value in down] == sorted(mine)


def test_the_page_carries_the_document_and_loads_nothing(drawn):
    _, circuit, document = drawn
    text = circuit_html(document)
    page = Page(text)
    data = page_data(text)
    assert [e["score"] for e in data["edges"]] == pytest.approx([e["score"] for e in document["edges"]], rel=1e-5)
    packed = data["patterns"]["L2H0"]
    values = np.frombuffer(gzip.decompress(base64.b64decode(packed["data"])), "<u2") / packed["scale"]
    np.testing.assert_allclose(values, np.ravel(document["patterns"]["L2H0"]), atol=1e-4)
    policy = next(dict(attrs)["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in dict(attrs))
    for part in (page.scripts[1], page.styles[0]):
        assert base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() in policy
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "b")]
    assert "</script><b>" not in text and "src=" not in text.split("<script")[0]
    judged = document["judgement"]
    others = len(document["curves"][0]["edges"]) + len(judged["faithfulness"]) + len(judged["groups"])
    away = [abs(share - 1) for share in judged["groups"].values()]
    assert len(away) > 1 and away == sorted(away, reverse=True), "the worst group comes first"
    assert len(circuit.edges) == text.count("<tr><td>") - others


def test_what_cannot_be_drawn_is_refused(drawn, tmp_path):
    model, circuit, document = drawn
    for made, says in (({"kind": "other"}, "not a circuit document"), ({**document, "version": 9}, "version 9")):
        with pytest.raises(CasebackError, match=says):
            circuit_html(made)
    with pytest.raises(CasebackError, match="not finite"):
        circuit_html({**document, "size": {**document["size"], "share": float("nan")}})
    with pytest.raises(CasebackError, match="cannot write the page"):
        write_circuit_page(document, tmp_path / "none" / "a.html")
    with pytest.raises(CasebackError, match="2 examples given"):
        circuit_document(model, ["Mary", "John"], circuit)
    with pytest.raises(CasebackError, match="of another model"):
        circuit_document(model, "Mary", Circuit.of("L9H0 -> logits"))
    with pytest.raises(CasebackError, match="one prompt of as many tokens"):
        circuit_document(model, "Mary", circuit, counterfactual="Mary and John")


@pytest.mark.browser
def test_the_layout_says_where_nodes_stand():
    node = shutil.which("node")
    frontend = Path(__file__).parents[2] / "frontend"
    if node is None or not frontend.is_dir():
        pytest.skip("node is not installed")
    ran = subprocess.run([node, "--test", "test/layout.test.js"], cwd=frontend, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_the_bundle_is_in_the_package():
    static = files("caseback.views") / "static"
    assert all((static / name).is_file() for name in ("page.css", "circuit.js", "circuit.css"))
