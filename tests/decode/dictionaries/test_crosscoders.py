"""Crosscoders: one source is the plain dictionary; which features are of one source alone, on planted ones."""

from typing import Any

import pytest
import torch
from torch import Tensor

import caseback as cb
import shelf
from caseback.decode.dictionaries import (
    BatchTopK,
    BatchTopKCrosscoder,
    Dictionary,
    Facts,
    JumpReLU,
    JumpReLUCrosscoder,
    Recipe,
    Standard,
    StandardCrosscoder,
    TopK,
    TopKCrosscoder,
    attach,
    feature_words,
    latent_scaling,
    train_dictionaries,
)
from caseback.decode.dictionaries.measures import replacement_measures
from caseback.errors import ArgumentError, CasebackError, OutOfRange, TokensError
from caseback.reports.dictionaries.features import features_document

PAIRS = [
    (Standard, StandardCrosscoder, {}),
    (TopK, TopKCrosscoder, {"k": 3}),
    (BatchTopK, BatchTopKCrosscoder, {"k": 2.5}),
    (JumpReLU, JumpReLUCrosscoder, {"bandwidth": 0.5, "threshold": 0.2, "sparsity": "l0"}),
]


def states(n: int = 64, *more: int) -> Tensor:
    return torch.randn(n, *more, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("normalization", ["none", "scale", "layer_norm", "unit_norm"])
@pytest.mark.parametrize(("kind", "cross", "options"), PAIRS)
def test_of_one_source_it_is_the_plain_dictionary(kind, cross, options, normalization):
    facts = Facts(by_norm=True, normalization=normalization)
    plain = kind(16, 40, facts=facts, seed=2, dtype=torch.float64, **options)
    one = cross(16, 40, n_sources=1, facts=facts, seed=2, dtype=torch.float64, **options)
    x, grads = states(), []
    for each in (plain, one):
        for scale in (each.scale, each.out_scale):
            scale.fill_(0.5)
        own = x if each is plain else x[:, None]
        losses = each.losses(own, coefficient=0.1, dead=torch.arange(40) > 30)
        losses.total.backward()
        grads.append([losses.total.detach(), *(p.grad for p in each.parameters())])
    for got, wanted in zip(*grads, strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(one(x[:, None])[:, 0], plain(x)) and torch.equal(one.encode(x[:, None]), plain.encode(x))


def test_sources_are_normalized_and_restored_each_by_itself():
    one = StandardCrosscoder(16, 64, n_sources=2, facts=Facts(normalization="scale"), dtype=torch.float64)
    for scale in (one.scale, one.out_scale):
        scale.copy_(torch.tensor([[2.0], [0.1]]))
    eye = torch.eye(32, dtype=torch.float64)
    one.W_enc.data = one.W_dec.data = torch.cat([eye, -eye])  # nothing is lost
    x = states(64, 2) * torch.tensor([[1.0], [30.0]]) + 5
    torch.testing.assert_close(one(x), x)
    torch.testing.assert_close(one.norms(), torch.ones(64, dtype=torch.float64))


def test_a_penalty_weighs_a_code_by_the_sum_of_its_norms():
    one = StandardCrosscoder(16, 40, n_sources=2, dtype=torch.float64)
    x = states(64, 2)
    wanted = (one.encode(x) * (one.W_dec[:, :16].norm(dim=1) + one.W_dec[:, 16:].norm(dim=1))).sum(-1).mean()
    torch.testing.assert_close(one.losses(x).penalty, wanted)


def by_hand(rows: list[Tensor], sources: int = 2) -> TopKCrosscoder:
    """A crosscoder with these rows of all sources side by side, which reads what it writes."""
    one = TopKCrosscoder(16, len(rows), n_sources=sources, k=len(rows), dtype=torch.float64)
    one.W_dec.data = torch.stack(rows)
    one.W_enc.data = torch.linalg.pinv(one.W_dec.data).T
    return one


def planted(n: int = 3000) -> tuple[Tensor, Tensor]:
    """Orthonormal directions, and rectified codes of each that are seldom above 0."""
    draw = torch.Generator().manual_seed(1)
    rows = torch.linalg.qr(torch.randn(16, 16, generator=draw, dtype=torch.float64))[0]
    size = 0.5 + torch.rand(n, 16, generator=draw, dtype=torch.float64)
    return rows, size * (torch.rand(n, 16, generator=draw) < 0.17)


def test_coefficients_are_those_of_a_regression():
    """Against least squares, feature by feature, target by target."""
    one, x = TopKCrosscoder(16, 40, n_sources=3, k=4, seed=3, dtype=torch.float64), states(300, 3)
    one.W_dec.data += 0.1 * torch.randn_like(one.W_dec)
    one.b_dec.data.normal_()
    table = latent_scaling(one, [x[:100], x[100:]])
    codes = one.encode(x).detach()
    written = (codes @ one.W_dec).detach().unflatten(-1, (3, 16))
    error = x - one(x).detach()
    for i in (0, 7, 39):
        for row in range(3):
            d = one.rows()[i, row].detach()
            for source in range(3):
                design = (codes[:, i, None] * d).reshape(-1, 1)
                own = codes[:, i, None] * d if source == row else 0.0
                for name, y in (("error", error[:, source] + own), ("reconstruction", written[:, source])):
                    wanted = torch.linalg.lstsq(design, y.reshape(-1, 1)).solution
                    assert float(table[f"beta_{name}"][row, source, i]) == pytest.approx(wanted.item(), abs=1e-10)


def test_a_planted_share_is_found():
    """The concept is in the base at .37 of its strength, and the crosscoder writes nothing there: the error has it."""
    rows, codes = planted()
    noise = 0.05 * torch.randn(3000, 2, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = torch.stack([codes[:, :8] @ rows[:8], codes[:, :8] @ rows[:8]], 1) + noise
    x[:, 0] -= 0.63 * codes[:, :1] * rows[0]
    one = by_hand([torch.cat([torch.zeros(16).double() if i == 0 else rows[i], rows[i]]) for i in range(8)])
    table = latent_scaling(one, x, sources=("base", "chat"))
    assert table.kind.values.tolist() == ["only chat"] + ["shared"] * 7 and int(table.active[0]) > 400
    assert float(table.beta_error.sel(source="chat", source_to="base")[0]) == pytest.approx(0.37, abs=0.005)
    assert float(table.nu_error[0]) == pytest.approx(0.37, abs=0.005) and not table.exclusive[0]


def test_shrinkage_shows_in_the_error_and_decoupling_in_the_reconstruction():
    """Feature 0 is of the chat alone; 1 was cut to 0 in the base; 2 is two features, one of each model."""
    rows, codes = planted()
    chat = codes[:, :6] @ rows[:6]
    base = chat - codes[:, :1] * rows[0]
    none = torch.zeros(16, dtype=torch.float64)
    written = [(none, rows[0]), (none, rows[1]), (none, rows[2]), (rows[2], none)]
    written += [(rows[i], rows[i]) for i in range(3, 6)]
    table = latent_scaling(by_hand([torch.cat(pair) for pair in written]), torch.stack([base, chat], 1))
    only = ["only 1"] * 3 + ["only 0"] + ["shared"] * 3
    assert table.kind.values.tolist() == only
    assert table.exclusive.values.tolist() == [True] + [False] * 6
    assert table.nu_error.values[:3].tolist() == pytest.approx([0, 1, 0], abs=0.05)
    assert table.nu_reconstruction.values[:4].tolist() == pytest.approx([0, 0, 1, 1], abs=0.25)
    assert table.nu_reconstruction.values[0] < 0.25  # codes of other features, by chance at the same tokens
    assert table.delta_norm.values.tolist() == pytest.approx([1, 1, 1, 0, 0.5, 0.5, 0.5])


def test_what_is_no_crosscoders_is_refused():
    one = TopKCrosscoder(16, 40, n_sources=2, k=4)
    with pytest.raises(TokensError, match=r"\(token, 2 sources, 16\)"):
        one.encode(torch.zeros(4, 3, 16))
    with pytest.raises(ArgumentError, match="give no target"):
        one.losses(torch.zeros(4, 2, 16), torch.zeros(4, 2, 16))
    with pytest.raises(ArgumentError, match="skip is for transcoders"):
        TopKCrosscoder(16, 40, n_sources=2, k=4, skip=True)
    with pytest.raises(OutOfRange, match="number of sources is 0"):
        TopKCrosscoder(16, 40, n_sources=0, k=4)
    with pytest.raises(ArgumentError, match="d_out is 8"):
        TopKCrosscoder(16, 40, 8, n_sources=2, k=4)
    for bad, why in (
        ([], "no states"),
        (torch.zeros(0, 2, 16), "no states"),
        (torch.full((4, 2, 16), torch.nan), "not finite"),
    ):
        with pytest.raises(ArgumentError, match=why):
            latent_scaling(one, bad)
    with pytest.raises(ArgumentError, match="2 different names"):
        latent_scaling(one, torch.zeros(4, 2, 16), sources=("a", "a"))
    with pytest.raises(ArgumentError, match="one source"):
        latent_scaling(TopKCrosscoder(16, 40, n_sources=1, k=4), torch.zeros(4, 1, 16))
    plain: Dictionary = TopK(16, 40, k=4)
    with pytest.raises(ArgumentError, match="Crosscoder"):
        latent_scaling(plain, torch.zeros(4, 16))  # pyright: ignore[reportArgumentType]


def test_what_is_of_one_models_sites_refuses_others_in_words():
    model = cb.load("meadow")
    cross = BatchTopKCrosscoder(160, 32, n_sources=2, k=4, facts=Facts(site="resid_post"))
    for work in (
        lambda: attach(model, cross),
        lambda: feature_words(model, cross),
        lambda: features_document(model, cross, ["Mary went to the store."]),
    ):
        with pytest.raises(ArgumentError, match="batch_topk_crosscoder of source 0, source 1: .* has no such sites"):
            work()
    with pytest.raises(ArgumentError, match="batch_topk_crosscoder reads resid_post at once: .* of one site"):
        replacement_measures(model, cross, ["Mary went to the store."])


def test_two_models_are_read_token_by_token(tmp_path):
    """One of them has what it reads at layer 1 at layer 2 twice as long: as given states of both, to the bit."""
    model = cb.load("meadow")
    texts = ["Mary went to the store and John gave a drink to Mary.", "The cat sat. The dogs run to the house."] * 6
    recipe: Any = {"architecture": "topk_crosscoder", "options": {"k": 4}, "width": 64}
    how: Any = {"n_tokens": 300, "step_tokens": 30, "pool_tokens": 100}
    sites = ["base:resid_post.1", "chat:resid_post.2"]
    models = {"base": model, "chat": model}
    (both,) = train_dictionaries(models, texts, Recipe(site=sites, **recipe), checkpoint=tmp_path / "one", **how)
    (one,) = train_dictionaries(model, texts, Recipe(site=["resid_post.1", "resid_post.2"], **recipe), **how)
    for name, value in one.dictionary.state_dict().items():
        assert torch.equal(value, both.dictionary.state_dict()[name]), name
    facts = both.dictionary.facts
    assert facts.provenance["models"] == {"base": "meadow", "chat": "meadow"} and facts.model == ""
    assert [file.name for file in tmp_path.iterdir()] == ["one"]
    with pytest.raises(ArgumentError, match="'resid_post.1' is of no model: expected one of base, chat"):
        train_dictionaries(models, texts, Recipe(site=["resid_post.1", sites[1]], **recipe), **how)
    other = shelf.model("llama")
    with pytest.raises(CasebackError):
        train_dictionaries({"base": model, "chat": other}, texts, Recipe(site=sites, **recipe), **how)
