"""Which rows a training sees at a step follows from seed and step alone."""

import pytest

import shelf
from caseback.decode.vocabulary.lenses.draws import Draws
from caseback.errors import CasebackError
from caseback.jobs.fingerprint import fingerprint

LENGTHS = (2, 5, 3, 7, 4, 2, 6)


@pytest.fixture(scope="module")
def corpus():
    return shelf.ids(LENGTHS, seed=1)


def rows_of(batches):
    return [ids[mask].tolist() for some in batches for ids, mask in zip(some.ids, some.mask, strict=True)]


def test_a_step_is_the_same_whatever_was_drawn_before_it(corpus):
    model = shelf.model("gpt2")
    straight, later = (Draws(model, corpus, batch=2, seed=3) for _ in range(2))
    steps = [rows_of(straight.of_step(i, 12)) for i in range(4)]
    assert [rows_of(later.of_step(i, 12)) for i in (3, 2)] == [steps[3], steps[2]]
    assert len({str(step) for step in steps}) == 4
    assert rows_of(Draws(model, corpus, batch=2, seed=4).of_step(0, 12)) != steps[0]


@pytest.mark.parametrize("batch", [1, 2, 3, 20])
@pytest.mark.parametrize("tokens", [1, 10, 29, 100])
def test_a_step_has_its_tokens_and_repeats_no_row_before_all_have_come(corpus, batch, tokens):
    drawn = Draws(shelf.model("gpt2"), corpus, batch=batch)
    rows, n = rows_of(drawn.of_step(0, tokens)), len(corpus)
    assert drawn.seen == sum(map(len, rows)) >= tokens
    for start in range(0, len(rows) - n + 1, n):
        assert sorted(rows[start : start + n]) == sorted(corpus)
    before = rows[:-batch] if len(rows) > batch else []
    assert sum(map(len, before)) < tokens


@pytest.mark.parametrize("batch", [1, 2, 3, 20])
def test_rows_of_no_step_come_once(corpus, batch):
    drawn = Draws(shelf.model("gpt2"), corpus, batch=batch)
    assert sorted(rows_of(drawn.some(1000))) == sorted(corpus) and drawn.seen == sum(LENGTHS)
    few = rows_of(drawn.some(4))
    assert len({str(row) for row in few}) == len(few) <= max(2, batch)


def test_rows_too_short_are_left_out_and_nothing_at_all_is_refused(corpus):
    model = shelf.model("gpt2")
    assert {len(row) for row in Draws(model, corpus, least=5).rows} == {5, 6, 7}
    with pytest.raises(CasebackError, match="the 8 tokens"):
        Draws(model, corpus, least=8)
    assert fingerprint(Draws(model, corpus).rows) != fingerprint(Draws(model, corpus[::-1]).rows)
