"""Directions of sums by class: those of the examples, and those of a corpus in one pass."""

from dataclasses import replace

import pytest
import torch

import shelf
from caseback.decode import class_moments, collected_moments, read_states
from caseback.decode.directions import directions_from_moments, find_directions
from caseback.decode.probes.splits import folds
from caseback.errors import CasebackError, OutOfRange
from caseback.stream import collect
from exact import exact

WAYS = ("mean_difference", "lda")


def planted(n=400, d=6):
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (n,), generator=draw)
    mix = torch.randn(2, d, d, generator=draw, dtype=torch.float64)
    x = torch.randn(2, n, d, generator=draw, dtype=torch.float64) @ mix
    return x + y[:, None] * torch.randn(2, 1, d, generator=draw, dtype=torch.float64), y


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("positive", [None, 0])
@pytest.mark.parametrize("way", WAYS)
def test_they_are_what_find_directions_gives_of_the_examples_that_it_does_not_hold_out(way, positive, each):
    x, y = planted()
    theirs = find_directions(x, y, method=way, positive=positive, shrinkage=0.2)
    labels = y.numpy() if positive is None else 1 - y.numpy()
    own = torch.ones(len(y), dtype=torch.bool)
    own[folds(labels, None, 4, 0)[0]] = False
    halves = [class_moments(x[:, own][:, part], y[own][part], each=each) for part in (slice(150), slice(150, None))]
    ours = directions_from_moments(halves[0] + halves[1], method=way, positive=positive, shrinkage=0.2)
    for name in ("detect", "write", "bias"):
        close(getattr(ours, name), getattr(theirs, name))
    for name in ("separation", "cosine"):
        close(torch.from_numpy(ours.table[name].values), torch.from_numpy(theirs.table[name].values))
    assert ours.table.auroc.isnull().all() and ours.best == theirs.names[int(theirs.table.separation.values.argmax())]
    assert ours.classes == theirs.classes and ours.places == theirs.places
    close(ours.norm, x[:, own].square().sum(2).mean(1).sqrt())
    assert ours.table.n_train == theirs.table.n_train == int(own.sum())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_one_pass_over_a_corpus_gives_those_of_all_its_tokens_at_all_layers_and_sites(name, way):
    model, draw = shelf.model(name), torch.Generator().manual_seed(0)
    texts = torch.randint(1, 50, (40, 6), generator=draw)
    which = torch.randint(0, 2, (40,), generator=draw)
    sites = ["resid_post", "attn_out", "mlp_out"]
    with exact():
        corpus = [(text, {"of": int(z)}) for text, z in zip(texts.tolist(), which, strict=True)]
        tables = [{"second_moments": {"site": site, "groups": ["label:of:2"]}} for site in sites]
        collection = collect(model, corpus, tables)
        for number, site in enumerate(sites):
            table = "second_moments" if not number else f"second_moments_{number + 1}"
            ours = directions_from_moments(collected_moments(collection, table=table), method=way)
            states = read_states(model, texts.tolist(), sites=site, pos=None)
            theirs = directions_from_moments(class_moments(states, which[states.prompt]), method=way)
            assert ours.names == states.names and len(ours.names) == model.n_layers
            for part in ("detect", "write", "bias", "norm"):
                torch.testing.assert_close(getattr(ours, part), getattr(theirs, part), rtol=1e-8, atol=1e-8)


def test_what_it_cannot_do_is_refused():
    x, y = planted()
    moments = class_moments(x, y)
    alike = replace(moments, sums=0 * moments.sums, products=0 * moments.products)
    few = class_moments(x[:, :6], [0, 1] * 3)  # two classes' means and six examples span four dimensions
    for match, what, options in (
        ("3 classes: .* expected two", class_moments(x, (torch.arange(len(y)) % 3).tolist()), {}),
        ("no example is of the class 2", class_moments(x, [1] * len(y), classes=[1, 2]), {}),
        ("positive=2 is not among the classes", moments, {"positive": 2}),
        ("not finite", replace(moments, sums=moments.sums * float("nan")), {}),
        ("finds no direction at place.0: the classes are alike", alike, {}),
        ("at 0 is singular .6 examples of width 6.", few, {"method": "lda", "shrinkage": 0.0}),
        ("pca", moments, {"method": "pca"}),
    ):
        with pytest.raises(CasebackError, match=match):
            directions_from_moments(what, **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(OutOfRange, match="shrinkage 2"):
        directions_from_moments(moments, shrinkage=2.0)
