"""Relations as affine maps, and heads that vote: exact where the truth is known, honest in a model that knows nothing."""

import json

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.behaviors import additive_recall, fact_flow, relation_map
from caseback.behaviors.facts.state_jacobians import state_jacobians
from caseback.cli import main
from caseback.edit import Fact, relation_facts
from caseback.edit.places import covering
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.components.logit_attribution import logit_attribution
from caseback.model.running.run import execute
from caseback.organisms.compiled import build
from caseback.reports.concepts.facts import facts_document
from caseback.views.page.kinds import page_html
from zoo import redraw, tiny

TOLD = [
    Fact("q b {} r c p", "p a", new="b", true="a"),
    Fact("r c {} q a s", "s d", new="b", true="d"),
    Fact("{} r c p b q", "q a", new="b", true="a"),
    Fact("q c {} r a p", "p b", new="a", true="b"),
]


@pytest.fixture(scope="module")
def meadow():
    return cb.load(cb.load("meadow").hf.double(), tokenizer=cb.load("meadow").tokenizer)


@pytest.fixture(scope="module")
def fitted(meadow):
    return relation_map(meadow, relation_facts("capital"), examples=4, layers=[0, 2], demonstrations=False, draws=2)


@pytest.fixture(scope="module")
def votes(meadow):
    return additive_recall(meadow, relation_facts("capital"), other=relation_facts("language"))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_neox", "mixtral", "olmo2"])
def test_5_4_19_a_jacobian_is_autograd_s_of_whole_runs(family):
    model = cb.load(tiny(family, torch.float64))
    tokens = model.tokens([[5, 9, 3, 7, 2], [4, 8, 6]])
    at, last = [1, 1], model.n_layers - 1
    run = execute(model.anatomy, tokens, read=[("resid_post", 0), ("resid_post", last)], grad=True)
    x, y, column = run["resid_post", 0], run["resid_post", last], tokens.column(torch.tensor(at))
    states = torch.stack([x[b, column[b]] for b in range(2)]).detach()
    # in all but GPT-2, transformers has norms, rotations or softmax in float32 whatever the weights are
    near = {"atol": 1e-12, "rtol": 1e-9} if family == "gpt2" else {"atol": 1e-6, "rtol": 1e-5}
    jacobians = state_jacobians(model, tokens, at, 0, states)
    for b in range(2):
        for k in (0, model.d_model - 1):
            (gradient,) = torch.autograd.grad(y[b, tokens.column(-1)[b], k], x, retain_graph=True)
            torch.testing.assert_close(jacobians[b, k], gradient[b, column[b]], **near)


