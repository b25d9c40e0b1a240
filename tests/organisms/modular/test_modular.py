"""The grokking run: its short cut is the model, its measures are what they say, an interrupted run goes on."""

import math
from types import SimpleNamespace

import pytest
import torch

import caseback as cb
from caseback.errors import CasebackError
from caseback.jobs.budget import override
from caseback.organisms import path
from caseback.organisms.compiled.modular_addition import modular_addition
from caseback.organisms.modular import fourier
from caseback.organisms.modular.addition import all_pairs, answers, last_logits, new_model, split, tokenizer
from caseback.organisms.modular.algorithm import (
    active_neurons,
    distance_irrelevance,
    formula_share,
    gradient_symmetry,
    single_frequency,
)
from caseback.organisms.modular.card import card
from caseback.organisms.modular.progress import phases, progress
from caseback.organisms.modular.train import train

P = 13


def test_the_short_cut_gives_the_models_own_logits():
    drawn = torch.get_rng_state()
    model = new_model(P, seed=3).double()
    assert torch.equal(torch.get_rng_state(), drawn)
    ids = all_pairs(P)
    torch.testing.assert_close(last_logits(model, ids), model(ids).logits[:, -1], rtol=1e-12, atol=1e-12)


def test_pairs_answers_and_their_split():
    ids, right = all_pairs(P), answers(P)
    assert ids[5 * P + 9].tolist() == [5, 9, P] and right[5 * P + 9] == 1
    train_rows, test_rows = split(P, 0.4, seed=0)
    assert len(train_rows) == int(0.4 * P * P)
    assert sorted([*train_rows.tolist(), *test_rows.tolist()]) == list(range(P * P))
    assert not torch.equal(train_rows, split(P, 0.4, seed=1)[0])
    for share in (0.0, 1.0):
        with pytest.raises(CasebackError, match="nothing to t"):
            split(P, share, seed=0)
    assert tokenizer(P)("5 9 =")["input_ids"] == [5, 9, P]


def test_5_4_17_a_sum_of_cosines_is_right_everywhere_and_lies_in_its_frequencies():
    a, b = all_pairs(P)[:, 0], all_pairs(P)[:, 1]
    keys = [1, 4, 5]
    angle = 2 * math.pi / P * torch.tensor(keys, dtype=torch.float64)
    logits = torch.cos(angle * ((a + b)[:, None] - torch.arange(P))[..., None]).sum(-1)
    assert torch.equal(logits.argmax(-1), answers(P))
    assert fourier.key_frequencies(logits, P) == keys
    held = fourier.energy(logits, P)
    torch.testing.assert_close(held[[0, 3, 4]], torch.full((3,), 1 / 3, dtype=torch.float64))
    torch.testing.assert_close(fourier.restricted(logits, P, keys), logits)
    left = fourier.excluded(logits, P, keys)
    torch.testing.assert_close(left, torch.zeros_like(left))
    # without its frequencies nothing is left to tell answers apart
    assert fourier.loss(10 * left, answers(P)) == pytest.approx(math.log(P))


def test_5_4_17_what_is_known_by_heart_lies_in_no_frequency():
    noise = torch.randn(P * P, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_heart = noise.scatter(1, answers(P)[:, None], float(noise.max()) + 5)[torch.randperm(P * P)]
    shuffled_right = by_heart.argmax(-1)
    keys = fourier.key_frequencies(by_heart, P)
    assert fourier.loss(by_heart, shuffled_right) < 0.1
    assert fourier.loss(fourier.restricted(by_heart, P, keys), shuffled_right) > 1.5
    assert fourier.loss(fourier.excluded(by_heart, P, keys), shuffled_right) < 1.0


def test_restricted_and_excluded_parts_make_the_whole():
    logits = torch.randn(P * P, P, dtype=torch.float64)
    parts = fourier.restricted(logits, P, [2, 3]) + fourier.excluded(logits, P, [2, 3])
    torch.testing.assert_close(parts, logits + logits.mean(0))


def test_the_gini_coefficient():
    assert fourier.gini(torch.ones(7)) == pytest.approx(0)
    assert fourier.gini(torch.tensor([0.0, 0, 0, 0, 3])) == pytest.approx(0.8)


def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path):
    said = []
    whole = train(tmp_path / "whole", seed=1, steps=6, p=7, share=0.5, save_every=3)
    train(tmp_path / "parts", seed=1, steps=6, stop_at=3, p=7, share=0.5, save_every=3)
    parts = train(tmp_path / "parts", seed=1, steps=6, p=7, share=0.5, tell=lambda *told: said.append(told))
    assert [done for done, *_ in said] == [4, 5, 6] and "held-out accuracy" in said[-1][2]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
    assert sorted(part.name for part in (tmp_path / "parts" / "checkpoints").iterdir()) == ["step-0"]
    assert cb.load(tmp_path / "parts").declared


def test_a_state_of_another_model_is_refused(tmp_path):
    train(tmp_path, steps=2, p=7, share=0.5)
    with pytest.raises(CasebackError, match="is of another model"):
        train(tmp_path, steps=2, p=11, share=0.5)


