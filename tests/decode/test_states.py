"""States of several places read in one pass, and moments of them, against runs one prompt at a time."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode import Place, class_moments, collected_moments, read_gradients, read_states
from caseback.decode.erasure import leace
from caseback.decode.states import read_means
from caseback.errors import CasebackError
from caseback.stream import collect
from exact import exact

TEXTS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2], [8, 3], [6, 6, 1, 2, 9]]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", shelf.FEW)
def test_every_place_is_that_of_a_run_alone(name, side):
    model = shelf.model(name)
    with exact():
        runs = [model.run(text, read=["resid_post", "embed", "z"]) for text in TEXTS]
        tokens = model.tokens(TEXTS, padding=side)
        for budget in (None, 7):
            states = read_states(model, tokens, sites=["embed", "resid_post"], batch_tokens=budget)
            assert states.names == ["embed", *(f"resid_post.{i}" for i in range(model.n_layers))]
            for b, run in enumerate(runs):
                wanted = torch.stack([run["embed"][0, -1], *run["resid_post"][:, 0, -1]])
                assert torch.allclose(states.x[:, b], wanted, atol=1e-10)
        heads = read_states(model, tokens, sites=["z.1"], pos=torch.tensor([3, 5, 1, 0]))
        assert heads.places == [Place("z", 1, head) for head in range(model.n_heads)]
        for b, at in enumerate([3, 5, 1, 0]):
            assert torch.allclose(heads.x[:, b], runs[b]["z", 1][0, at], atol=1e-10)


def test_several_positions_are_examples_or_their_mean():
    model = shelf.model("gpt2")
    with exact():
        runs = [model.run(text, read=["mlp_out"])["mlp_out", 0][0] for text in TEXTS]
        each = read_states(model, TEXTS, sites="mlp_out.0", pos=slice(1, None), batch_tokens=8)
        assert torch.allclose(each.x[0], torch.cat([run[1:] for run in runs]), atol=1e-12)
        assert each.prompt.tolist() == [0] * 3 + [1] * 5 + [2] + [3] * 4
        mean = read_states(model, TEXTS, sites="mlp_out.0", pos=slice(3, None), reduce="mean", batch_tokens=8)
        assert mean.prompt.tolist() == [0, 1, 3]  # the third has no such position
        wanted = torch.stack([runs[i][3:].mean(0) for i in (0, 1, 3)])
        assert torch.allclose(mean.x[0], wanted, atol=1e-12)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"sites": ["pattern"]}, "has no vector at each token"),
        ({"sites": ["resid_post.0", "mlp_post.0"]}, "sites of several widths"),
        ({"sites": []}, "no sites are given"),
        ({"pos": slice(50, None)}, "nothing is read"),
        ({"pos": 4}, "position 4 is out of range: prompt"),
        ({"sites": "resid_pots"}, "no site is called"),
    ],
)
def test_what_cannot_be_read_is_refused(options, words):
    with pytest.raises(CasebackError, match=words):
        read_states(shelf.model("gpt2"), TEXTS, **options)


def test_moments_are_their_definitions_and_parts_add_up():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 60, 5, generator=draw, dtype=torch.float64) + 4
    y = [("a", "b", "c")[i % 3 if i < 40 else 0] for i in range(60)]
    for each in (False, True):
        whole = class_moments(x, y, each=each)
        some = [
            class_moments(x[:, part], y[part], each=each, classes=list("abc")) for part in (slice(20), slice(20, 60))
        ]
        both = some[0] + some[1]
        is_class = np.array([[label == c for c in "abc"] for label in y], dtype=float)
        for place in range(3):
            data = x[place].numpy()
            covariance = np.cov(data.T, bias=True)
            cross = (data - data.mean(0)).T @ (is_class - is_class.mean(0)) / 60
            within = sum(np.cov(data[is_class[:, c] == 1].T, bias=True) * is_class[:, c].mean() for c in range(3))
            for moments in (whole, both):
                np.testing.assert_allclose(moments.covariance[place], covariance, atol=1e-12)
                np.testing.assert_allclose(moments.cross_covariance[place], cross, atol=1e-12)
                np.testing.assert_allclose(moments.within[place], within, atol=1e-12)
                np.testing.assert_allclose(moments.means[place, 1], data[is_class[:, 1] == 1].mean(0), atol=1e-12)
                if each:
                    own = np.cov(data[is_class[:, 2] == 1].T, bias=True)
                    np.testing.assert_allclose(moments.class_covariances[place, 2], own, atol=1e-12)
    with pytest.raises(CasebackError, match="each=True"):
        _ = class_moments(x, y).class_covariances
    with pytest.raises(CasebackError, match="do not add up"):
        _ = class_moments(x, y) + class_moments(x[:, :4], ["a", "b", "a", "b"])
    with pytest.raises(CasebackError, match="'c' is not among the classes"):
        class_moments(x, y, classes=["a", "b"])


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_a_pass_over_a_corpus_leaves_the_moments_of_its_labels_for_several_sites(name):
    model, draw = shelf.model(name), torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 50, (9,), generator=draw).tolist() for _ in range(12)]
    labels = [torch.randint(-1, 2, (9,), generator=draw).tolist() for _ in range(12)]  # -1: no label
    sites = ("resid_post", "attn_out")
    tables = [{"second_moments": {"site": site, "groups": ["label:kind:2"]}} for site in sites]
    corpus = [(row, {"kind": own}) for row, own in zip(rows, labels, strict=True)]
    y = np.array(labels).flatten()
    with exact():
        collection = collect(model, corpus, tables, bos=False, batch_tokens=30)
        for site, table in zip(sites, ("second_moments", "second_moments_2"), strict=True):
            states = read_states(model, rows, sites=site, pos=None)
            moments = collected_moments(collection, table=table)
            wanted = class_moments(states.x[:, y >= 0], y[y >= 0])
            assert moments.places == states.places and moments.classes == ["kind 0", "kind 1"]
            for part in ("counts", "sums", "products", "within"):
                torch.testing.assert_close(getattr(moments, part), getattr(wanted, part), rtol=1e-12, atol=1e-12)
            ours, theirs = leace(moments), leace(wanted)
            torch.testing.assert_close(ours.proj_left @ ours.proj_right, theirs.proj_left @ theirs.proj_right)
    with pytest.raises(CasebackError, match="1 classes for 2 groups"):
        collected_moments(collection, classes=["a"])
    shared = collect(model, corpus, [{"second_moments": {"groups": ["any", "label:kind:2"]}}, "stream_moments"])
    with pytest.raises(CasebackError, match="share tokens"):
        collected_moments(shared)
    with pytest.raises(CasebackError, match="no moments by class"):
        collected_moments(shared, table="stream_moments")
    with pytest.raises(CasebackError, match="no table 'moments' was collected"):
        collected_moments(shared, table="moments")
    with pytest.raises(CasebackError, match="no groups of tokens are called 'labels'"):
        collect(model, corpus, [{"second_moments": {"groups": ["labels"]}}])


def test_half_precision_is_read_wide():
    model = cb.load("meadow")
    assert read_states(model, ["the cat sat"], sites="resid_post.1").x.dtype == torch.float32


@pytest.mark.parametrize("side", ["left", "right"])
def test_gradients_are_those_of_a_run_alone(side):
    model = shelf.model("llama")
    with exact():
        tokens, targets = model.tokens(TEXTS, padding=side), [3, 5, 7, 9]
        read = read_gradients(model, tokens, cb.logit(targets), sites=["resid_post", "embed"], batch_tokens=8)
        for b, (text, target) in enumerate(zip(TEXTS, targets, strict=True)):
            run = model.run(text, read=["resid_post", "embed"], grad=True)
            alone = run.grad(cb.logit(target), ["resid_post", "embed"])
            wanted = torch.stack([*alone["resid_post"][:, 0, -1], alone["embed"][0, -1]])
            assert torch.allclose(read.x[:, b], wanted, atol=1e-10)


def test_a_mean_is_without_a_first_token_that_is_a_sink():
    """Of a long first state a text's mean would have the direction and the length, and steering by it its strength."""
    model = cb.load("meadow").edited([cb.Add("resid_post", torch.full((160,), 300.0), layer=1, pos=0)])
    texts = [[5, 1, 2], [8], [6, 7, 2, 1]]
    states = read_means(model, texts, "resid_post.1")
    assert states.prompt.tolist() == [0, 1, 2]
    for i, text in enumerate(texts):
        x = model.run(text, read=["resid_post"])["resid_post", 1][0]
        torch.testing.assert_close(states.x[0, i], x[min(1, len(x) - 1) :].mean(0), rtol=0, atol=1e-4)
    assert float(states.x[0, [0, 2]].norm(dim=1).max()) < 100 < float(states.x[0, 1].norm())
