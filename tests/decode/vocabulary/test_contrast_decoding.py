"""PRIMER 4.3.18: with M = L scores are uniform over the plausible set; a step by hand; nothing is left on the model."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import contrastive_decoding, dola, logit_lens
from caseback.decode.vocabulary.contrast_decoding import _Contrast
from caseback.errors import CasebackError, OutOfRange


def test_4_3_18_contrasted_with_itself_every_plausible_word_is_as_good():
    scores = torch.randn(2, 20, generator=torch.Generator().manual_seed(0)) * 2
    made = _Contrast(0.1, lambda ids, log_p: log_p)(torch.zeros(2, 1), scores)
    p = scores.softmax(-1)
    plausible = p >= 0.1 * p.max(-1, keepdim=True).values
    assert plausible.sum() > 3 and not plausible.all()
    assert (made[plausible] == 0).all() and torch.isneginf(made[~plausible]).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_4_3_18_a_step_of_dola_is_as_by_hand(name):
    model = shelf.model(name)
    prompt = shelf.ids((6,), seed=1)[0]
    layers = list(range(model.n_layers - 1))
    said = dola(model, [prompt], layers=layers, max_new_tokens=1, repetition_penalty=1.0)
    lens = logit_lens(model, [prompt], pos=-1, targets=list(range(model.d_vocab)))
    log_p = torch.tensor(lens["logit"].values[-1, 0]).double().log_softmax(-1)
    furthest = lens["js"].sel(layer=[str(i) for i in layers]).values[:, 0].argmax()
    log_q = torch.tensor(lens["logit"].sel(layer=str(layers[furthest])).values[0]).double().log_softmax(-1)
    scores = (log_p - log_q).masked_fill(log_p.exp() < 0.1 * log_p.exp().max(), -torch.inf)
    assert said.ids[0, -1] == scores.argmax()
    assert all(not p.layer._forward_hooks for p in model.anatomy.layers)


def test_4_3_18_a_weaker_model_is_asked_at_every_step_padding_aside():
    strong, weak = shelf.model("gpt2"), cb.load(redrawn(shelf.model("gpt2")))
    prompts = shelf.ids((6, 4), seed=1)
    both = contrastive_decoding(strong, weak, prompts, max_new_tokens=3)
    alone = [contrastive_decoding(strong, weak, [p], max_new_tokens=3).ids[0, len(p) :] for p in prompts]
    for row, expected in zip(both.ids, alone, strict=True):
        assert row[-3:].tolist() == expected.tolist()
    ids = torch.tensor([prompts[0]])
    for step in range(3):
        log_p, log_q = (m.run(ids).logits[0, -1].log_softmax(-1) for m in (strong, weak))
        best = (log_p - log_q).masked_fill(log_p < log_p.max() + torch.log(torch.tensor(0.1)), -torch.inf).argmax()
        assert alone[0][step] == best
        ids = torch.cat([ids, best[None, None]], -1)


def redrawn(model):
    import copy

    from zoo import redraw

    hf = copy.deepcopy(model.hf)
    redraw(hf, seed=7)
    return hf


def test_what_cannot_be_contrasted_is_refused():
    model = shelf.model("gpt2")
    with pytest.raises(OutOfRange, match="alpha"):
        dola(model, [[1, 2]], alpha=0.0)
    with pytest.raises(OutOfRange, match="candidate layers"):
        dola(model, [[1, 2]], layers=[99])
    with pytest.raises(CasebackError, match="vocabulary"):
        contrastive_decoding(cb.load("meadow"), model, "the cat")