def test_5_4_17_the_bundled_run_memorises_then_forms_its_circuit_then_cleans_up():
    told = progress(path("grokking"))
    reached = phases(told)
    assert reached["memorised"] < reached["formed"] < reached["cleaned up"]
    keys = told.attrs["key_frequencies"]
    assert len(keys) <= 6
    at = told.sel(step=reached["memorised"])
    # known by heart: right where it was trained, worse than chance elsewhere, and in no need of the key frequencies
    assert at.train_loss < 0.01 and at.test_loss > math.log(53) and at.excluded_loss < 1
    last = told.isel(step=-1)
    assert last.test_accuracy == 1 and last.restricted_loss < 0.01 and last.excluded_loss > math.log(53)
    assert last.gini > 2 * float(at.gini)
    # what has grokked is a clock: neurons of one frequency each, and fewer do than of what was known by heart
    assert last.gradient_symmetry < 0.5 < 0.8 < last.distance_irrelevance
    assert last.formula_share > 0.6 > 0.2 > at.formula_share and last.single_neurons > 0.8 > 0.1 > at.single_neurons
    assert last.active_at_random < 400 < at.active_at_random and last.efficiency > 2 * at.efficiency
    # the card says what is measured
    row = f"| {int(last.step):,} |"
    assert row in (path("grokking") / "README.md").read_text(encoding="utf-8") and row in card(told)


def test_the_bundled_model_adds_and_its_frequencies_are_read_from_its_weights():
    model = cb.load("grokking")
    logits = model.run(all_pairs(53)).logits[:, -1]
    assert torch.equal(logits.argmax(-1), answers(53))
    assert model.tokenizer.decode(model.run("30 40 =").logits[0, -1].argmax()) == "17"
    keys = fourier.key_frequencies(logits, 53)
    spectrum = torch.fft.rfft(model.weights.W_E[:53].double(), dim=0).abs().square().sum(-1)[1:]
    assert set(keys) <= set((spectrum.topk(6).indices + 1).tolist())


@pytest.mark.parametrize("algorithm", ["clock", "pizza"])
def test_5_4_17_clock_and_pizza_are_told_apart(algorithm):
    """Of the written models both measures are known: gradients at angle w (a - b), or the same; logits, too."""
    organism = modular_addition(P, 3, algorithm=algorithm)
    hf = organism.model.hf.double()
    a, b = all_pairs(P)[:, 0], all_pairs(P)[:, 1]
    ids = torch.stack([torch.zeros_like(a), a + 1, b + 1, torch.full_like(a, P + 1)], 1)
    logits = hf(ids).logits[:, -1, 1 : P + 1]
    right = logits.gather(1, answers(P)[:, None])[:, 0]
    irrelevance = distance_irrelevance(right, P)
    if algorithm == "pizza":
        assert irrelevance == pytest.approx(0, abs=1e-5)
        return
    asked = torch.randint(1, P + 1, (len(a),), generator=torch.Generator().manual_seed(0))
    keys = torch.tensor(organism.circuit.about["frequencies"])
    turned = (2 * math.pi / P * keys[:, None] * (a - b)).double().cos()
    assert gradient_symmetry(hf, ids, asked) == pytest.approx(float(turned.mean()), abs=1e-6) and irrelevance == 1
    assert formula_share(logits, P) == pytest.approx(1)


def test_5_4_17_what_reads_the_sum_of_two_embeddings_has_like_gradients():
    class Sum(torch.nn.Module):
        """Reads the embeddings' sum, or each by a sign of its own."""

        def __init__(self, sign: float):
            super().__init__()
            self.embed, self.read, self.sign = torch.nn.Embedding(9, 5), torch.nn.Linear(5, 9), sign

        def get_input_embeddings(self):
            return self.embed

        def forward(self, inputs_embeds):
            x = inputs_embeds[:, -3] + self.sign * inputs_embeds[:, -2]
            return SimpleNamespace(logits=self.read(x.square())[:, None])

    ids = torch.tensor([[i % 9, (i + 1 + i // 9) % 9, 0] for i in range(20)])
    for sign in (1.0, -1.0):
        assert gradient_symmetry(Sum(sign), ids, ids[:, 0]) == pytest.approx(sign)


def test_5_4_17_neurons_of_one_frequency_and_the_fewest_that_answer():
    a, b = (all_pairs(P)[:, i].double() for i in (0, 1))
    one = (2 * math.pi / P * 3 * a).cos() * (2 * math.pi / P * 3 * b).sin()
    two = (2 * math.pi / P * (3 * a + 3 * b)).cos() + (2 * math.pi / P * 5 * a).cos()
    shares = single_frequency(torch.stack([one, two, 4 + one], 1), P)
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.5, 1.0], dtype=torch.float64))
    # two neurons decide, and the others only add noise that is too small to matter
    rng = torch.Generator().manual_seed(0)
    neurons = torch.randn(50, 9, generator=rng)
    writes = 1e-4 * torch.randn(9, 4, generator=rng)
    writes[[2, 5]] = torch.tensor([[5.0, -5, 0, 0], [0, 0, 5, -5]])
    rest = torch.zeros(50, 4)
    order = torch.tensor([2, 5, 0, 1, 3, 4, 6, 7, 8])
    alone = [(neurons[:, order[:k]] @ writes[order[:k]]).argmax(-1) for k in range(10)]
    share = [(one == alone[-1]).double().mean() for one in alone]
    with override(neuron_numbers=400):
        assert active_neurons(rest, neurons, writes, order) == 2 == next(k for k, s in enumerate(share) if s >= 0.99)
        assert active_neurons(rest, neurons, writes, order.flip(0)) == 9


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(CasebackError, match="has no checkpoints"):
        progress(tmp_path)
