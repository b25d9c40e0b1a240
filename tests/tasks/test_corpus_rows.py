"""Rows of running text: those that the tokenizer gives, cut by hand, and no more texts are read than are needed."""

import pytest
import torch

import caseback as cb
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.tasks.corpus import corpus_rows

TEXTS = ["Mary went to the store.", " ", "John saw the dog at the park.", [5, 9, 7, 3, 8], "the cat"]


def rows(model, texts=TEXTS, **options):
    return [
        ids[mask].tolist()
        for t in corpus_rows(model, texts, **options)
        for ids, mask in zip(t.ids, t.mask, strict=True)
    ]


def cut_by_hand(model, length, least=2):
    expected = []
    for text in TEXTS:
        if isinstance(text, list):
            front, own = [], text
        else:
            whole = model.tokenizer(text)["input_ids"]
            front, own = ([whole[0]], whole[1:]) if text.strip() else ([], [])
        step = length - len(front)
        expected += [front + own[i : i + step] for i in range(0, len(own), step)]
    return [row for row in expected if len(row) >= least]


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize("length", [3, 4, 64])
def test_rows_are_those_cut_by_hand(length, batch):
    model = cb.load("meadow")
    assert model.tokenizer("the cat")["input_ids"][0] == model.tokenizer.bos_token_id
    assert rows(model, length=length, batch=batch) == cut_by_hand(model, length)
    assert rows(model, length=length, batch=batch, least=3) == cut_by_hand(model, length, least=3)


@pytest.mark.parametrize("batch", [1, 4])
def test_whoever_stops_early_leaves_the_rest_unread(batch):
    read = []

    def corpus():
        for i in range(1000):
            read.append(i)
            yield "Mary went to the store."

    batches = corpus_rows(cb.load("meadow"), corpus(), batch=batch)
    for taken in range(1, 4):
        next(batches)
        assert len(read) == taken * batch


def test_what_gives_no_rows_is_refused():
    model = cb.load("meadow")
    for texts, options, error, says in (
        ("the cat", {}, CasebackError, "one text was given where several are expected"),
        ([5, 6], {}, TokensError, "document 0 is a int"),
        (TEXTS, {"length": 1, "least": 1}, OutOfRange, "no room besides the 1"),
        (TEXTS, {"batch": 0}, OutOfRange, "batches of 0 rows"),
        (TEXTS, {"length": 10**6}, OutOfRange, "context"),
    ):
        with pytest.raises(error, match=says):
            rows(model, texts, **options)
    assert rows(model, [torch.tensor([4, 5, 6])], length=1, least=1) == [[4], [5], [6]]
