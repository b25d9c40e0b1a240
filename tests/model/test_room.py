"""A pass without gradients has as many tokens as half of the free memory holds, and what it takes is what was said."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import caseback as cb
import shelf
from caseback.jobs import budget
from caseback.jobs.budget import override
from caseback.model.sweeping import variants as variants_module
from caseback.model.sweeping.room import bytes_of_a_token, forms_maps, logits_per_token, tokens_per_pass
from torch_memory import peak_bytes

D, LAYERS, VOCAB = 64, 3, 500


def llama():
    sizes = {"hidden_size": D, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 3 * D}
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=LAYERS, vocab_size=VOCAB, **sizes))


def gpt2():
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(n_embd=D, n_layer=LAYERS, n_head=8, vocab_size=VOCAB, **ends))


JOBS = {
    "stream": (lambda n: [cb.Zero("resid_pre", layer=i, pos=p) for i in range(LAYERS) for p in range(n)], False),
    "heads": (lambda n: [cb.Zero("z", layer=i % LAYERS, head=i % 8, pos=0) for i in range(60)], False),
    "patterns": (lambda n: [cb.Zero("pattern", layer=i % LAYERS, head=i % 8, pos=0) for i in range(60)], True),
}


@pytest.mark.parametrize("what", JOBS)
@pytest.mark.parametrize("maker", [llama, gpt2])
@pytest.mark.parametrize("width", [24, 96])
def test_a_token_takes_no_more_than_was_said(maker, what, width):
    torch.manual_seed(0)
    model = cb.load(maker().eval())
    tokens = model.tokens(torch.randint(1, VOCAB, (1, width)))
    edits, maps = JOBS[what]
    for metric in (cb.logit_diff(3, 5), cb.kl(model.run(tokens))):
        logits = logits_per_token(metric.on(tokens, model.anatomy), VOCAB, width)
        peaks = {}
        for rows in (192, 768):
            with override(sweep_tokens=rows):
                model.sweep(tokens, edits(width)[:2], metric)
                peaks[rows] = peak_bytes(lambda: model.sweep(tokens, edits(width), metric))  # noqa: B023
        each = (peaks[768] - peaks[192]) / (768 - 192)
        promise = bytes_of_a_token(model.anatomy, width, logits=logits, maps=maps)
        assert promise / 6 < each < promise, (each, promise)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "gemma2"])
def test_less_free_memory_makes_more_passes_of_the_same_numbers(name, monkeypatch):
    model = shelf.model(name)
    assert forms_maps(model.anatomy, model.anatomy.layers[0]) == (name == "gemma2")
    tokens = model.tokens(shelf.ids((9, 6)))
    heads = [cb.Zero("z", layer=i, head=h) for i in range(3) for h in range(4)]
    passes, packed = [], variants_module.Packed

    def counted(anatomy, clean, segments, *rest):
        passes.append(sum(map(len, segments)))
        return packed(anatomy, clean, segments, *rest)

    monkeypatch.setattr(variants_module, "Packed", counted)
    whole = model.sweep(tokens, heads, cb.logit_diff(3, 5))
    many = passes.copy()
    each = bytes_of_a_token(model.anatomy, tokens.shape[1])
    monkeypatch.setattr(budget, "free_bytes", lambda device: 2 * 20 * each)
    passes.clear()
    scarce = model.sweep(tokens, heads, cb.logit_diff(3, 5))
    assert len(passes) > len(many) and max(passes) <= 20 < max(many)
    np.testing.assert_allclose(scarce.values, whole.values, atol=1e-10, rtol=0)
    passes.clear()
    model.sweep(tokens, heads, cb.logit_diff(3, 5), token_budget=10**6)
    assert len(passes) == len(many)


def test_a_folder_keeps_its_number_whatever_is_free_later(tmp_path, monkeypatch):
    model = shelf.model("llama")
    heads = [cb.Zero("z", layer=i, head=h) for i in range(3) for h in range(4)]
    tokens = model.tokens(shelf.ids((9, 6)))
    first = model.sweep(tokens, heads, cb.logit(3), folder=tmp_path, threads=1)
    monkeypatch.setattr(budget, "free_bytes", lambda device: 1)
    assert tokens_per_pass(model.anatomy, tokens) == 1
    again = model.sweep(tokens, heads, cb.logit(3), folder=tmp_path)
    np.testing.assert_array_equal(first.values, again.values)


def test_the_device_with_least_room_counts(monkeypatch):
    model = shelf.model("gpt2")
    tokens = model.tokens(shelf.ids((9, 6)))
    each = bytes_of_a_token(model.anatomy, 9)
    at = iter([torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cuda", 1)])
    monkeypatch.setattr("caseback.model.sweeping.room.device_of", lambda layer: next(at))
    monkeypatch.setattr(budget, "free_bytes", lambda device: 2 * each * {None: 900, 0: 100, 1: 40}[device.index])
    assert tokens_per_pass(model.anatomy, tokens) == 40
