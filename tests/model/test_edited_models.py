"""A model under edits is the model with these edits given to every call."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import logit_lens
from caseback.errors import EditError, OutOfRange, UnknownSite
from caseback.localize.circuits import edge_attribution, patch_edges, run_circuit
from caseback.localize.components import ablate, attribution_patching, patch
from caseback.localize.inputs import integrated_gradients, occlusion
from caseback.model.algebra.paths import copying_scores
from caseback.model.graph.graph import Graph
from caseback.model.running.measure import measured
from caseback.model.running.verify import unembed
from exact import exact

METRIC = cb.logit_diff(5, 7)


def standing(model):
    """Edits of the ends, of the stream and inside attention and MLP, in early and late layers."""
    edits = [
        cb.Scale("embed", 1.5, pos=1),
        cb.Zero("z", layer=0, head=1),
        cb.Scale("mlp_out", 0.5, layer=1),
        cb.Add("resid_post", 0.3, layer=1, pos=[2, -1]),
        cb.Scale("v", 0.7, layer=2),
        cb.Scale("resid_post", 0.8, layer=model.n_layers - 1, unit=[0, 3]),
        cb.Knockout(layer=1, head=0, query=-1, key=[1]),
        cb.Scale("attn_norm" if "attn_norm" not in model.anatomy.lacks else "attn_in", 0.9, layer=1),
        cb.Add("logits", 0.5, unit=5, pos=-1),
    ]
    return [edit for edit in edits if edit.site not in model.anatomy.lacks]


@pytest.fixture(params=shelf.FEW)
def models(request):
    plain = shelf.model(request.param)
    with exact():
        yield plain, plain.edited(standing(plain)), standing(plain)


def test_runs(models):
    plain, edited, edits = models
    tokens = plain.tokens(shelf.ids((9, 6)))
    ours = edited.run(tokens, read=["resid_post", "pattern"], edits=cb.Zero("mlp_out", layer=0))
    by_hand = plain.run(tokens, read=["resid_post", "pattern"], edits=[*edits, cb.Zero("mlp_out", layer=0)])
    own = tokens.mask
    assert torch.equal(ours.logits[own], by_hand.logits[own])
    assert torch.equal(ours["resid_post"][:, own], by_hand["resid_post"][:, own])
    assert ours.edited and not torch.equal(ours.logits[own], plain.run(tokens).logits[own])


def test_sweeps(models):
    plain, edited, edits = models
    tokens = plain.tokens(shelf.ids((9, 7)))
    changed = [[(t + 1) % plain.d_vocab if i > 3 else t for i, t in enumerate(row)] for row in shelf.ids((9, 7))]
    for source in (plain.run(changed, read=["resid_post", "z"]), edited.run(changed, read=["resid_post", "z"])):
        variants = [
            cb.Resample("resid_post", source, layer=i, pos=p) for i in range(plain.n_layers) for p in (1, 4, -1)
        ]
        variants += [cb.Resample("z", source, layer=i) for i in range(plain.n_layers)]
        variants += [cb.Zero("embed", pos=2), [cb.Zero("mlp_out", layer=1, pos=3), cb.Zero("z", layer=2, head=0)]]
        swept = edited.sweep(tokens, variants, METRIC)
        by_hand = [METRIC(plain.run(tokens, edits=[*edits, *(v if isinstance(v, list) else [v])])) for v in variants]
        torch.testing.assert_close(torch.tensor(swept.values), torch.stack(by_hand).double(), rtol=1e-9, atol=1e-9)
        base = METRIC(plain.run(tokens, edits=edits)).double()
        torch.testing.assert_close(torch.tensor(swept.clean.values), base, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("metric", [cb.loss(), cb.answer_log_prob([[3, 1], [2, 4]])], ids=["loss", "answer"])
def test_sweeps_of_a_metric_of_all_positions(models, metric):
    """What no variant changes is under the standing edits too, those behind the last layer included."""
    plain = models[0]
    rows = [[*row, *answer] for row, answer in zip(shelf.ids((7, 3)), ([3, 1], [2, 4]), strict=True)]
    edits = [cb.Scale("final_norm", 0.5), cb.Add("logits", 0.5, unit=5), cb.Add("logits", 0.5, unit=[1, 2], pos=0)]
    edits = [edit for edit in edits if edit.site not in plain.anatomy.lacks]
    variants = [cb.Scale("mlp_out", 0.5, layer=1, pos=2), cb.Add("logits", 1.0, unit=3, pos=-1, prompt=1)]
    for side in ("left", "right"):
        tokens = plain.tokens(rows, padding=side)
        swept = torch.tensor(plain.edited(edits).sweep(tokens, variants, metric).values)
        by_hand = torch.stack([metric(plain.run(tokens, edits=[*edits, variant])) for variant in variants])
        torch.testing.assert_close(swept, by_hand.to(swept), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "edit", [cb.Scale("final_norm", 0.5), cb.Add("logits", 1.5, unit=[1, 5])], ids=["norm", "logits"]
)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_what_is_read_through_the_unembedding_is_under_edits_behind_the_last_layer(name, edit):
    edited = shelf.model(name).edited(edit)
    with exact():
        run = edited.run(shelf.ids((6, 6)), read=["resid_post"])
        last = run["resid_post", -1]
        torch.testing.assert_close(unembed(edited.anatomy, last), run.logits, rtol=1e-10, atol=1e-10)
        some = unembed(edited.anatomy, last[0], torch.tensor([5, 2]))
        torch.testing.assert_close(some, run.logits[0][:, [5, 2]], rtol=1e-10, atol=1e-10)
        each = unembed(edited.anatomy, last[1, :2], torch.tensor([[5, 2], [1, 3]]))
        by_hand = run.logits[1, :2].gather(-1, torch.tensor([[5, 2], [1, 3]]))
        torch.testing.assert_close(each, by_hand, rtol=1e-10, atol=1e-10)


def test_edits_of_named_positions_are_refused_where_states_have_none():
    for edit in (cb.Add("logits", 1.0, unit=5, pos=-1), cb.Noise("final_norm", 1.0)):
        edited = shelf.model("llama").edited(edit)
        with pytest.raises(EditError, match="position"):
            logit_lens(edited, shelf.ids((6,)))


def test_generation(models):
    plain, edited, edits = models
    prompts = shelf.ids((6, 5))
    ours = edited.generate(prompts, max_new_tokens=5)
    assert torch.equal(ours.ids, plain.generate(prompts, edits=edits, max_new_tokens=5).ids)


def test_gradients_and_measured_runs(models):
    plain, edited, edits = models
    tokens = plain.tokens(shelf.ids((8,)))
    ours = edited.run(tokens, read=["embed", "mlp_out"], grad=True).grad(METRIC, ["embed", "mlp_out"])
    by_hand = plain.run(tokens, read=["embed", "mlp_out"], edits=edits, grad=True).grad(METRIC, ["embed", "mlp_out"])
    assert torch.equal(ours["embed"], by_hand["embed"]) and torch.equal(ours["mlp_out"], by_hand["mlp_out"])
    value = measured(edited.anatomy, tokens, METRIC)[1]
    torch.testing.assert_close(value, METRIC(plain.run(tokens, edits=edits)), rtol=1e-10, atol=1e-10)


def test_techniques_take_it():
    """Each compared with the same edits made by hand on the way."""
    plain = shelf.model("llama")
    edits = [cb.Zero("z", layer=0, head=1), cb.Scale("mlp_out", 0.5, layer=1)]
    edited = plain.edited(edits)
    clean, corrupt = shelf.ids((7,)), shelf.ids((7,), seed=1)
    with exact():
        patched = patch(edited, clean, corrupt, METRIC, site="resid_post")
        source = plain.run(clean, edits=edits, read=["resid_post"])
        one = METRIC(plain.run(corrupt, edits=[*edits, cb.Resample("resid_post", source, layer=1, pos=3)]))
        losses = ablate(edited, clean, METRIC, components="heads", kind="zero")
        without = METRIC(plain.run(clean, edits=[*edits, cb.Zero("z", layer=1, head=0)]))
        whole = METRIC(plain.run(clean, edits=edits))
        occluded = occlusion(edited, clean, METRIC)
        gradients = integrated_gradients(edited, clean, METRIC, steps=4)
        estimate = attribution_patching(edited, clean, corrupt, METRIC, sites=["mlp_out"])
    cell = patched.patched.sel(layer=1, pos=3) if "patched" in patched else None
    if cell is not None:
        assert float(cell.squeeze()) == pytest.approx(float(one), abs=1e-9)
    loss = losses.sel(component="L1H0")
    assert abs(abs(float(loss.squeeze() if hasattr(loss, "squeeze") else loss)) - abs(float(whole - without))) < 1e-9
    assert occluded.attrs["edits"] == gradients.attrs["edits"] == "Zero z L0H1; Scale mlp_out L1"
    assert estimate is not None and not hasattr(plain.anatomy, "edits")


@pytest.mark.parametrize("site", ["head_out", "attn_out"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gptj"])
def test_a_graph_counts_writes_as_the_stream_has_them(name, site):
    """With all edges patched the other run's metric is there, and first-order scores are those of halved weights."""
    plain = shelf.model(name)
    half = plain.edited(cb.Scale(site, 0.5, layer=1))
    clean, corrupt = shelf.ids((6,)), shelf.ids((6,), seed=9)
    with exact():
        graph = Graph.of(plain.anatomy)
        patched = run_circuit(half, clean, corrupt, METRIC, graph.circuit(torch.zeros_like(graph.exists)))
        assert abs(patched.item() - METRIC(half.run(corrupt)).item()) < 1e-9
        if plain.anatomy.layers[1].attn_post_norm is None:
            scores = edge_attribution(half, clean, corrupt, METRIC)
            with halved(plain.anatomy.layers[1].o, bias=site == "attn_out"):
                expected = edge_attribution(plain, clean, corrupt, METRIC)
            assert np.allclose(scores, expected, atol=1e-10, equal_nan=True) and np.abs(scores).max() > 1e-3


