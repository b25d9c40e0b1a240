"""One table of how much is in hand at once: read at the time of use, set for a while by whoever needs other values."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import caseback as cb
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs import budget
from caseback.jobs.budget import LIMITS, limit, override
from caseback.jobs.memory import free_bytes
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.families import FAMILIES
from caseback.model.prompts.embedding_points import bytes_on_the_way_back


def test_every_limit_says_what_it_counts_and_why():
    for name, entry in LIMITS.items():
        assert entry.value > 0 and entry.unit and entry.why and name.islower(), name
        assert entry.accelerator is None or entry.accelerator > entry.value, name


def test_a_device_may_take_more_and_a_given_value_goes_first():
    assert limit("sweep_tokens") == limit("sweep_tokens", "cpu") == limit("sweep_tokens", torch.device("cpu")) == 2048
    assert limit("sweep_tokens", torch.device("cuda", 1)) == limit("sweep_tokens", "mps") == 2**17
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


@pytest.mark.parametrize(("percent", "says"), [(0, "nothing could be held"), (101, "more than there is")])
def test_a_share_of_the_memory_is_some_and_not_more_than_all(percent, says):
    with (
        pytest.raises(OutOfRange, match=f"memory_percent={percent}: .*{says}.*1 to 100"),
        override(memory_percent=percent),
    ):
        pass


def test_what_a_device_has_free_bounds_work_that_says_how_large_it_is(monkeypatch):
    free = {"cpu": 10_000, "cuda": 2**40, "mps": None}
    monkeypatch.setattr(budget, "free_bytes", lambda device: free[getattr(device, "type", device) or "cpu"])
    assert limit("gradient_tokens", each=50) == 100
    assert limit("gradient_tokens", each=2) == 512  # on a CPU the caches' number stays the most
    assert limit("gradient_tokens", each=10**9) == 1
    assert limit("gradient_tokens") == 512 and limit("gradient_tokens", each=50, given=7) == 7
    assert limit("gradient_tokens", "cuda", each=2**20) == 6 * 2**10  # 6 GiB, of which more gain nothing
    free["cuda"] = 2**30
    assert limit("gradient_tokens", torch.device("cuda", 1), each=2**20) == 2**9
    with override(memory_percent=25):
        assert limit("gradient_tokens", "cuda", each=2**20) == 2**8
    assert limit("gradient_tokens", "mps", each=2**20) == 6 * 2**10  # a device that does not tell
    with override(gradient_tokens=9):
        assert limit("gradient_tokens", "cuda", each=10**9) == 9


def test_a_machine_tells_what_it_has_free():
    free = free_bytes()
    assert free is None or 2**20 < free < 2**50
    assert free_bytes("meta") is None
    if not torch.cuda.is_available():
        assert free_bytes("cuda") is None


def test_the_way_back_of_a_large_model_is_bounded_by_bytes():
    """At the shape of Llama 3 8B in bfloat16 a pass of integrated gradients stays within 6 GiB."""
    with torch.device("meta"):
        sizes = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
        hf = LlamaForCausalLM(LlamaConfig(num_hidden_layers=32, vocab_size=128256, **sizes)).to(torch.bfloat16)
    shape = SimpleNamespace(anatomy=Anatomy(hf, FAMILIES["llama"]), d_model=4096, dtype=torch.bfloat16)
    each = bytes_on_the_way_back(shape, 128)
    assert 5e6 < each < 8e6  # 5.5 MB were measured on a GPU: 42 GiB with 8192 tokens
    assert 5 * 2**30 < each * limit("gradient_tokens", "cuda", each=each) <= 6 * 2**30


def test_a_sweep_reads_the_table_when_it_runs():
    model = cb.load("meadow")
    variants = [cb.Zero("z", layer=0, head=h) for h in range(3)]
    together, *_ = model_values(model, variants)
    with override(sweep_tokens=1):
        apart, *_ = model_values(model, variants)
    torch.testing.assert_close(together, apart)
    with override(sweep_tokens=0), pytest.raises(CasebackError, match="at least 1 row"):
        model_values(model, variants)


def model_values(model, variants):
    from caseback.model.sweeping.sweep import sweep

    return sweep(model.anatomy, model.tokens("the cat and the"), variants, cb.logit(" dog"))
