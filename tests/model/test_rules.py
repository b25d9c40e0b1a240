"""The rules of relevance propagation, one by one: each gradient times input is the relevance that its formula says."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode_stack

import shelf
import zoo
from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.norms import Norm
from caseback.model.backward.nonlinear import activations, all_norms
from caseback.model.backward.rules import Rules, held_norm, ruled
from caseback.model.loading.load import load
from caseback.model.running.metrics import logit_diff
from exact import exact

ALL_HELD = Rules(softmax="held", product="held")
METRIC = logit_diff(3, 5)


def leaf(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def relevances(rules, function, *inputs):
    """The output's relevance, drawn at random, and what each input gets of it."""
    with ruled(shelf.model("llama").anatomy, rules):
        out = function(*inputs)
    above = torch.randn(out.shape, dtype=torch.float64)
    gradients = torch.autograd.grad(out, inputs, above, allow_unused=True)
    below = [torch.zeros_like(x) if g is None else x.detach() * g for x, g in zip(inputs, gradients, strict=True)]
    return out.detach() * above, *below


def test_3_1_6_the_softmax_rule_is_gradient_times_input_of_softmax():
    x = leaf(4, 7)
    s = x.detach().softmax(-1)
    for softmax in (torch.softmax, functional.softmax, torch.Tensor.softmax):
        above, below = relevances(Rules(), lambda y, softmax=softmax: softmax(y, -1), x)
        assert torch.allclose(below, x.detach() * (above - s * above.sum(-1, keepdim=True)), atol=1e-14)
        assert not torch.allclose(below.sum(-1), above.sum(-1), atol=1e-3)
    with ruled(shelf.model("llama").anatomy, Rules(softmax="held")):
        assert not torch.softmax(x, -1).requires_grad


@pytest.mark.parametrize("multiply", [torch.mul, lambda a, b: a * b, lambda a, b: a.mul(b)])
def test_3_1_6_the_uniform_rule_halves_a_product(multiply):
    above, a, b = relevances(Rules(), multiply, leaf(3, 5), leaf(3, 5))
    assert torch.allclose(a, above / 2, atol=1e-14) and torch.allclose(b, above / 2, atol=1e-14)


@pytest.mark.parametrize(
    "multiply",
    [
        *(torch.matmul, torch.bmm, lambda a, b: a @ b, lambda a, b: torch.einsum("bij,bjk->bik", a, b)),
        lambda a, b: torch.zeros(2, 4, 3, dtype=torch.float64).baddbmm(batch1=a, batch2=b, alpha=0.5),
    ],
)
def test_3_1_6_the_uniform_rule_halves_a_bilinear_map(multiply):
    above, a, b = relevances(Rules(), multiply, leaf(2, 4, 5), leaf(2, 5, 3))
    assert torch.allclose(a.sum(-1), above.sum(-1) / 2) and torch.allclose(b.sum(-2), above.sum(-2) / 2)


def test_3_1_6_attention_in_one_call_shares_out_as_its_steps_do():
    q, k, v = leaf(2, 4, 5), leaf(2, 4, 5), leaf(2, 4, 3)
    steps = lambda q, k, v: torch.softmax(q @ k.mT * 5**-0.5, -1) @ v  # noqa: E731
    for rules in (Rules(epsilon=0.1), ALL_HELD, Rules(epsilon=0.1, softmax="held"), Rules(product="gradient")):
        torch.manual_seed(1)
        one = relevances(rules, functional.scaled_dot_product_attention, q, k, v)
        torch.manual_seed(1)
        three = relevances(rules, steps, q, k, v)
        assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(one, three, strict=True))


@pytest.mark.parametrize(
    "activation",
    [
        *(functional.gelu, functional.silu, functional.relu, torch.tanh, torch.sigmoid, functional.softplus),
        *(torch.Tensor.sigmoid, lambda x: x.clamp(-0.5, 0.5), lambda x: x.clone().clamp_(-0.5, 0.5)),
    ],
)
def test_3_1_6_activations_pass_relevance_on(activation):
    x = leaf(3, 5)
    above, below = relevances(Rules(), activation, x)
    assert torch.allclose(below, above, atol=1e-14)
    with ruled(shelf.model("llama").anatomy, Rules()):
        assert torch.equal(activation(x), activation(x.detach()))


