"""One table of how much is in hand at once: read at the time of use, set for a while by whoever needs other values."""

import pytest
import torch

import caseback as cb
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import LIMITS, limit, override


def test_every_limit_says_what_it_counts_and_why():
    for name, entry in LIMITS.items():
        assert entry.value > 0 and entry.unit and entry.why and name.islower(), name
        assert entry.accelerator is None or entry.accelerator > entry.value, name


def test_a_device_may_take_more_and_a_given_value_goes_first():
    assert limit("sweep_tokens") == limit("sweep_tokens", "cpu") == limit("sweep_tokens", torch.device("cpu")) == 2048
    assert limit("sweep_tokens", torch.device("cuda", 1)) == limit("sweep_tokens", "mps") == 16384
    assert limit("flow_numbers", "cuda") == limit("flow_numbers")
    with override(sweep_tokens=5):
        assert limit("sweep_tokens", given=3) == 3


def test_overrides_nest_and_end_also_after_an_error():
    with override(sweep_tokens=5, corpus_rows=1):
        with pytest.raises(RuntimeError), override(sweep_tokens=6):
            assert (limit("sweep_tokens", "cuda"), limit("corpus_rows")) == (6, 1)
            raise RuntimeError
        assert limit("sweep_tokens") == 5
    assert (limit("sweep_tokens"), limit("corpus_rows")) == (2048, 8)


def test_what_is_not_in_the_table_is_refused_with_what_is_near():
    with pytest.raises(CasebackError, match="'sweep_token'.*sweep_tokens"):
        limit("sweep_token")
    with pytest.raises(CasebackError, match="sweep_tokens"), override(sweep_tokenz=3):
        pass
    with pytest.raises(OutOfRange, match="sweep_tokens=-1.*tokens per pass"), override(sweep_tokens=-1):
        pass


def test_a_sweep_reads_the_table_when_it_runs():
    model = cb.load("meadow")
    variants = [cb.Zero("z", layer=0, head=h) for h in range(3)]
    together, _, _ = model_values(model, variants)
    with override(sweep_tokens=1):
        apart, _, _ = model_values(model, variants)
    torch.testing.assert_close(together, apart)
    with override(sweep_tokens=0), pytest.raises(CasebackError, match="at least 1 row"):
        model_values(model, variants)


def model_values(model, variants):
    from caseback.model.sweeping.sweep import sweep

    return sweep(model.anatomy, model.tokens("the cat and the"), variants, cb.logit(" dog"))
