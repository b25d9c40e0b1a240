"""Exact search, its marks, the mixing buffer and sources of activations, against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import caseback as cb
import shelf
from caseback.errors import LoadError, OutOfRange
from caseback.jobs import budget
from caseback.stream import collect, from_model, from_store, in_common, mixed, nearest
from caseback.stream.documents import documents
from caseback.stream.packing import blocks_of, rows_of

TEXTS = [
    f"{name} went to the {place} ." for name in ("Mary", "John", "Tom") for place in ("store", "park", "school")
] * 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    model = cb.load("meadow")
    folder = tmp_path_factory.mktemp("store")
    options = {"activations": ["resid_post.1", "z.0"], "folder": folder, "shard_tokens": 40}
    return collect(model, TEXTS, **options).store("resid_post.1")


@pytest.mark.parametrize("measure", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("skip", [0, 2])
def test_the_nearest_are_those_of_a_full_sort(store, measure, skip):
    x = store.at(torch.arange(store.n_tokens))
    pos = store.at(torch.arange(store.n_tokens), name="pos")
    wanted = x[[5, 9, 30]] + 0.1
    for numbers in (10**4, 10**7):
        with budget.override(nearest_numbers=numbers):
            found = nearest(store, wanted, top=6, measure=measure, skip=skip)
        for query, v in enumerate(wanted):
            scores = {
                "cosine": [float(torch.cosine_similarity(row, v, dim=0)) for row in x],
                "dot": [float(row @ v) for row in x],
                "euclidean": [-float((row - v).norm()) for row in x],
            }[measure]
            best = sorted((i for i in range(len(x)) if pos[i] >= skip), key=lambda i: -scores[i])[:6]
            np.testing.assert_allclose(found[query], [scores[i] for i in best], rtol=2e-4, atol=1e-4)
            assert all(
                abs(scores[i] - scores[j]) < 1e-3 * max(1, abs(scores[j]))
                for i, j in zip(found.place.values[query], best, strict=True)
            )


def test_small_distances_of_large_states_are_exact_however_many_are_asked_for(tmp_path):
    model = cb.load("meadow")
    model = model.edited([cb.Add("resid_post", torch.full((160,), 300.0), layer=1)])
    store = collect(model, TEXTS, activations=["resid_post.1"], folder=tmp_path).store("resid_post.1")
    x = store.at(torch.arange(store.n_tokens))
    for n in (1, 60):  # torch's own choice is products from 26 rows on either side on
        wanted = x[:n] + 1e-2 * torch.randn(n, 160, generator=torch.Generator().manual_seed(0))
        exact = (wanted[:, None].double() - x[None].double()).norm(dim=-1)
        found = nearest(store, wanted, top=1, measure="euclidean")
        np.testing.assert_allclose(-found.values[:, 0], exact.min(1).values, rtol=1e-3)
        by_place = exact.gather(1, torch.tensor(found.place.values))[:, 0]
        np.testing.assert_allclose(by_place, exact.min(1).values, rtol=1e-3)


def test_equal_ones_come_in_the_order_of_the_corpus(store):
    places = nearest(store, store.at([4])[0], top=9).place.values[0].tolist()
    same = [place for place in places if torch.allclose(store.at([place]), store.at([4]))]
    assert same == sorted(same) and len(same) > 2


def test_what_contexts_have_in_common_is_counted(store):
    model = cb.load("meadow")
    name = int(model.tokenizer(" Tom", add_special_tokens=False)["input_ids"][0])
    ids = store.at(torch.arange(store.n_tokens), name="ids")
    at = int((ids == name).nonzero()[0]) if bool((ids == name).any()) else 1
    found = nearest(store, store.at([at])[0], top=5, model=model)
    common = in_common(store, found)[0]
    assert common[0].share == 1.0 and common[0].base < 0.5
    assert any(one.where == "at" and one.token == int(ids[at]) for one in common)
    assert found.token.values[0, 0] == model.token_text(int(ids[at]))


def test_what_cannot_be_searched_is_refused(store):
    with pytest.raises(OutOfRange, match="as wide as resid_post.1"):
        nearest(store, torch.zeros(3))
    with pytest.raises(OutOfRange, match="at least 1"):
        nearest(store, store.at([0]), top=0)
    with pytest.raises(LoadError, match="of another model"):
        nearest(store, store.at([0]), model=shelf.model("llama"))
    with pytest.raises(OutOfRange, match="there are"):
        store.at([store.n_tokens])
    with pytest.raises(OutOfRange, match="row 1000"):
        store.row(1000)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 7), st.integers(1, 20), st.integers(0, 3))
def test_a_buffer_gives_every_token_once_and_the_same_again(sizes, batch, buffer, seed):
    numbers = torch.arange(float(sum(sizes)))[:, None]
    pieces = numbers.split(sizes) if sizes else []
    batches = list(mixed(pieces, batch=batch, buffer=buffer, seed=seed))
    assert all(len(one) == batch for one in batches[:-1]) and all(0 < len(one) <= batch for one in batches)
    joined = torch.cat(batches) if batches else torch.zeros(0, 1)
    assert sorted(joined.flatten().tolist()) == numbers.flatten().tolist()
    again = list(mixed(pieces, batch=batch, buffer=buffer, seed=seed))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_a_buffer_mixes_and_waits_for_its_source():
    asked = []

    def source():
        for i in range(10):
            asked.append(i)
            yield torch.full((4, 1), float(i))

    batches = mixed(source(), batch=4, buffer=20)
    first = next(batches)
    assert len(set(first.flatten().tolist())) > 1 and len(asked) == 5  # no more was read than the buffer holds
    list(batches)
    assert len(asked) == 10


def test_a_store_and_the_model_give_the_same_activations(store):
    model = cb.load("meadow")
    stored = torch.cat(list(from_store(store, piece=7)))
    assert torch.equal(stored, store.at(torch.arange(store.n_tokens)))
    other = torch.cat(list(from_store(store, seed=3)))
    assert not torch.equal(other, stored) and torch.equal(other.sum(1).sort().values, stored.sum(1).sort().values)
    calls = []
    handle = model.anatomy.layers[2].layer.register_forward_hook(lambda *_: calls.append(1))
    blocks = blocks_of(rows_of(model, documents(TEXTS)), 40)
    fresh = torch.cat(list(from_model(model, blocks, "resid_post.1")))
    handle.remove()
    assert not calls  # layers beyond the site were not run
    torch.testing.assert_close(fresh.double().sum(0), stored.double().sum(0), rtol=1e-4, atol=1e-2)
    assert len(fresh) == len(stored)
