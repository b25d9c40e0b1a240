"""A sweep's bookkeeping takes few operations, and reads nothing back chunk by chunk: counted, exact on a busy machine."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import caseback as cb

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from operations import counted

LAYERS, HEADS, POSITIONS, VOCAB = 8, 8, 64, 64


def llama():
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_key_value_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCAB, num_hidden_layers=LAYERS, num_attention_heads=HEADS, **sizes)
    ).eval()


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=64, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS)
    ).eval()


@pytest.mark.parametrize("family", [llama, gpt2])
def test_a_sweep_is_a_few_operations_a_chunk(family):
    torch.manual_seed(0)
    hf = family()
    model = cb.load(hf)
    ids = torch.randint(3, VOCAB, (2, POSITIONS))
    clean, corrupt = model.tokens(ids[:1]), model.tokens(ids[1:])

    def plain():
        with torch.no_grad():
            hf(clean.ids, use_cache=False)

    one = counted(plain)[0].total
    source = model.run(corrupt, read=["resid_pre", "z"])
    metric = cb.logit_diff(11, 23)
    variants = {
        "stream": [cb.Resample("resid_pre", source, layer=i, pos=p) for i in range(LAYERS) for p in range(POSITIONS)],
        "heads": [cb.Resample("z", source, layer=i, head=h) for i in range(LAYERS) for h in range(HEADS)],
        "vectors": [
            cb.Add("resid_pre", torch.randn(64), layer=i, pos=p) for i in range(LAYERS) for p in range(POSITIONS)
        ],
    }
    once = counted(lambda: model.sweep(clean, variants["heads"][:1], metric))[0].read.total()
    for own in variants.values():
        operations, chunks = counted(lambda own=own: model.sweep(clean, own, metric))
        assert chunks >= 1
        assert operations.total <= 2 * chunks * one + 3 * len(own)
        assert operations.read.total() <= once + 2 * (chunks - 1)
