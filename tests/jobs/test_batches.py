"""Where memory runs out a batch is halved once, with a warning, and the same results come."""

import warnings

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.jobs.batches import Batches, BatchHalved
from caseback.localize.circuits import edge_attribution
from caseback.localize.inputs import integrated_gradients
from caseback.model.running import run as running
from caseback.model.sweeping.packed import Packed

METRIC = cb.logit_diff([3, 8], [5, 11])
CLEAN, CORRUPT = shelf.ids((7, 7)), shelf.ids((7, 7), seed=1)


def fits(most, tried):
    """Work that needs memory for each unit."""

    def work(part):
        tried.append(part.stop - part.start)
        if tried[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(part.start, part.stop))

    return work


def test_a_batch_that_does_not_fit_is_halved_once_for_all_loops():
    batches, tried = Batches(6, "prompts"), []
    with pytest.warns(BatchHalved, match="out of memory with 6 prompts at a time: going on with 3") as seen:
        done = [n for _, numbers in batches.over(8, fits(4, tried)) for n in numbers]
        done += [n for _, numbers in batches.over(4, fits(4, tried)) for n in numbers]
    assert done == [*range(8), *range(4)] and len(seen) == 1
    assert tried == [6, 3, 3, 2, 3, 1]


@pytest.mark.parametrize(("at_once", "most", "tries"), [(8, 3, [8, 4]), (1, 0, [1])])
def test_a_second_time_or_a_batch_of_one_is_an_error(at_once, most, tries):
    tried = []
    with warnings.catch_warnings(), pytest.raises(torch.OutOfMemoryError):
        warnings.simplefilter("ignore", BatchHalved)
        list(Batches(at_once, "prompts").over(8, fits(most, tried)))
    assert tried == tries


@pytest.fixture
def few_rows(monkeypatch):
    """A machine that goes back through at most so many rows at a time."""

    def allow(rows):
        grad = running.Run.grad

        def small(self, *given, **how):
            if len(self.tokens) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return grad(self, *given, **how)

        monkeypatch.setattr(running.Run, "grad", small)

    return allow


@pytest.mark.parametrize(
    ("rows", "unit", "job"),
    [
        (8, "points", lambda model: integrated_gradients(model, CLEAN, METRIC, steps=8, max_batch=16)),
        (1, "prompts", lambda model: edge_attribution(model, CLEAN, CORRUPT, METRIC)),
        (4, "points", lambda model: edge_attribution(model, CLEAN, CORRUPT, METRIC, steps=4)),
    ],
)
def test_scores_are_the_same_where_memory_ran_out(rows, unit, job, few_rows):
    model = shelf.model("llama")
    whole = job(model)
    few_rows(rows)
    with pytest.warns(BatchHalved, match=f"{unit} at a time"):
        halved = job(model)
    np.testing.assert_allclose(halved, whole, rtol=1e-9, atol=1e-12)


def test_a_sweep_goes_on_with_half_the_variants_where_memory_ran_out(monkeypatch):
    model = shelf.model("llama")
    heads = [cb.Zero("z", layer=layer, head=head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    whole = model.sweep(CLEAN, heads, METRIC)
    values = Packed.values

    def small(self):
        if len(self.segments) > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return values(self)

    monkeypatch.setattr(Packed, "values", small)
    with pytest.warns(BatchHalved, match="variants at a time"):
        halved = model.sweep(CLEAN, heads, METRIC)
    np.testing.assert_allclose(halved, whole, rtol=1e-9, atol=1e-12)
