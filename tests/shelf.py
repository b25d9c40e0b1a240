"""Tiny models built once a test run, and prompts for them.

``FAMILIES`` are the zoo's entries that caseback supports, every branch of them; ``COPIES`` those whose code differs
from Llama's in names alone, so that costly tests may take the rest, ``DISTINCT``; ``FEW`` have one of each idea:
grouped heads, windows, experts, parallel blocks, fused projections, post-norms, latent and pre-interface attention.
"""

from functools import cache

import pytest
import torch
import transformers

import caseback as cb
import zoo
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import SITES, Site

FAMILIES = (
    *("gpt2 gpt2_inverse_layer_scale gpt2_unscaled gpt_neo gptj gpt_neox gpt_neox_sequential codegen".split()),
    *("gpt_bigcode gpt_bigcode_multi_head opt opt_projected biogpt bloom mpt mpt_clipped".split()),
    *("falcon falcon_alibi falcon_multi_head falcon_sequential falcon_grouped falcon_grouped_one_norm".split()),
    *("phi phi_qk_norm phi3 llama llama_biased llama_multi_query llama_tied llama_scaled_rope".split()),
    *("mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text glm glm4".split()),
    *("olmo olmo_clipped olmo2 olmo3 olmoe stablelm stablelm_parallel stablelm_qk_norm starcoder2".split()),
    *("cohere cohere_qk_norm cohere2 granite granitemoe gpt_oss smollm3 persimmon".split()),
    *("deepseek_v2 deepseek_v2_full_query deepseek_v3 crystal".split()),
)
# Whose writes do not sum to the stream, or whose stream a nonlinear head reads: what splits a prediction is refused.
JOINED = (
    *("bert bert_generation ernie megatron_bert roc_bert electra electra_of_one_width rembert big_bird".split()),
    *("roformer camembert data2vec_text roberta roberta_prelayernorm xlm_roberta".split()),
    *("xlm_roberta_xl modernbert_decoder openai_gpt gpt_neox_japanese beam".split()),
)
COPIES = frozenset(
    "gpt2_inverse_layer_scale gpt2_unscaled llama_tied llama_scaled_rope stablelm_qk_norm qwen2 olmo3".split()
    + "falcon_multi_head opt biogpt gemma glm cohere phi granitemoe deepseek_v2_full_query persimmon".split()
    + ["mpt_clipped"]
)
DISTINCT = tuple(name for name in FAMILIES if name not in COPIES)
FEW = tuple("gpt2 gptj bloom falcon_alibi mpt gpt_bigcode llama mistral gemma2 mixtral gpt_oss deepseek_v3".split())

# transformers refuses SDPA for these: older code, a cap on the scores, or sinks.
EAGER_ONLY = frozenset("gptj codegen gpt_neo bloom mpt mpt_clipped gemma2 gpt_oss".split())


@cache
def model(name: str, attention: str = "eager") -> cb.Model:
    """A verified tiny model of one family in float64; shared by all tests, which shows that none of them changes it."""
    hf = zoo.tiny(name, attention=attention)
    if name.startswith("mpt"):
        _expect_runs(hf)
    return cb.load(hf)


def _expect_runs(hf: torch.nn.Module) -> None:
    """Skip where this release of transformers cannot run the model in float64: its mask overflows float32."""
    try:
        hf(torch.tensor([[1, 2]]))
    except RuntimeError as error:
        if "without overflow" not in str(error):
            raise
        pytest.skip(f"transformers {transformers.__version__} cannot run {type(hf).__name__} in float64")


def ids(lengths: tuple[int, ...] = (9, 9), seed: int = 0, d_vocab: int = zoo.VOCAB) -> list[list[int]]:
    """Random prompts of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, d_vocab, (n,), generator=generator).tolist() for n in lengths]


def editable(anatomy: Anatomy) -> list[str]:
    """The names of the sites that can be edited in a model."""
    return [name for name, kind in SITES.items() if kind.editable and name not in anatomy.lacks]


def readable(anatomy: Anatomy) -> list[str]:
    """The names of the sites that a model has."""
    return [name for name in SITES if name not in anatomy.lacks]


def middle(anatomy: Anatomy, name: str) -> Site:
    """A site in the middle layer, or in the first that has it."""
    if not SITES[name].layered:
        return Site(name)
    return next(s for s in (Site(name, i) for i in (1, 0, 2)) if anatomy.has(s))


def tensors(anatomy: Anatomy) -> dict[str, torch.Tensor]:
    """Copies of every parameter and buffer."""
    return {
        name: value.detach().clone() for name, value in (*anatomy.hf.named_parameters(), *anatomy.hf.named_buffers())
    }
