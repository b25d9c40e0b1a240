"""Erasers as edits in models of several families: equal to their application, in every way to run, and in files."""

import json
from functools import partial

import pytest
import torch
from safetensors import safe_open

import caseback as cb
import shelf
from caseback.decode import Place, States, read_states
from caseback.decode.erasure import inlp, leace, load_eraser, oracle_leace, sal, save_eraser, scrub
from caseback.errors import CasebackError, EditError, LoadError
from exact import exact

DRAW = torch.Generator().manual_seed(0)
TEXTS = [torch.randint(1, 50, (int(n),), generator=DRAW).tolist() for n in torch.randint(3, 8, (40,), generator=DRAW)]
LABELS = ["even" if text[0] % 2 else "odd" for text in TEXTS]
EXACT = {"shrinkage": False, "svd_tol": 1e-12}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", shelf.FEW)
def test_edits_are_what_apply_does(name, side):
    model = shelf.model(name)
    with exact():
        tokens = model.tokens(TEXTS, padding=side)
        states = read_states(model, tokens, sites=["resid_post", "mlp_out.0"])
        erasers = [leace(states, LABELS, **EXACT), inlp(states, LABELS, iterations=1, n_folds=2, above=0.9)]
        for eraser in erasers:
            for place, wanted in zip(eraser.places, eraser.apply(states).x, strict=True):
                edit = eraser.each()[str(place)].edits(pos=-1)
                after = read_states(model.edited(edit), tokens, sites=[(place.site, place.layer)])
                assert torch.allclose(after.x[0], wanted, atol=1e-9)
        oracle = oracle_leace(states, LABELS, svd_tol=1e-9)
        wanted = oracle.apply(states, LABELS).x
        last = oracle.edits(LABELS, pos=-1)[model.n_layers - 1]
        run = model.run(tokens, edits=last, read=["resid_post"])
        columns = tokens.column(-1)
        assert torch.allclose(
            run["resid_post", model.n_layers - 1][torch.arange(len(TEXTS)), columns],
            wanted[model.n_layers - 1],
            atol=1e-9,
        )


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gptj"])
def test_heads_are_places(name):
    model = shelf.model(name)
    with exact():
        states = read_states(model, TEXTS, sites="z.1")
        eraser = leace(states, LABELS, **EXACT)
        after = read_states(model.edited(eraser.edits(pos=-1)), TEXTS, sites="z.1")
        assert len(after.places) == model.n_heads
        assert torch.allclose(after.x, eraser.apply(states).x, atol=1e-9)
        for head in range(model.n_heads):
            oracle = oracle_leace(States(states.x[head : head + 1], [Place("z", 1, head)], states.prompt), LABELS)
            one = read_states(model.edited(oracle.edits(LABELS, pos=-1)), TEXTS, sites="z.1", batch_tokens=10**6)
            assert one.x.shape == states.x.shape


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral"])
def test_a_sweep_and_decoding_are_under_the_same_edits(name):
    model = shelf.model(name)
    with exact():
        tokens = model.tokens(TEXTS[:5])
        eraser = leace(read_states(model, TEXTS, sites="resid_post"), LABELS, **EXACT)
        metric = cb.logit(7)
        variants = [eraser.edits(), eraser.edits(pos=-1), eraser.edits(prompt=[1, 3])]
        oracle = oracle_leace(read_states(model, TEXTS, sites="resid_post.0"), LABELS)
        variants += [oracle.edits(LABELS[:5]), oracle.edits(LABELS[:5], pos=-1)]
        swept = torch.as_tensor(model.sweep(tokens, variants, metric).values)
        for values, edits in zip(swept, variants, strict=True):
            assert torch.allclose(values, metric(model.run(tokens, edits=edits)), atol=1e-8)
        decoded = model.generate(tokens, edits=eraser.edits(), max_new_tokens=3)
        whole = model.edited(eraser.edits())
        for b in range(5):
            ids = TEXTS[b]
            for _ in range(3):
                ids = [*ids, int(whole.run([ids]).logits[0, -1].argmax())]
            assert decoded.ids[b][decoded.mask[b]].tolist() == ids