@contextmanager
def halved(module, bias):
    old = {name: x.detach().clone() for name, x in module.named_parameters()}
    with torch.no_grad():
        for name, x in module.named_parameters():
            x *= 1.0 if name == "bias" and not bias else 0.5
    try:
        yield
    finally:
        with torch.no_grad():
            for name, x in module.named_parameters():
                x.copy_(old[name])


EDGES_CHANGE = [
    cb.Scale("resid_post", 0.5, layer=0),
    cb.Zero("mlp_in", layer=1),
    cb.Zero("attn_out", layer=1, pos=-1),
    cb.Scale("attn_norm", 2.0, layer=1),
]


@pytest.mark.parametrize("edit", EDGES_CHANGE, ids=lambda edit: edit.site)
def test_edits_that_change_edges_are_refused_in_graphs(edit):
    model = shelf.model("llama").edited(edit)
    clean, corrupt = shelf.ids((6,)), shelf.ids((6,), seed=9)
    graph = Graph.of(model.anatomy)
    for ask in (
        lambda: edge_attribution(model, clean, corrupt, METRIC),
        lambda: patch_edges(model, clean, corrupt, METRIC),
        lambda: run_circuit(model, clean, corrupt, METRIC, graph.circuit(torch.zeros_like(graph.exists))),
    ):
        with pytest.raises(EditError, match=r"edited"):
            ask()
    steered = shelf.model("llama").edited(cb.Add("resid_post", 0.3, layer=0))
    assert edge_attribution(steered, clean, corrupt, METRIC).notnull().any()


