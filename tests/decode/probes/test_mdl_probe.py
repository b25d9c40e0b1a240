"""Code lengths: against the evidence by integration, on planted labels, and on labels at random."""

import math

import numpy as np
import pytest
import torch

from caseback.decode.probes import mdl_probe
from caseback.decode.probes.codes import PRECISIONS, laplace_bits, variational_bits
from caseback.decode.probes.mdl_probe import PORTIONS, _cuts, _order
from caseback.errors import CasebackError
from caseback.jobs import budget


def concept(n=2048, d=32, seed=0, noise=0.3):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, d, generator=draw, dtype=torch.float64)
    y = x[0] @ torch.randn(d, generator=draw, dtype=torch.float64) / d**0.5 + noise * torch.randn(n, generator=draw)
    return x, (y > 0).tolist()


@pytest.mark.parametrize("code", ["online", "laplace", "variational"])
def test_a_linear_concept_is_compressed_and_labels_at_random_are_not(code):
    x, y = concept()
    table = mdl_probe(x, y, code=code, sites=["concept", "noise"])
    assert table.uniform_bits == 2048
    assert table.compression[0] > 2 and table.bits[0] < 950
    # what a probe of noise costs beyond no probe is its own size and the choice of its precision
    assert 2040 < table.bits[1] < 2140 and (abs(table.shuffled - 1) < 0.05).all()
    assert table.bits_per_example[0] == table.bits[0] / 2048


def evidence(x, y, precision):
    """-log2 of the integral over the weight and the intercept, by sums on a fine grid."""
    x = (x - x.mean()) / (np.sqrt(((x - x.mean()) ** 2).sum() / (len(x) + 2)))  # two examples more stand at the mean
    w, b = np.meshgrid(np.linspace(-12, 12, 481), np.linspace(-8, 8, 321), indexing="ij")
    log = -precision / 2 * w**2 + 0.5 * math.log(precision / (2 * math.pi))
    log += -np.logaddexp(0, -b) - np.logaddexp(0, b)
    for value, label in zip(x, y, strict=True):
        z = w * value + b
        log += -np.logaddexp(0, -z if label else z)
    cell = (w[1, 0] - w[0, 0]) * (b[0, 1] - b[0, 0])
    return -(np.log(np.exp(log - log.max()).sum() * cell) + log.max()) / math.log(2)


def test_laplace_is_the_evidence_and_the_variational_code_lies_above_it():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(1, 120, 1, generator=draw, dtype=torch.float64)
    y = (1.5 * x[0, :, 0] + 0.5 + torch.randn(120, generator=draw) > 0).long()
    ours = laplace_bits(x, y, 2)[:, 0]
    for i, precision in enumerate(PRECISIONS):
        if precision <= 100:
            assert float(ours[i]) == pytest.approx(evidence(x[0, :, 0].numpy(), y.numpy(), precision), abs=0.25)
    best = variational_bits(x, y, 2, 0)[:, 0].min()
    assert -0.5 < float(best - ours.min()) < 3


@pytest.mark.parametrize("code", ["online", "laplace"])
def test_examples_twice_cost_less_than_twice(code):
    x, y = concept(512, 8)
    order = torch.arange(512).repeat(2)
    once = mdl_probe(x, y, code=code)
    twice = mdl_probe(x[:, order], [y[i] for i in order.tolist()], code=code)
    assert twice.bits[0] < 1.85 * once.bits[0] and abs(twice.bits[1] / once.bits[1] - 2) < 0.03


def test_controls_of_many_types_cost_more_than_the_task():
    draw = torch.Generator().manual_seed(2)
    types = torch.randint(0, 200, (1500,), generator=draw)
    vectors = torch.randn(200, 24, generator=draw)
    y = (vectors[:, 0] > 0)[types].tolist()
    table = mdl_probe(vectors[types][None], y, types=types.tolist(), code="laplace")
    assert table.compression[0] > 4 and table.control[0] < 1.5


def test_more_classes_than_two():
    draw = torch.Generator().manual_seed(3)
    y = torch.randint(0, 5, (800,), generator=draw)
    x = torch.randn(1, 800, 10, generator=draw) + 3 * torch.eye(10)[y]
    lengths = {code: mdl_probe(x, y, code=code).bits[0] for code in ("online", "laplace", "variational")}
    assert all(200 < bits < 800 * math.log2(5) / 3 for bits in lengths.values())


def test_whole_groups_are_sent():
    groups = np.repeat(np.arange(30), 7)
    order, ends = _order(groups, 210, np.random.default_rng(0))
    cuts = _cuts(PORTIONS, ends, 210)
    assert cuts[-1] == 210 and all(cut % 7 == 0 for cut in cuts)
    assert all(len(set(part)) == 1 for part in groups[order].reshape(-1, 7))
    # a document's own vector says nothing of documents to come
    draw = torch.Generator().manual_seed(0)
    of = torch.tensor(groups)
    x = torch.randn(30, 16, generator=draw)[of][None] + 0.1 * torch.randn(210, 16, generator=draw)
    y = (torch.rand(30, generator=draw) > 0.5)[of].tolist()
    assert mdl_probe(x, y, groups=groups).compression[0] < 1.1 < 2 < mdl_probe(x, y).compression[0]


def test_codes_of_one_piece_ask_for_no_portions():
    x, y = concept(60, 3)
    for code in ("laplace", "variational"):
        assert mdl_probe(x, y, code=code, groups=[0] * 60).bits.equals(mdl_probe(x, y, code=code).bits)


def test_sites_are_coded_alike_together_and_apart():
    x, y = concept(200, 6)
    for code in ("online", "laplace", "variational"):
        together = mdl_probe(x, y, code=code)
        with budget.override(probe_numbers=1):
            apart = mdl_probe(x, y, code=code)
        np.testing.assert_allclose(together.bits, apart.bits, rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "options", "says"),
    [
        ([1] * 40, {}, "two classes"),
        ([0, 1] * 20, {"portions": (50.0, 20.0, 100.0)}, "portions"),
        ([0, 1] * 20, {"portions": (50.0,)}, "portions"),
        ([0, 1] * 20, {"groups": [0] * 40}, "are one portion"),
        ([0, 1] * 20, {"code": "huffman"}, "code"),
        ([0, 1] * 19, {}, "38 labels for 40 examples"),
    ],
)
def test_what_cannot_be_coded_is_refused_in_words(labels, options, says):
    x = torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(CasebackError, match=says):
        mdl_probe(x, labels, **options)


def test_rows_that_were_sent_before_are_said_and_counted():
    x, y = concept(n=200)
    assert mdl_probe(x, y).attrs["repeated"] == 0
    twice, of_both = torch.cat([x, x], 1), y + y
    with pytest.warns(UserWarning, match="examples are the same as one that was sent before") as said:
        repeated = mdl_probe(twice, of_both, portions=(50, 100)).attrs["repeated"]
    assert said[0].filename == __file__ and 60 < repeated < 140  # half of the pairs are parted by the portions
    groups = list(range(200)) * 2
    assert mdl_probe(twice, of_both, groups=groups, portions=(50, 100)).attrs["repeated"] == 0
    assert mdl_probe(twice, of_both, code="laplace").attrs["repeated"] == 0