@pytest.mark.parametrize("name", ["gpt2", "llama", "gptj", "gemma2", "bloom"])
def test_scrubbing_leaves_nothing_at_any_layer_where_one_eraser_does_not_suffice(name):
    model = shelf.model(name)
    z = torch.tensor([label == "odd" for label in LABELS]).double()

    def left(edits, pos, sites):
        states = read_states(model.edited(edits), TEXTS, sites=sites, pos=pos)
        of = z[states.prompt]
        x = states.x - states.x.mean(1, keepdim=True)
        return (x.mT @ (of - of.mean())).norm(dim=1) / len(of)

    with exact():
        for pos, sites in ((-1, ["resid_post"]), (None, ["embed", "attn_out", "mlp_out", "resid_post"])):
            clean = left([], pos, sites)
            scrubbed = scrub(model, TEXTS, LABELS, sites=sites, pos=pos, fit=partial(leace, **EXACT))
            assert left(scrubbed.edits(pos), pos, sites).max() < 1e-10 < 1e-3 < clean[-1]
            single = leace(read_states(model, TEXTS, sites="resid_post.0"), LABELS, **EXACT)
            after = left(single.edits(-1), -1, "resid_post")
            assert after[0] < 1e-10 and after[-1] > 1e-3
            # all fitted to the clean run do not fit the run in which all are put
            at_once = leace(read_states(model, TEXTS, sites=sites, pos=pos), _of_each(TEXTS, pos), **EXACT)
            assert left(at_once.edits(pos), pos, sites).max() > 1e-3
        order = [
            "embed",
            *(f"{site}.{i}" for i in range(model.n_layers) for site in ("attn_out", "mlp_out", "resid_post")),
        ]
        assert sorted(scrubbed.names) == sorted(order) and scrubbed.names[0] == "embed"
        assert scrubbed.method == "scrubbed by leace"


def _of_each(texts, pos):
    return [label for text, label in zip(texts, LABELS, strict=True) for _ in (text if pos is None else [0])]


def test_labels_may_be_of_positions_and_others_are_refused():
    model = shelf.model("gpt2")
    each = _of_each(TEXTS, None)
    assert scrub(model, TEXTS, each, sites="resid_post.0").rank == 1
    with pytest.raises(CasebackError, match=f"39 labels for 40 prompts with {len(each)} positions"):
        scrub(model, TEXTS, LABELS[:39], sites="resid_post.0")
    with pytest.raises(CasebackError, match="when transformer.h.0.mlp.output is computed"):
        scrub(model, TEXTS, LABELS, sites=["transformer.h.0.mlp.output"])
    with pytest.raises(CasebackError, match="fit gave a float"):
        scrub(model, TEXTS, LABELS, sites="resid_post.0", fit=lambda states, labels: 1.0)
    with pytest.raises(CasebackError, match="no sites"):
        scrub(model, TEXTS, LABELS, sites=[])


@pytest.mark.parametrize("affine", [True, False])
def test_a_file_gives_the_same_eraser(tmp_path, affine):
    model = shelf.model("gpt2")
    eraser = sal(read_states(model, TEXTS), LABELS, affine=affine)
    save_eraser(eraser, tmp_path / "a.safetensors", model=model)
    again = load_eraser(tmp_path / "a.safetensors", model)
    assert torch.equal(again.proj_left, eraser.proj_left) and torch.equal(again.proj_right, eraser.proj_right)
    assert again.places == eraser.places and again.classes == ["even", "odd"] and again.checks == eraser.checks
    if eraser.mean is None or again.mean is None:
        assert again.mean is eraser.mean
    else:
        assert torch.equal(again.mean, eraser.mean)
    assert repr(again) == repr(eraser) and again.provenance["n"] == 40 and "model" in again.provenance
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        facts = file.metadata()
    assert json.loads(facts["places"])[0] == ["resid_post", 0, None] and facts["method"] == "sal"


def test_files_that_do_not_fit_are_refused(tmp_path):
    model = shelf.model("gpt2")
    x = torch.randn(40, 7)
    narrow = leace(States(x[None], [Place("resid_post", 0)], torch.arange(40)), LABELS, svd_tol=1e-9)
    save_eraser(narrow, tmp_path / "a")
    assert load_eraser(tmp_path / "a").rank == 1
    with pytest.raises(LoadError, match="is of width 7: resid_post.0"):
        load_eraser(tmp_path / "a", model)
    with pytest.raises(EditError, match="width 7"):
        model.run(TEXTS, edits=narrow.edits())
    deep = leace(States(x[None], [Place("resid_post", 99)], torch.arange(40)), LABELS, svd_tol=1e-9)
    save_eraser(deep, tmp_path / "b")
    with pytest.raises(LoadError, match="is of another model"):
        load_eraser(tmp_path / "b", model)
    cb.save_edits(cb.Zero("z", layer=0), tmp_path / "c")
    with pytest.raises(LoadError, match="load_edits reads it"):
        load_eraser(tmp_path / "c")
    save_eraser(leace(x, LABELS, svd_tol=1e-9), tmp_path / "d")
    with pytest.raises(LoadError, match="no places of a model"):
        load_eraser(tmp_path / "d", model)
    with pytest.raises(CasebackError, match="no JSON data"):
        save_eraser(leace(x, [1.0 if i % 2 else float("inf") for i in range(40)], svd_tol=1e-9), tmp_path / "e")


def test_states_of_other_places_are_refused():
    model = shelf.model("gpt2")
    eraser = leace(read_states(model, TEXTS, sites="resid_post.0"), LABELS)
    with pytest.raises(CasebackError, match="states of resid_post.1"):
        eraser.apply(read_states(model, TEXTS, sites="resid_post.1"))
