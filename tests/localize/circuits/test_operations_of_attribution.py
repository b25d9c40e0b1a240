"""Edge and node estimates as few, wide operations: counted, which is exact on a busy machine."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import caseback as cb
from caseback.localize.circuits import edge_attribution
from caseback.localize.components import attribution_patching

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from operations import Operations, counted

LAYERS = 8
A_LAYER = 120
METRIC = cb.logit_diff(11, 23)


def llama(heads, layers=LAYERS):
    sizes = {"hidden_size": 8 * heads, "intermediate_size": 64, "num_key_value_heads": max(1, heads // 4)}
    config = LlamaConfig(vocab_size=64, num_hidden_layers=layers, num_attention_heads=heads, **sizes)
    hf = LlamaForCausalLM(config).eval()
    return hf, hf.model.embed_tokens


def gpt2(heads):
    config = GPT2Config(vocab_size=64, n_embd=8 * heads, n_layer=LAYERS, n_head=heads, n_positions=64)
    hf = GPT2LMHeadModel(config).eval()
    return hf, hf.transformer.wte


def operations_of_the_model(hf, embed, ids):
    """Those of a forward, and of a forward and backward to the embeddings."""

    def forward():
        with torch.no_grad():
            hf(ids, use_cache=False)

    def both():
        embedded = embed(ids).detach().requires_grad_()
        logits = hf(inputs_embeds=embedded, use_cache=False).logits[0, -1]
        torch.autograd.grad(logits[11] - logits[23], embedded)

    return counted(forward)[0].total, counted(both)[0].total


def operations_of(job) -> Operations:
    return counted(job)[0]


@pytest.mark.parametrize("positions", [16, 64])
@pytest.mark.parametrize("heads", [2, 16])
@pytest.mark.parametrize("family", [llama, gpt2])
def test_estimates_take_few_operations_for_any_number_of_heads_and_positions(family, heads, positions):
    torch.manual_seed(0)
    hf, embed = family(heads)
    ids = torch.randint(3, 64, (2, positions))
    one, both = operations_of_the_model(hf, embed, ids[:1])
    model = cb.load(hf)
    pair = model.tokens(ids[:1]), model.tokens(ids[1:])
    eap = operations_of(lambda: edge_attribution(model, *pair, METRIC))
    assert eap.total <= one + both + A_LAYER * LAYERS
    averaged = operations_of(lambda: edge_attribution(model, *pair, METRIC, steps=5))
    assert averaged.total <= 5 * both + A_LAYER * LAYERS
    nodes = operations_of(lambda: attribution_patching(model, *pair, METRIC, sites=["z", "mlp_out"]))
    assert nodes.total <= 3 * both
    read = operations_of(lambda: model.run(pair[0], read=["pattern", "z"]))
    assert read.total <= 1.5 * one


def read_backs(layers):
    torch.manual_seed(0)
    model = cb.load(llama(4, layers)[0])
    pair = model.tokens([[5, 7, 9, 4]]), model.tokens([[5, 8, 9, 4]])
    jobs = {
        "EAP": lambda: edge_attribution(model, *pair, METRIC),
        "EAP-IG": lambda: edge_attribution(model, *pair, METRIC, steps=5),
        "a run": lambda: model.run(pair[0], read=["pattern", "z"]),
        "node estimates": lambda: attribution_patching(model, *pair, METRIC, sites=["z", "mlp_out"]),
    }
    return {name: operations_of(job).read.total() for name, job in jobs.items()}


def test_what_is_read_back_does_not_grow_with_layers():
    assert read_backs(2) == read_backs(6)


def test_a_run_that_reads_nothing_adds_nothing_that_grows_with_layers():
    more = []
    for layers in (2, 6):
        hf, embed = llama(4, layers)
        model = cb.load(hf)
        tokens = model.tokens([[5, 7, 9, 4]])
        one, _ = operations_of_the_model(hf, embed, tokens.ids)
        more.append(counted(partial(model.run, tokens))[0].total - one)
    assert more[0] == more[1]
