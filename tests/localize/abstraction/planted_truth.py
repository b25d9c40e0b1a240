"""Organisms whose variables' places are known, turned so that no variable lies along the axes."""

import itertools

import torch

from caseback.localize.abstraction import CausalModel, Interchanges
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.model.loading.load import load
from caseback.organisms.compiled import build

MODULUS = 7
COPIES = 12
SUM = CausalModel(
    {"a": range(MODULUS), "b": range(MODULUS)}, {"sum": ("ab", lambda a, b: (a + b) % MODULUS)}
)  # "3 5 =" -> 1
OR = CausalModel({"a": "01", "b": "01"}, {"or": ("ab", lambda a, b: max(a, b))})  # "0 1 =" -> 1


def said(inputs):
    return f"{inputs['a']} {inputs['b']} ="


@torch.no_grad()
def turned(organism, seed=0):
    """The same function with its stream rotated by a random Q, and Q: x becomes x Q."""
    hf, d = organism.model.hf, organism.model.d_model
    q = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]
    hf = hf.double()
    reads = [hf.lm_head, *(layer.mlp.up_proj for layer in hf.model.layers)]
    for layer in hf.model.layers:
        reads += [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
            module.weight.copy_(q.T @ module.weight)
            if module.bias is not None:
                module.bias.copy_(module.bias @ q)
    for module in reads:
        module.weight.copy_(module.weight @ q)
    for module in (hf.model.embed_tokens, hf.model.embed_positions):
        module.weight.copy_(module.weight @ q)
    return load(hf, tokenizer=organism.model.tokenizer), q


def modular(frequencies=1, seed=0, **how):
    """A turned model that adds modulo 7, and the rows in which its operands and their sum lie."""
    organism = build("modular_addition", p=MODULUS, frequencies=frequencies, **how)
    model, q = turned(organism, seed)
    named = {"a": "the first operand", "b": "the second operand", "sum": "the sum"}
    truth = {
        name: torch.cat([v.basis.double() for v in organism.variables if said in v.name]) @ q
        for name, said in named.items()
    }
    return model, truth


def gate(seed=0):
    """A turned OR gate, and the direction of each of its bits."""
    organism = build("or_gate")
    model, q = turned(organism, seed)
    rows = {v.name: v.basis.double() @ q for v in organism.variables}
    return model, {"a": rows["the first bit"], "b": rows["the second bit"]}


@torch.no_grad()
def direct(k=1, noise=8, gain=3.0, seed=0):
    """A model that says of its one token the signs that the stream holds, linearly; the rows of ``a`` and of ``b``.

    Token i has k signs a, one sign b, and noise in all other directions of a stream that no axis belongs to.
    """
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=k + 1)), dtype=torch.float64)
    tokens, d = COPIES * len(signs), k + 1 + noise
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    # each noise with all signs, so that it tells nothing of them
    other = torch.randn(COPIES, noise, generator=generator, dtype=torch.float64)
    rows = torch.cat([signs.repeat(COPIES, 1), other.repeat_interleave(len(signs), 0)], 1) @ q
    config = CrystalConfig(
        vocab_size=tokens,
        max_position_embeddings=4,
        hidden_size=d,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=2,
        norm="none",
    )
    hf = CrystalForCausalLM(config).double().eval()
    for parameter in hf.parameters():
        parameter.zero_()
    hf.model.embed_tokens.weight.copy_(rows)
    # the answer is the first token that holds the same signs
    hf.lm_head.weight[: len(signs)] = gain * signs @ q[: k + 1]
    return load(hf), {"a": q[:k], "b": q[[k]]}


def directly(k, count=400, seed=0, variables="a", gain=1.0, **how):
    """Examples for ``direct``: a of one token, b of another."""
    model, truth = direct(k, gain=gain, seed=seed)
    n = 2 ** (k + 1)
    causal = CausalModel(
        {"token": range(COPIES * n)},
        {
            "a": (["token"], lambda t: t % n // 2),
            "b": (["token"], lambda t: t % 2),
            "said": ("ab", lambda a, b: 2 * a + b),
        },
    )
    data = Interchanges.sample(model, causal, lambda v: [v["token"]], variables, count, answer=int, seed=seed, **how)
    return model, truth, data


def sums(model, variables, count=120, **how):
    return Interchanges.sample(model, SUM, said, variables, count, **how)


def bits(model, variables="a", count=60, **how):
    return Interchanges.sample(model, OR, said, variables, count, **{"changing": 0.5, **how})


def overlap(found, truth):
    """The smallest cosine between the two subspaces' principal directions."""
    rows = [torch.linalg.qr(torch.as_tensor(x, dtype=torch.float64).T)[0] for x in (found, truth)]
    return float(torch.linalg.svdvals(rows[0].T @ rows[1]).min())
