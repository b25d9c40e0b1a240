"""Amnesic probing on planted models: a used feature's erasure is felt, an unused one's is not, and controls are fair."""

from typing import Any

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode import Place, States, read_states
from caseback.decode.erasure import amnesic, inlp, leace, scrub
from caseback.decode.erasure.random_erasers import random_erasers
from caseback.decode.probes import linear_probe
from caseback.errors import CasebackError, OutOfRange
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from exact import exact

D, VOCAB = 24, 40
DRAW = torch.Generator().manual_seed(0)
TEXTS = torch.randint(0, VOCAB, (80, 5), generator=DRAW).tolist()
USED = [text[-1] % 2 for text in TEXTS]
UNUSED = [text[-1] // 2 % 2 for text in TEXTS]


@pytest.fixture(scope="module")
def planted():
    """A decoder without norms. Dimension 0 holds the last token's parity, which the unembedding reads; dimension 1
    whether half of it is even, which nothing behind layer 0 reads or writes."""
    sizes: dict[str, Any] = {
        "hidden_size": D,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    hf: Any = CrystalForCausalLM(CrystalConfig(vocab_size=VOCAB, max_position_embeddings=16, **sizes)).double().eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in hf.parameters():
            p.copy_(0.15 * torch.randn(p.shape, generator=draw, dtype=p.dtype))
        ids = torch.arange(VOCAB)
        embedding = hf.get_input_embeddings().weight
        embedding[:, 0], embedding[:, 1] = 2 * (ids % 2 - 0.5), 2 * (ids // 2 % 2 - 0.5)
        hf.get_output_embeddings().weight[:, 0] = torch.where(ids % 2 == 0, -2.0, 2.0)
        hf.get_output_embeddings().weight[:, 1] = 0
        for name, module in hf.named_modules():
            if name.endswith(("q_proj", "k_proj", "v_proj", "fc_in", "up_proj")):
                module.weight[:, :2] = 0
            if name.endswith(("o_proj", "fc_out", "down_proj")):
                module.weight[:2], module.bias[:2] = 0, 0
    return cb.load(hf)


def parity_gap(model):
    even = torch.arange(VOCAB) % 2 == 0
    return cb.function(lambda x: x[:, ~even].logsumexp(-1) - x[:, even].logsumexp(-1), name="odd over even")


def test_a_used_feature_is_felt_and_a_readable_unused_one_is_not(planted):
    with exact():
        states = read_states(planted, TEXTS, sites="resid_post.0")
        for labels in (USED, UNUSED):
            assert linear_probe(states.x, labels).table.accuracy.item() == 1.0
        exactly = {"shrinkage": False, "svd_tol": 1e-9}
        # along the planted dimension alone: the other dimensions say something of the label too
        for labels, dimension in ((USED, 0), (UNUSED, 1)):
            x = torch.zeros_like(states.x)
            x[..., dimension] = states.x[..., dimension]
            eraser = leace(States(x, states.places, states.prompt), labels, **exactly)
            result = amnesic(planted, TEXTS, labels, eraser, draws=12, pos=-1)
            assert result.attrs["metric"] == "kl" and abs(result.clean).max() < 1e-12
            if labels is USED:
                assert result.effect.item() > 5 * result.high.max() > 0
                assert (result.selectivity > 0.7 * result.effect).all()
                # the label given back restores the whole effect, since the dimension holds nothing else
                assert abs(result.gold_effect).item() < 1e-10
            else:
                assert abs(result.effect).item() < 1e-10 and result.low.min() > 1e-4


def test_controls_remove_as_much_as_is_said(planted):
    with exact():
        states = read_states(planted, TEXTS, sites="resid_post")
        for eraser in (leace(states, USED), inlp(states, USED, above=0.4)):
            result = amnesic(planted, TEXTS, USED, eraser, draws=8, pos=-1)
            removed = (eraser.apply(states.x) - states.x).square().sum(-1).mean(1).sum().item()
            assert np.isclose(result.removed.item(), removed)
            assert np.isclose(result.random_removed.sel(control="equal variance").item(), removed, rtol=1e-6)
            if eraser.method == "leace":
                assert result.random_removed.sel(control="equal rank") < 0.6 * removed
            assert result.random.shape == (1, 2, 8, 80)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_numbers_are_those_of_runs(name, side):
    model = shelf.model(name)
    texts = [text[: 2 + i % 4] for i, text in enumerate(TEXTS[:24])]
    labels = [text[-1] % 2 for text in texts]
    with exact():
        tokens = model.tokens(texts, padding=side)
        states = read_states(model, tokens, sites="resid_post", pos=None)
        of_tokens = [labels[prompt] for prompt in states.prompt]
        whole = leace(states, of_tokens, svd_tol=1e-9)
        erasers = {"all": whole, **whole.each(), "scrubbed": scrub(model, tokens, labels)}
        for metric in (None, cb.loss(), cb.logit(3)) if side == "left" else (cb.logit(3),):
            result = amnesic(model, tokens, labels, erasers, metric, draws=3)
            measure = cb.kl(model.run(tokens)) if metric is None else metric
            assert list(result.variant.values) == list(erasers)
            clean = measure(model.run(tokens))
            assert np.allclose(result.clean, clean, atol=1e-9)
            for variant, eraser in erasers.items():
                wanted = measure(model.run(tokens, edits=eraser.edits()))
                own = result.sel(variant=variant)
                assert np.allclose(own.erased, wanted, atol=1e-8)
                assert np.isclose(own.effect, (wanted - clean).mean(), atol=1e-8)
                middle = own.random_effect.values
                assert np.allclose(middle, (own.random - result.clean).mean(("draw", "batch")), atol=1e-8)
                assert (own.low <= middle).all() and (middle <= own.high).all()
                assert np.allclose(own.selectivity, own.effect.item() - middle)
        again = amnesic(model, tokens, labels, erasers, cb.logit(3), draws=3)
        assert again.equals(result)
        other = amnesic(model, tokens, labels, erasers, cb.logit(3), draws=3, seed=1)
        assert not np.allclose(other.random, result.random) and np.allclose(other.erased, result.erased)


def test_the_label_given_back_keeps_class_means():
    """At the erased place itself: class means are those of the clean run, all else of the erased part is gone."""
    model = shelf.model("gpt2")
    with exact():
        states = read_states(model, TEXTS, sites="resid_post.1")
        labels = ["abc"[i % 3] for i in range(80)]
        eraser = leace(states, labels, shrinkage=False, svd_tol=1e-9)
        gaps = []
        for unit in range(3):
            metric = cb.activation("resid_post", layer=1, unit=unit)
            result = amnesic(model, TEXTS, labels, eraser, metric, draws=2, pos=-1)
            for label in "abc":
                own = [i for i, other in enumerate(labels) if other == label]
                gaps.append(abs(result.gold[0, own].mean() - result.clean[own].mean()).item())
        assert max(gaps) < 1e-9


def test_random_concepts_are_erased_beside_the_concept_and_hold_what_is_asked_for():
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(3, 15, 15, generator=draw, dtype=torch.float64)
    c = mix @ torch.diag_embed(torch.linspace(0.05, 2, 15, dtype=torch.float64)) @ mix.mT
    own = torch.tensor([[1.0, 1, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.float64)
    erased = torch.randn(3, 15, 3, generator=draw, dtype=torch.float64) * own[:, None]
    values = torch.linalg.eigvalsh(c)
    wanted = torch.stack([0.25 * values[0, -3:].sum(), 3 * values[1, 2:4].sum(), torch.tensor(0.0)])

    def held(left, right):
        change = left @ right
        return (change @ c @ change.mT).diagonal(dim1=-2, dim2=-1).sum(-1)

    for examples in (10**9, 20):  # without shrinkage, and with much
        for removed in (wanted, None):
            left, right = random_erasers(c, examples, erased, removed, 200, draw)
            assert left.shape == (200, 3, 15, 3) and right.shape == (200, 3, 3, 15)
            assert torch.allclose(right @ left, torch.diag_embed(own).expand(200, -1, -1, -1), atol=1e-9)
            assert (right @ erased).abs().max() < 1e-8  # no covariance with the concept
            if removed is not None:
                assert torch.allclose(held(left, right), wanted.expand(200, -1), rtol=1e-5)
            assert (left[0, 0] @ right[0, 0] - left[1, 0] @ right[1, 0]).norm() > 0.3
    left, right = random_erasers(torch.eye(15).double().repeat(3, 1, 1), 10**9, erased, None, 50, draw)
    assert torch.allclose(left, right.mT)  # of white states they are uniformly random orthogonal projections
    # the concept may hold more than others of its rank: then these are as many as hold twice as much, or all
    much = torch.stack([values[0, -5:].sum() * 0.45, values[1].sum() * 2, torch.tensor(0.0)])
    left, right = random_erasers(c, 10**9, erased, much, 4, draw)
    ranks = (left.norm(dim=2) > 0).sum(-1)
    assert (ranks[:, 0] > 3).all() and (ranks[:, 1] == 13).all() and (ranks[:, 2] == 0).all()
    assert torch.allclose(held(left, right)[:, 0], much[0], rtol=1e-5)


def test_bad_input_is_refused(planted):
    states = read_states(planted, TEXTS, sites="resid_post.0")
    eraser = leace(states, USED)
    with pytest.raises(OutOfRange, match="draws 1"):
        amnesic(planted, TEXTS, USED, eraser, draws=1)
    with pytest.raises(CasebackError, match="79 labels for 80 prompts"):
        amnesic(planted, TEXTS, USED[:-1], eraser)
    with pytest.raises(CasebackError, match="no eraser is given"):
        amnesic(planted, TEXTS, USED, {})
    with pytest.raises(CasebackError, match="fitted to another model"):
        amnesic(shelf.model("gpt2"), TEXTS, USED, eraser)
    with pytest.raises(CasebackError, match="knows no sites"):
        amnesic(planted, TEXTS, USED, leace(states.x, USED))
    absent = leace(States(states.x, [Place("z", 0, 9)], states.prompt), USED)
    with pytest.raises(CasebackError, match=r"the eraser is of z.0.9, which this model has not"):
        amnesic(planted, TEXTS, USED, absent)