def test_5_4_19_where_the_model_is_affine_so_is_the_map():
    """Behind the last attention that looks at the subject, with its pattern held, nothing but addition is left."""
    model = cb.load(tiny("gpt2", torch.float64))
    layers = model.hf.transformer.h
    with torch.no_grad():
        for block in layers[1:]:  # no MLP, and queries that see all keys alike: the value path is left, behind a norm
            block.mlp.c_proj.weight.zero_()
            block.mlp.c_proj.bias.zero_()
            block.attn.c_attn.weight[:, : 2 * model.d_model] = 0
            block.attn.c_attn.bias[: 2 * model.d_model] = 0
            block.ln_1 = torch.nn.Identity()
    model = cb.load(model.hf)
    tokens = model.tokens([[5, 9, 3, 7]])
    reads = [("resid_post", 0), ("resid_post", model.n_layers - 1)]
    run = model.run(tokens, read=reads)
    start, end = run[reads[0]][0, 1], run[reads[1]][0, -1]
    (jacobian,) = state_jacobians(model, tokens, [1], 0, start[None])
    move = torch.randn(model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10
    moved = model.run(tokens, read=reads, edits=[cb.Add("resid_post", move, layer=0, pos=1)])[reads[1]][0, -1]
    torch.testing.assert_close(end + jacobian @ move, moved, atol=1e-9, rtol=1e-9)
    assert float((moved - end).norm()) > 1e-3


def test_5_4_19_meadow_s_capitals_are_one_map_that_works_both_ways(meadow, fitted):
    assert fitted.layer == 0 and fitted.about["known"] == 28 and len(fitted.about["unknown"]) == 5
    rates = fitted.scores["faithful"].mean("batch")
    assert float(rates.sel(variant="map")) >= 0.9 and float(rates.drop_sel(variant="map").max()) <= 0.1
    assert float(fitted.scores["causal"].mean()) >= 0.9 and float(fitted.scores["causal_control"].max()) == 0
    # what the map says is what the weights say of it
    text, answer = (str(fitted.scores[name].values[0]) for name in ("prompt", "answer"))
    fact = next(fact for fact in relation_facts("capital") if fact.text == text)
    ((ids, inside),) = covering(meadow, [text], [fact.span])
    state = meadow.run([ids], read=[("resid_post", 0)])["resid_post", 0][0, inside[-1]]
    logits = meadow.anatomy.unembed(meadow.anatomy.final_norm(fitted.of(state)))
    said = meadow.token_text(logits.argmax()).strip() == answer
    assert said == bool(fitted.scores["faithful"].sel(variant="map")[0])


def test_maps_are_made_of_facts_that_are_not_judged(meadow, fitted):
    again = relation_map(meadow, relation_facts("capital"), examples=4, layers=[0, 2], demonstrations=False, draws=2)
    torch.testing.assert_close(again.weight, fitted.weight)
    about = fitted.about
    assert about["examples"] + about["choosing"] + about["judged"] == about["known"]
    with pytest.raises(CasebackError, match="knows 28: expected 33 or more"):
        relation_map(meadow, relation_facts("capital"), examples=25, demonstrations=False)
    with pytest.raises(CasebackError, match="12 facts: expected 16 or more"):
        relation_map(meadow, relation_facts("capital", count=12), examples=8)
    with pytest.raises(OutOfRange, match="expected some of 0 to 2"):
        relation_map(meadow, relation_facts("capital"), layers=[3])
    with pytest.raises(OutOfRange, match="betas"):
        relation_map(meadow, relation_facts("capital"), betas=[0.0])
    with pytest.raises(OutOfRange, match="examples=1"):
        relation_map(meadow, relation_facts("capital"), examples=1)
    with pytest.raises(CasebackError, match="no true answer"):
        relation_map(meadow, [Fact("The capital of {} is", "Italy", "Oslo")] * 20)


def test_5_4_19_votes_sum_to_what_heads_give(meadow, votes):
    answers = [" " + answer for answer in votes["answer"].values.tolist()]
    ids = [meadow.tokenizer.encode(answer, add_special_tokens=False)[0] for answer in answers]
    rows = torch.arange(len(ids))

    def over_the_mean(logits):
        return logits[rows[: len(logits)], torch.tensor(ids)[: len(logits)]] - logits.mean(-1)

    prompts = meadow.tokens(votes["prompt"].values.tolist())
    shares = logit_attribution(meadow, prompts, cb.function(over_the_mean), by="head")
    np.testing.assert_allclose(votes["share"].sum("key").values, shares.values, atol=1e-9)


def test_5_4_19_meadow_s_subject_heads_speak_whatever_is_asked(votes):
    kinds = {f"L{i}H{h}": str(votes["kind"].values[i, h]) for i in range(4) for h in range(5)}
    assert {kinds[name] for name in ("L2H0", "L1H2", "L2H1")} == {"subject"} and kinds["L2H2"] == "relation"
    own, elsewhere = votes["share"].sum("key").mean("batch"), votes["elsewhere"].mean("batch")
    assert float(elsewhere[2, 0]) > 0.8 * float(own[2, 0])  # asked for the language, it says the capital
    assert float(votes["range"].mean("batch")[2, 2]) > 0.8 * float(own[2, 2])  # all capitals alike
    assert float(elsewhere[2, 2]) < 0.1 * float(own[2, 2])
    alone = votes["alone"].mean("batch")
    assert float(alone.sel(group="everything")) == 1 and float(alone.sel(group="relation heads")) < 0.2
    assert float(votes["margin"].mean("batch").sel(group="these together")) > float(
        votes["margin"].mean("batch").drop_sel(group=["these together", "everything"]).max()
    )


def test_5_4_19_the_compiled_hop_is_a_subject_head():
    votes = additive_recall(build("recall").model, TOLD)
    kinds = votes["kind"].values
    (at,) = np.argwhere(kinds != "")
    assert kinds[tuple(at)] == "subject" and at[0] == 1
    share = votes["share"].values[tuple(at)]
    assert (share[0] > 0).all() and np.abs(share[1:]).max() < 1e-3 * share[0].min()
    assert votes["alone"].sel(group="subject heads").mean() == 1


def test_a_model_that_was_not_trained_knows_no_fact(meadow):
    model = cb.load("meadow").hf
    redraw(model, seed=1)
    untrained = cb.load(model, tokenizer=meadow.tokenizer)
    for ask in (additive_recall, relation_map):
        with pytest.raises(CasebackError, match="the model knows 0"):
            ask(untrained, relation_facts("capital"))


def test_the_command_fits_maps_of_one_relation(capsys, tmp_path):
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["facts", *arguments])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    status, out, err = run(
        "--count", "33", "--map", "4", "--no-demonstrations", "--other-relation", "language", "--json"
    )
    document = json.loads(out)
    assert status == 0 and document["map"]["examples"] == 4 and document["map"]["faithful"][0]["rate"] >= 0.9, err
    assert document["votes"]["heads"][0]["elsewhere"] > 1
    rows = [("Italy", "Rome", "The capital of Italy is"), ("Spain", "Madrid", "The capital of Spain is")]
    rows += [("France", "French", "The people of France speak"), ("Norway", "Norwegian", "The people of Norway speak")]
    records = [{"subject": who, "attribute": what, "prompt": text, "relation_id": text[:9]} for who, what, text in rows]
    (tmp_path / "known.json").write_text(json.dumps(records))
    status, out, err = run("--relation", str(tmp_path / "known.json"), "--count", "4", "--json")
    document = json.loads(out)
    assert status == 0 and document["votes"] is None and len(document["facts"]) == 4, err
    for arguments, words in (
        (["--relation", str(tmp_path / "known.json"), "--count", "4", "--map", "2"], "are of one relation"),
        (["--relation", str(tmp_path / "known.json"), "--count", "5"], "has 4"),
        (["--no-demonstrations"], "--no-demonstrations is of the map"),
        (["--count", "10", "--map", "4"], "expected 12 or more"),
    ):
        status, out, err = run(*arguments)
        assert status == 2 and words in err and err.strip().count("\n") == 0


def test_votes_and_the_map_stand_in_the_document_and_on_the_page(meadow, fitted, votes):
    flow = fact_flow(meadow, relation_facts("capital"), draws=1, k=5)
    document = facts_document(meadow, flow, "capital", votes=votes, fitted=fitted)
    assert json.loads(json.dumps(document)) == document
    assert document["votes"]["heads"][0]["head"] == "L2H0" and document["votes"]["candidates"] == 32
    assert document["map"]["layer"] == 0 and len(document["map"]["facts_judged"]) == document["map"]["judged"]
    page = page_html(document)
    assert "Votes: who speaks for the answer" in page and "As one affine map" in page
    assert facts_document(meadow, flow)["votes"] is None
    with pytest.raises(CasebackError):
        facts_document(meadow, flow, votes=flow)