def test_an_activation_at_0_hands_back_nothing_and_no_nan():
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    with ruled(shelf.model("llama").anatomy, Rules()):
        out = functional.silu(x)
    assert torch.equal(torch.autograd.grad(out.sum(), x)[0], torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_3_1_5_the_epsilon_rule_shares_out_by_addends(epsilon):
    """R_i = sum_j z_ij / (z_j + epsilon sign z_j) R_j, the bias among the addends."""
    x, w, b = leaf(4), torch.randn(6, 4, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    z = w * x.detach()
    for linear in (lambda x: functional.linear(x, w, b), lambda x: torch.addmm(b, x[None], w.T)[0]):
        above, below = relevances(Rules(epsilon=epsilon), linear, x)
        total = z.sum(1) + b
        assert torch.allclose(below, (z / (total + epsilon * total.sign())[:, None] * above[:, None]).sum(0))


def test_3_1_5_a_held_gate_leaves_all_to_the_other_factor():
    above, gate, neuron = relevances(ALL_HELD, lambda g, u: functional.silu(g) * u, leaf(3, 5), leaf(3, 5))
    assert torch.allclose(neuron, above, atol=1e-14) and not gate.any()


@pytest.mark.parametrize("centred", [True, False])
def test_3_1_5_a_held_norm_keeps_the_sum(centred):
    norm = Norm(torch.rand(8, dtype=torch.float64) + 0.5, None, 1e-6, centred)
    x = leaf(3, 8)
    out = held_norm(norm, x, norm(x).detach())
    above = torch.randn(3, 8, dtype=torch.float64)
    (g,) = torch.autograd.grad(out, x, above)
    assert torch.allclose((x * g).sum(-1), (out * above).sum(-1))
    assert torch.allclose(g, norm.centre(above * norm.gamma) / norm.scale(x))


def test_with_no_rule_it_is_the_gradient():
    model, prompts = shelf.model("qwen2_moe"), shelf.ids((6, 4))
    none = Rules("gradient", "gradient", "gradient", "gradient", "gradient")
    with exact():
        plain, ruled_run = (model.run(prompts, read=["embed"], grad=True, rules=r) for r in (None, none))
        one, two = (run.grad(METRIC, ["embed"])["embed"] for run in (plain, ruled_run))
    assert torch.allclose(one, two, atol=1e-12) and one.any()


@pytest.mark.parametrize("name", ["gpt2", "bloom", "llama", "qwen3"])
def test_norms_and_activations_without_a_rule_keep_their_gradient(name):
    """Though they are made of products, sums and tanh, which have rules elsewhere."""
    model, rules = shelf.model(name), Rules(norm="gradient", activation="gradient")
    modules = [*activations(model.anatomy), *(module for module, _ in all_norms(model.anatomy))]
    assert len(modules) > 2 * model.n_layers
    with exact():
        for module in modules:
            width = module.weight.shape[-1] if hasattr(module, "weight") else 8
            x, above = leaf(2, width), torch.randn(2, width, dtype=torch.float64)
            (plain,) = torch.autograd.grad(module(x), x, above)
            with ruled(model.anatomy, rules):
                out = module(x)
            assert torch.allclose(torch.autograd.grad(out, x, above)[0], plain, atol=1e-12)


@pytest.mark.parametrize("name", shelf.FEW)
def test_the_forward_pass_stays_as_it_is(name):
    model, prompts = shelf.model(name), shelf.ids((7, 4))
    plain = model.run(prompts).logits
    for rules in (Rules(), ALL_HELD, Rules(epsilon=0.1)):
        assert torch.equal(model.run(prompts, grad=True, rules=rules).logits, plain)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bloom", "mpt", "falcon_alibi", "gpt_oss", "cohere2"])
def test_relevance_does_not_depend_on_who_computes_attention(name, attention):
    """The model's own attention, and caseback's step by step, which a read pattern asks for."""
    if attention == "sdpa" and name in shelf.EAGER_ONLY:
        pytest.skip(f"{name} has no SDPA")
    model, prompts = shelf.model(name, attention), shelf.ids((6, 4))
    with exact():
        for rules in (Rules(), Rules(epsilon=0.01), ALL_HELD):
            runs = [model.run(prompts, read=read, grad=True, rules=rules) for read in (["embed"], ["embed", "pattern"])]
            own, ours = (run.grad(METRIC, ["embed"])["embed"] for run in runs)
            assert torch.allclose(own, ours, atol=1e-11) and own.any()


@pytest.mark.parametrize("name", ["llama", "qwen2_moe", "bloom"])
def test_everything_is_put_back_also_after_an_exception(name):
    model = shelf.model(name)
    before = {n: dict(m.__dict__) for n, m in model.hf.named_modules()}

    def fail(module, args):
        raise KeyError("on the way")

    model.run([1, 2], grad=True, rules=Rules())
    handle = model.hf.lm_head.register_forward_pre_hook(fail)
    try:
        with pytest.raises(KeyError):
            model.run([1, 2], grad=True, rules=Rules())
    finally:
        handle.remove()
    assert not _get_current_function_mode_stack()
    for n, module in model.hf.named_modules():
        assert module.__dict__.keys() == before[n].keys() and "forward" not in module.__dict__


@pytest.mark.parametrize("name", ["qwen3", "cohere_qk_norm", "olmo2", "deepseek_v3", "stablelm_qk_norm", "gemma3_text"])
def test_norms_inside_attention_are_found_and_read(name):
    model = shelf.model(name)
    inside = [(m, norm) for m, norm in all_norms(model.anatomy) if m not in model.anatomy.norms]
    assert len(inside) >= model.n_layers
    with exact():
        for module, norm in inside:
            x = torch.randn(2, *norm.gamma.shape, dtype=torch.float64)
            assert torch.allclose(module(x), norm(x), atol=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "granitemoe", "bloom", "crystal"])
def test_every_layer_has_its_activation_function(name):
    model = shelf.model(name)
    found = {id(m) for m in activations(model.anatomy)}
    for p in model.anatomy.layers:
        assert any(id(m) in found for m in p.layer.modules())


def test_rules_that_are_none_are_refused():
    with pytest.raises(CasebackError, match="softmax='hold' is not a rule. Did you mean held"):
        Rules(softmax="hold")
    for epsilon in (-1e-6, float("nan"), float("inf")):
        with pytest.raises(OutOfRange, match="epsilon is"):
            Rules(epsilon=epsilon)


def test_a_norm_of_another_kind_is_an_error_and_no_guess():
    hf = zoo.tiny("qwen3")

    class SumNorm(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(width, dtype=torch.float64)), 1e-6

        def forward(self, x):
            return self.weight * x / (x.abs().sum(-1, keepdim=True) + self.eps)

    for layer in hf.model.layers:
        layer.self_attn.q_norm = SumNorm(layer.self_attn.head_dim)
    model = load(hf)
    with pytest.raises(CasebackError, match="neither LayerNorm nor RMSNorm"):
        model.run([1, 2], grad=True, rules=Rules())
    assert model.run([1, 2], grad=True, rules=Rules(norm="gradient")).logits.isfinite().all()
