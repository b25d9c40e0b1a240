"""PRIMER 4.3.18: with M = L scores are uniform over the plausible set; a step by hand; nothing is left on the model."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import contrastive_decoding, dola, logit_lens
from caseback.decode.vocabulary.contrast_decoding import _bucket, _Contrast
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


def published(hf, ids, bucket, penalty, steps, alpha=0.1, with_norm=True):
    """DoLa with plain transformers, greedy: hidden states from the embedding, 0, on; without the norm in its authors'."""
    head, norm = hf.get_output_embeddings(), shelf_norm(hf) if with_norm else torch.nn.Identity()
    for _ in range(steps):
        out = hf(torch.tensor([ids]), output_hidden_states=True)
        log_p = out.logits[0, -1].log_softmax(-1)
        log_qs = [head(norm(out.hidden_states[i][0, -1])).log_softmax(-1) for i in bucket]

        def distance(log_q, log_p=log_p):
            p, q = log_p.exp(), log_q.exp()
            m = (p + q) / 2
            return ((p * (log_p - m.log())).sum() + (q * (log_q - m.log())).sum()) / 2

        scores = log_p - max(log_qs, key=distance)
        scores[log_p.exp() < alpha * log_p.exp().max()] = -torch.inf
        for token in set(ids):
            scores[token] = scores[token] * penalty if scores[token] < 0 else scores[token] / penalty
        ids = [*ids, int(scores.argmax())]
    return ids


def shelf_norm(hf):
    return hf.transformer.ln_f if hasattr(hf, "transformer") else hf.model.norm


def test_4_3_18_candidates_are_read_behind_standing_edits():
    """A vector added behind the first layer is a bias of its MLP's output."""
    model, prompts = shelf.model("gpt2"), shelf.ids((6, 5, 7, 4), seed=2)
    vector = torch.linspace(-2, 2, model.d_model)
    steered, bias = model.edited(cb.Add("resid_post", vector, layer=0)), model.hf.transformer.h[0].mlp.c_proj.bias
    said = [dola(steered, [prompt], layers=[0], max_new_tokens=6).ids[0].tolist() for prompt in prompts]
    own = bias.detach().clone()
    with torch.no_grad():
        bias += vector
    try:
        expected = [dola(model, [prompt], layers=[0], max_new_tokens=6).ids[0].tolist() for prompt in prompts]
    finally:
        with torch.no_grad():
            bias.copy_(own)
    assert said == expected


# (family, bucket, hidden states as published for three layers): gpt2's embeddings are tied, this llama's are not
BUCKETS = [("gpt2", "low", [2]), ("gpt2", "high", [1]), ("llama", "low", [0]), ("llama", "high", [1])]


@pytest.mark.parametrize(("name", "bucket", "states"), BUCKETS)
@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_4_3_18_buckets_and_penalty_are_the_published_ones(name, bucket, states, penalty):
    model = shelf.model(name)
    assert model.n_layers == 3 and model.hf.config.tie_word_embeddings == (name == "gpt2")
    for prompt in shelf.ids((6, 5, 7, 4), seed=2):
        with torch.no_grad():
            expected = published(model.hf, prompt, states, penalty, steps=6)
        ours = dola(model, [prompt], layers=bucket, repetition_penalty=penalty, max_new_tokens=6)
        assert ours.ids[0].tolist() == expected


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_4_3_18_candidates_without_the_final_norm_are_as_in_the_authors_code(name):
    model = shelf.model(name)
    differing = 0
    for prompt in shelf.ids((6, 5, 7, 4), seed=2):
        with torch.no_grad():
            expected = published(model.hf, prompt, [0, 1, 2], 1.2, steps=6, with_norm=False)
        ours = dola(model, [prompt], layers=[-1, 0, 1], norm=False, max_new_tokens=6)
        assert ours.ids[0].tolist() == expected
        differing += dola(model, [prompt], layers=[-1, 0, 1], max_new_tokens=6).ids[0].tolist() != expected
    assert differing  # so the option is heard


@pytest.mark.parametrize(
    ("layers", "tied", "low", "high"),
    [
        (32, False, range(0, 16, 2), range(16, 32, 2)),
        (48, True, range(2, 20, 2), range(28, 48, 2)),
        (80, False, range(0, 20, 2), range(60, 80, 2)),
        (2, True, [1], [1]),
        (1, False, [0], [0]),
    ],
)
def test_the_buckets_of_deep_models(layers, tied, low, high, monkeypatch):
    model = shelf.model("gpt2")
    monkeypatch.setattr(type(model), "n_layers", layers)
    monkeypatch.setattr(model.hf.config, "tie_word_embeddings", tied)
    assert [depth + 1 for depth in _bucket(model, "low")] == list(low)
    assert [depth + 1 for depth in _bucket(model, "high")] == list(high)


def test_the_embedding_is_a_candidate_and_processors_of_ones_own_come_after():
    model = shelf.model("llama")
    prompt = shelf.ids((6,), seed=2)[0]
    with torch.no_grad():
        expected = published(model.hf, prompt, [0], 1.0, steps=3)
    seen = []

    def look(ids, scores):
        seen.append(scores.clone())
        return scores

    ours = dola(model, [prompt], layers=[-1], repetition_penalty=1.0, max_new_tokens=3, logits_processor=[look])
    assert ours.ids[0].tolist() == expected
    assert len(seen) == 3 and all(torch.isneginf(scores).any() for scores in seen)


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
    with pytest.raises(OutOfRange, match="'low', 'high'"):
        dola(model, [[1, 2]], layers="middle")
    with pytest.raises(CasebackError, match="vocabulary"):
        contrastive_decoding(cb.load("meadow"), model, "the cat")
