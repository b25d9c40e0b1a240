"""Quantized weights are read as the numbers that their modules multiply by; what cannot be read is refused by name.

The libraries' classes stand here as doubles that keep weights as theirs do: whole numbers and a scale in the weight's
place (bitsandbytes), under other names (GPTQ, AWQ), and inside a tensor of a class of its own (torchao).
"""

import pytest
import torch
from torch import nn

import caseback as cb
import shelf
import zoo
from caseback.decode.steering.ablation import orthogonalized
from caseback.edit.knowledge_edit import KnowledgeEdit, applied
from caseback.errors import AnatomyError, CasebackError
from caseback.localize.circuits import edge_attribution
from caseback.localize.components import attribution_patching
from caseback.localize.inputs.training.matrices import matrices_of
from caseback.localize.inputs.trust.randomisation import randomized
from caseback.model.anatomy.dense import is_packed, weight_matrix
from exact import exact

IDS, OTHER = shelf.ids((6,), seed=1), shelf.ids((6,), seed=2)
PARTS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
METRIC = cb.logit_diff(3, 5)


def codes(linear):
    scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
    return (linear.weight.detach() / scale).round().to(torch.int8), scale


class Linear8bitLt(nn.Module):
    """bitsandbytes: codes in the weight's place."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, None
        packed, scale = codes(linear)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x):
        return x @ (self.weight.to(x) * self.scale.to(x)).T


class InFloat16(Linear8bitLt):
    """bitsandbytes on many devices: what is read is rounded to half precision first."""

    def forward(self, x):
        return super().forward(x.half().to(x))


class Linear4bit(Linear8bitLt):
    """bitsandbytes: a weight whose shape says nothing, two codes a byte."""

    def __init__(self, linear):
        super().__init__(linear)
        low, high = (self.weight.flatten() // 16 + 8).view(-1, 2).to(torch.uint8).unbind(-1)
        self.weight = nn.Parameter((low | high << 4)[:, None], requires_grad=False)

    def forward(self, x):
        both = torch.cat([self.weight & 15, self.weight >> 4], 1).to(x) - 8
        return x @ (16 * both.view(self.out_features, -1) * self.scale.to(x)).T


class QuantLinear(nn.Module):
    """GPTQ, AWQ: codes as a buffer of another name, turned round; no weight at all."""

    def __init__(self, linear):
        super().__init__()
        self.infeatures, self.outfeatures = linear.in_features, linear.out_features
        packed, scale = codes(linear)
        self.register_buffer("qweight", packed.T.contiguous())
        self.register_buffer("scales", scale.T.contiguous())

    def forward(self, x):
        return x @ (self.qweight.to(x) * self.scales.to(x))


class Packed(torch.Tensor):
    """torchao: a tensor whose class multiplies, in a linear module that knows nothing of it."""

    @staticmethod
    def __new__(cls, packed, scale):
        out = torch.Tensor._make_wrapper_subclass(cls, packed.shape, dtype=scale.dtype)
        out.packed, out.scale = packed, scale
        return out

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is nn.functional.linear:
            x, weight, *bias = args
            return nn.functional.linear(x, weight.packed.to(x) * weight.scale.to(x), *bias)
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            return cls(args[0].packed, args[0].scale)
        raise NotImplementedError(func)


def of_torchao(linear):
    new = nn.Linear(linear.in_features, linear.out_features, bias=False).to(linear.weight)
    new.weight = nn.Parameter(Packed(*codes(linear)), requires_grad=False)
    return new


KINDS = {"8 bit": Linear8bitLt, "4 bit": Linear4bit, "gptq": QuantLinear, "torchao": of_torchao}


def quantized(kind, hf=None):
    """A model whose linear maps are quantized, and the plain model of the same numbers."""
    hf, plain = (hf or zoo.tiny("llama")), zoo.tiny("llama")
    for layer, other in zip(hf.model.layers, plain.model.layers, strict=True):
        for name in PARTS:
            parent = layer.self_attn if hasattr(layer.self_attn, name) else layer.mlp
            old = getattr(parent, name)
            new = KINDS[kind](old)
            matrix = new(torch.eye(old.in_features, dtype=old.weight.dtype)).detach()
            setattr(parent, name, new)
            plain_parent = other.self_attn if hasattr(other.self_attn, name) else other.mlp
            getattr(plain_parent, name).weight.data = matrix.T.contiguous()
    return cb.load(hf.eval()), cb.load(plain.eval())


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_model_is_the_plain_model_of_its_numbers(kind):
    with exact():
        model, plain = quantized(kind)
        assert is_packed(model.anatomy.layers[0].o)
        read = ["q_in", "v_in", "attn_in", "head_out", "mlp_post"]
        run, expected = (m.run(IDS, read=read, grad=True) for m in (model, plain))
        torch.testing.assert_close(run.logits, expected.logits, rtol=1e-9, atol=1e-9)
        for site in read:
            torch.testing.assert_close(run[site], expected[site], rtol=1e-9, atol=1e-9)
            ours, theirs = (r.grad(METRIC, [site])[site] for r in (run, expected))
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        for weight in ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out", "b_Q", "b_O", "b_out"):
            ours, theirs = (getattr(m.weights, weight)[1] for m in (model, plain))
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.weights.qk(1, 0, 2).dense(), plain.weights.qk(1, 0, 2).dense())
        edits = [
            cb.Zero("z", layer=1, head=2),
            cb.Add("q_in", 0.3, layer=1, head=0),
            cb.Scale("mlp_post", 0.5, layer=0),
        ]
        ours, theirs = (torch.tensor(m.sweep(IDS, [[e] for e in edits], METRIC).values) for m in (model, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        for technique in (attribution_patching, edge_attribution):
            ours, theirs = (technique(m, IDS, OTHER, METRIC) for m in (model, plain))
            for a, b in zip(_numbers(ours), _numbers(theirs), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)
        ours, theirs = (m.generate(IDS, max_new_tokens=3).ids for m in (model, plain))
        assert torch.equal(ours, theirs)


def _numbers(result):
    each = result.data_vars.values() if hasattr(result, "data_vars") else [result]
    return [torch.from_numpy(one.values) for one in each if one.dtype.kind == "f"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_weights_refuses_quantized_ones(kind):
    model, _ = quantized(kind)
    direction = torch.ones(model.d_model, dtype=torch.float64)
    term = cb.SideTerm(
        "model.layers.1.mlp.down_proj.output", torch.ones(1, model.d_model), torch.ones(1, model.anatomy.d_mlp)
    )
    jobs = {
        "an edit of weights": lambda: applied(model, KnowledgeEdit([term], [], "by hand")),
        "taking a direction out of weights": lambda: orthogonalized(model, direction, untie=True),
        "a randomization": lambda: randomized(model, order="cascading", draw="shuffle", seed=0).__enter__(),
        "a gradient of": lambda: matrices_of(model.anatomy, "attn"),
    }
    for what, job in jobs.items():
        with pytest.raises(CasebackError, match=f"{what}.*is quantized: load the model without quantization"):
            job()


def test_verification_allows_for_modules_that_multiply_in_half_precision():
    hf = zoo.tiny("llama", dtype=torch.float32)
    o = InFloat16(hf.model.layers[1].self_attn.o_proj)
    hf.model.layers[1].self_attn.o_proj = o
    assert torch.equal(cb.load(hf).weights.W_O[1].flatten(0, 1), (o.weight * o.scale).T)


class Rounding(Linear8bitLt):
    """Codes, and what is read is rounded to whole numbers."""

    def forward(self, x):
        return super().forward(x.round())


class Inference(Linear8bitLt):
    """Codes behind a kernel without a backward, as bitsandbytes has for four bits on some processors."""

    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


def test_gradients_through_kernels_that_keep_none_are_refused():
    hf = zoo.tiny("llama")
    mlp = hf.model.layers[1].mlp
    mlp.down_proj = Inference(mlp.down_proj)
    model = cb.load(hf)
    model.run(IDS)
    for technique in (attribution_patching, edge_attribution):
        with pytest.raises(AnatomyError, match="Inference multiplies by a kernel that keeps no gradient on cpu"):
            technique(model, IDS, OTHER, METRIC)


class Nameless(Linear8bitLt):
    """Codes that do not say their sizes."""

    def __init__(self, linear):
        super().__init__(linear)
        del self.in_features, self.out_features


@pytest.mark.parametrize(
    ("kind", "why"), [(Rounding, "Rounding is not linear"), (Nameless, "does not say its in_features")]
)
def test_quantized_modules_without_a_matrix_are_refused_by_name(kind, why):
    hf = zoo.tiny("llama")
    attention = hf.model.layers[1].self_attn
    attention.o_proj = kind(attention.o_proj)
    with pytest.raises(AnatomyError, match=f"{why}.*without quantization"):
        cb.load(hf)


def test_packed_experts_are_refused_where_their_matrix_is_asked_for():
    hf = zoo.tiny("gpt_oss")
    model = cb.load(hf)
    experts = hf.model.layers[1].mlp.experts
    experts.down_proj = nn.Parameter(experts.down_proj.detach().to(torch.uint8), requires_grad=False)
    with pytest.raises(AnatomyError, match=r"keeps down_proj quantized.*dequantize=True"):
        model.weights.W_out[1]
    with pytest.raises(AnatomyError, match=r"keep no gradient.*dequantize=True"):
        model.run(IDS, read=["z"], grad=True)


def test_parameters_divided_among_processes_are_refused(tmp_path):
    distributed = torch.distributed
    if not distributed.is_available() or distributed.is_initialized():
        pytest.skip("needs a process group of its own")
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        mesh, hf = init_device_mesh("cpu", (1,)), zoo.tiny("llama")
        plain = cb.load(hf)
        q = hf.model.layers[1].self_attn.q_proj
        q.weight = nn.Parameter(distribute_tensor(q.weight.detach(), mesh, [Shard(0)]))
        with pytest.raises(AnatomyError, match=r"layers.1.self_attn.q_proj.weight .* is a DTensor, divided among proc"):
            cb.load(hf)
        for read in (lambda: weight_matrix(q), lambda: plain.weights.W_Q[1]):
            with pytest.raises(AnatomyError, match="is a DTensor"):
                read()
    finally:
        distributed.destroy_process_group()