def test_tables_of_tokens_follow_edits_of_what_tokens_are_or_refuse():
    model = shelf.model("llama")
    doubled = model.edited(cb.Scale("embed", 2.0))
    torch.testing.assert_close(doubled.weights.folded().W_E, 2 * model.weights.folded().W_E)
    assert torch.equal(doubled.weights.W_E, model.weights.W_E)
    with pytest.raises(EditError, match="which position"):
        model.edited(cb.Scale("embed", 2.0, pos=1)).weights.folded().W_E  # noqa: B018
    with pytest.raises(EditError, match="embed is edited"):
        copying_scores(doubled)
    for weights in (model.edited(cb.Scale("logits", 2.0)).weights, model.edited(cb.Add("logits", 1.0)).weights):
        with pytest.raises(EditError, match="W_U .* logits is edited"):
            weights.W_U  # noqa: B018


def test_what_a_prompt_is_compared_with_has_the_edits_of_embeddings_too():
    plain = shelf.model("llama")
    edited, prompt = plain.edited(cb.Scale("embed", 0.5)), shelf.ids((6,))
    with exact():
        effects = occlusion(edited, prompt, METRIC, baseline="mean")
        rows = embed_rows(plain)
        mean = 0.5 * rows.mean(0)
        whole = METRIC(edited.run(prompt)).item()
        for pos in range(6):
            without = METRIC(edited.run(prompt, edits=cb.Replace("embed", mean, pos=pos))).item()
            assert abs(effects.isel(pos=pos).item() - (whole - without)) < 1e-9


def embed_rows(model):
    return model.hf.get_input_embeddings().weight.detach().double()


def test_the_model_itself_stays_as_it_is():
    plain = shelf.model("gpt2")
    before = plain.run([1, 2, 3]).logits
    twice = plain.edited(cb.Zero("mlp_out", layer=0)).edited([cb.Zero("z", layer=1)])
    both = plain.run([1, 2, 3], edits=[cb.Zero("mlp_out", layer=0), cb.Zero("z", layer=1)]).logits
    assert torch.equal(twice.run([1, 2, 3]).logits, both)
    assert torch.equal(plain.run([1, 2, 3]).logits, before) and plain.anatomy.standing == ()
    assert "under Zero mlp_out L0; Zero z L1" in repr(twice) and twice.provenance()["edits"]


def test_edits_that_do_not_fit_are_refused():
    model = shelf.model("gpt2")
    with pytest.raises(EditError, match="refers to the unedited run"):
        model.edited(cb.Freeze("z", layer=1))
    with pytest.raises(UnknownSite, match="layer 9 is out of range"):
        model.edited(cb.Zero("z", layer=9))
    with pytest.raises(EditError, match="is not an edit"):
        model.edited(["z"])
    with pytest.raises(OutOfRange, match="position 7 is out of range"):
        model.edited(cb.Zero("z", layer=1, pos=7)).run([1, 2, 3])
