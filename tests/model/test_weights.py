"""Weights by name (PRIMER 0.2, 2.2-2.5, 2.10): they make of the embeddings what the model makes of them."""

import pytest
import torch
from torch.testing import assert_close
from written_out import READ, embedded, final_stream, logits

import shelf
import zoo
from caseback.errors import CasebackError, OutOfRange, SiteAbsent
from caseback.model.algebra.rotary import rotation
from caseback.model.algebra.weights import Weights
from caseback.model.loading.load import load
from caseback.model.running.attention import repeat_heads
from exact import exact

PROMPTS = shelf.ids((8, 5))
LATENT = {"deepseek_v2", "deepseek_v2_full_query", "deepseek_v3"}
CLIPPED = {"mpt_clipped": 1.0, "olmo_clipped": 0.8, "olmoe": 1.2}
MIXTURES = {"mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss", *LATENT}
OPEN = [n for n in shelf.FAMILIES if n not in LATENT]
PER_LAYER = "W_Q W_K W_V W_O b_Q b_K b_V b_O W_in W_gate W_out b_in b_gate b_out".split()


def close(a, b, tol=1e-10):
    assert_close(a, b, rtol=tol, atol=tol)


def storage(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", "gpt2 llama gpt_neox phi3 bloom gpt_oss qwen2_moe mpt_clipped opt".split())
def test_weights_are_views_of_the_parameters(name):
    model = shelf.model(name)
    weights = Weights(model.anatomy)
    held = {storage(p) for p in model.hf.parameters()}
    lacks = {"W_gate"} if "mlp_gate" in model.anatomy.lacks and name != "gpt_oss" else set()
    for one in {"W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"} - lacks:
        for layer in range(model.n_layers):
            assert storage(getattr(weights, one)[layer]) in held, one
    assert storage(weights.W_E) in held and storage(weights.W_U) in held


def test_a_view_shows_what_the_parameter_becomes():
    model = load(zoo.tiny("gpt_neox"))
    weights = Weights(model.anatomy)
    before = weights.W_K[1].clone()
    with torch.no_grad():
        model.hf.gpt_neox.layers[1].attention.query_key_value.weight.mul_(2)
    close(weights.W_K[1], 2 * before)


@pytest.mark.parametrize("name", OPEN)
def test_2_3_values_and_head_writes_are_x_times_the_weights(name):
    model = shelf.model(name)
    weights = Weights(model.anatomy)
    with exact():
        run = model.run(PROMPTS, read=["attn_in", "v", "z", "attn_out"])
    for layer, p in enumerate(model.anatomy.layers):
        norm, x = weights.attn_norm[layer], run["attn_in", layer]
        read = x if norm is None else norm(x)
        v = torch.einsum("bpd,hde->bphe", read, weights.W_V[layer]) + weights.b_V[layer]
        told = run["v", layer]
        if name in CLIPPED:
            v = v.clamp(-CLIPPED[name], CLIPPED[name])
        close(v.repeat_interleave(told.shape[2] // v.shape[2], 2), told)
        out = torch.einsum("bphe,hed->bpd", run["z", layer], weights.W_O[layer]) + weights.b_O[layer]
        out = out if p.attn_post_norm is None else weights.attn_post_norm[layer](out)
        close(out * model.anatomy.residual_scale, run["attn_out", layer])


@pytest.mark.parametrize("name", [n for n in shelf.FAMILIES if n not in MIXTURES])
def test_2_4_neurons_are_x_times_the_weights(name):
    model = shelf.model(name)
    weights = Weights(model.anatomy)
    with exact():
        run = model.run(PROMPTS, read=["mlp_in", "mlp_pre", "mlp_post", "mlp_out"])
    for layer, p in enumerate(model.anatomy.layers):
        norm, x = weights.mlp_norm[layer], run["mlp_in", layer]
        read = x if norm is None else norm(x)
        pre = read @ weights.W_in[layer] + weights.b_in[layer]
        close(pre, run["mlp_pre", layer])
        if "mlp_gate" in model.anatomy.lacks:
            neurons = p.act(pre)
        else:
            neurons = p.act(read @ weights.W_gate[layer] + weights.b_gate[layer]) * pre
        close(neurons, run["mlp_post", layer])
        out = neurons @ weights.W_out[layer] + weights.b_out[layer]
        out = out if p.mlp_post_norm is None else weights.mlp_post_norm[layer](out)
        close(out * model.anatomy.residual_scale, run["mlp_out", layer])


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "deepseek_v3", "granitemoe", "gpt_oss", "llama4_text"])
def test_2_4_experts_are_x_times_the_stacked_weights(name):
    model = shelf.model(name)
    weights, seen = Weights(model.anatomy), {}
    layer = next(i for i, p in enumerate(model.anatomy.layers) if p.experts is not None)
    p = model.anatomy.layers[layer]
    if name == "llama4_text":
        assert weights.W_in[layer].shape == (4, model.d_model, 44)
        held = dict(p.experts.named_parameters())
        close(weights.W_gate[layer], held["gate_up_proj"][..., :44])
        close(weights.W_out[layer], held["down_proj"])
        return
    handle = p.experts.register_forward_hook(lambda m, args, out: seen.update(x=args[0], out=out))
    with exact():
        run = model.run(PROMPTS, read=[("expert", layer)])
    handle.remove()
    x = seen["x"].view(-1, model.d_model)
    pre = torch.einsum("nd,edm->nem", x, weights.W_in[layer]) + weights.b_in[layer]
    gate = torch.einsum("nd,edm->nem", x, weights.W_gate[layer]) + weights.b_gate[layer]
    if name == "gpt_oss":
        pre, gate = pre.clamp(-1, 1), gate.clamp(max=1)
        neurons = (pre + 1) * gate * torch.sigmoid(gate * p.experts.alpha)
    else:
        neurons = torch.nn.functional.silu(gate) * pre
    each = torch.einsum("nem,emd->ned", neurons, weights.W_out[layer]) + weights.b_out[layer]
    share = run["expert", layer].flatten(0, 1)
    close((each * share[..., None]).sum(1), seen["out"].view(-1, model.d_model))


@pytest.mark.parametrize("name", [n for n in shelf.FAMILIES if n not in CLIPPED])
def test_2_2_folded_weights_make_the_models_logits(name):
    model = shelf.model(name)
    folded = Weights(model.anatomy).folded()
    with exact():
        run = model.run(PROMPTS, read=READ)
        x = final_stream(model, run, folded, embedded(run, folded))
        made = logits(folded, x)
    if model.anatomy.logit_softcap is not None:
        made = torch.tanh(made / model.anatomy.logit_softcap) * model.anatomy.logit_softcap
    close(made[run.tokens.mask], run.logits[run.tokens.mask])
    told = folded._centre(run["resid_post", -1])
    close(x[run.tokens.mask], told[run.tokens.mask])


def test_2_2_folding_leaves_the_model_alone():
    model = shelf.model("gemma2")
    before = {name: p.clone() for name, p in model.hf.named_parameters()}
    folded = Weights(model.anatomy).folded(value_bias=True, centre_vocab=True)
    for name in PER_LAYER:
        getattr(folded, name)[0].mul_(3)
    for w in (folded.W_E, folded.W_U, folded.b_U):
        w.mul_(3)
    assert all(torch.equal(before[name], p) for name, p in model.hf.named_parameters())


def test_2_2_folding_is_the_identity_where_no_norm_precedes_the_read():
    model = shelf.model("olmo2")
    weights = Weights(model.anatomy)
    folded = weights.folded()
    for name in ("W_Q", "W_K", "W_V", "W_in", "W_gate", "b_Q", "b_V"):
        assert torch.equal(getattr(weights, name)[1], getattr(folded, name)[1])
    gain = model.anatomy.layers[1].attn_post_norm.weight.detach()
    close(folded.W_O[1], weights.W_O[1] * gain)


@pytest.mark.parametrize("name", ["gpt2", "opt", "olmo", "cohere"])
def test_2_2_writes_are_centred_where_every_read_centres(name):
    folded = Weights(shelf.model(name).anatomy).folded()
    assert folded.centred
    for w in (folded.W_E, folded.W_O[1], folded.b_O[1], folded.W_out[1], folded.b_out[1]):
        assert w.mean(-1).abs().max() < 1e-14
    for w in (folded.W_Q[1], folded.W_in[1], folded.W_U):
        assert w.mean(-2).abs().max() < 1e-14


@pytest.mark.parametrize("name", ["gpt2", "llama_biased", "gemma2"])
def test_2_3_a_value_bias_is_added_once_a_position(name):
    model = shelf.model(name)
    folded = Weights(model.anatomy).folded(value_bias=True)
    assert not folded.b_V.stack().any() and Weights(model.anatomy).b_V.stack().any()
    with exact():
        run = model.run(PROMPTS, read=READ)
        x = final_stream(model, run, folded, embedded(run, folded))
    close(x[run.tokens.mask], folded._centre(run["resid_post", -1])[run.tokens.mask])


def test_2_3_a_value_bias_stays_where_a_sink_takes_its_share():
    with pytest.raises(CasebackError, match="sink"):
        Weights(shelf.model("gpt_oss").anatomy).folded(value_bias=True)


@pytest.mark.parametrize("name", ["gpt2", "phi", "gptj"])
def test_2_5_centring_the_unembedding_changes_no_probability(name):
    model = shelf.model(name)
    weights = Weights(model.anatomy)
    x = torch.randn(4, model.d_model, dtype=torch.float64)
    plain, centred = weights.folded(), weights.folded(centre_vocab=True)
    a, b = logits(plain, x), logits(centred, x)
    close(a.softmax(-1), b.softmax(-1))
    close(b.mean(-1), torch.zeros(4, dtype=torch.float64))
    shifted = a + (x @ torch.randn(model.d_model, 1, dtype=torch.float64))
    close(shifted.softmax(-1), a.softmax(-1))


def test_2_5_tied_weights():
    weights = Weights(shelf.model("llama_tied").anatomy)
    assert torch.equal(weights.W_U, weights.W_E.T)


@pytest.mark.parametrize("name", ["gpt2", "opt", "gpt_neo", "bloom"])
def test_2_3_explicit_qk_reproduces_scores_without_rotation(name):
    """x_i W_QK x_j^T, with the biases' terms, is q_i k_j for every i and j."""
    model = shelf.model(name)
    weights, layer = Weights(model.anatomy), 1
    with exact():
        run = model.run([PROMPTS[0]], read=["attn_in", "q", "k"])
    x = weights.attn_norm[layer](run["attn_in", layer][0])
    q, k = run["q", layer][0], run["k", layer][0]
    scale = rotation(model.anatomy, layer, 0)[0, 0]  # OPT scales its queries
    for h in range(model.n_heads):
        b_q, b_k = weights.b_Q[layer][h], weights.b_K[layer][h]
        made = (x @ weights.QK[layer, h] @ x.T).dense()
        made = made + (x @ weights.W_Q[layer][h] @ b_k)[:, None] + x @ weights.W_K[layer][h] @ b_q + b_q @ b_k
        close(made * scale, q[:, h] @ k[:, h].T)


ROTARY = "llama llama_scaled_rope falcon_grouped phi3 gpt_neox cohere gemma2 smollm3 granite gpt_oss glm".split()


@pytest.mark.parametrize("name", [*ROTARY, "codegen"])
def test_2_3_qk_at_a_distance_reproduces_scores_with_rotation(name):
    """score(i, j) = n_i W_Q R_{i-j} W_K^T n_j^T: one matrix for each distance."""
    model = shelf.model(name)
    weights, turned = Weights(model.anatomy), 0.0
    with exact():
        run = model.run([PROMPTS[0]], read=["attn_in", "q", "k"])
        for layer, h in ((0, 0), (1, model.n_heads - 1)):
            x, norm = run["attn_in", layer][0], weights.attn_norm[layer]
            x = x if norm is None else norm(x)
            k = repeat_heads(run["k", layer].transpose(1, 2), model.n_heads)[0, h]
            for offset in (0, 1, 4):
                turn = rotation(model.anatomy, layer, offset)
                turned = max(turned, float((turn - turn[0, 0] * torch.eye(len(turn))).abs().max()))
                queries, keys = x[offset:], x[: len(x) - offset]
                b_q, b_k = weights.b_Q[layer][h], weights.b_K.per_head[layer][h]
                made = ((queries @ weights.qk(layer, h, offset)).dense() * keys).sum(-1)
                made = made + queries @ weights.W_Q[layer][h] @ turn @ b_k
                made = made + keys @ weights.W_K.per_head[layer][h] @ turn.T @ b_q + b_q @ turn @ b_k
                told = (run["q", layer][0, offset:, h] * k[: len(x) - offset]).sum(-1)
                close(made, told, 1e-5 if name == "codegen" else 1e-10)
    assert turned > 0.1


@pytest.mark.parametrize("name", ["qwen3", "olmo2", "cohere_qk_norm", "mpt_clipped"])
def test_2_3_qk_refuses_a_rotation_where_queries_are_normed_or_clipped(name):
    with pytest.raises(CasebackError, match="normed or clipped"):
        Weights(shelf.model(name).anatomy).qk(0, 0, 1)


def test_rotation_refuses_what_cannot_be_and_leaves_no_trace():
    model = shelf.model("gpt2")
    # transformers leaves hooks of its own once it was asked for hidden states, as another test may have done
    hooks = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.hf.modules()]
    with pytest.raises(OutOfRange, match="start at 0"):
        rotation(model.anatomy, 0, -1)
    with pytest.raises(OutOfRange, match="past the positions"):
        rotation(model.anatomy, 0, 10_000)
    with pytest.raises(SiteAbsent, match="latent"):
        rotation(shelf.model("deepseek_v3").anatomy, 0, 1)
    assert hooks == [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in model.hf.modules()]
    assert model.anatomy.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["llama", "falcon_grouped", "llama_multi_query"])
def test_grouped_heads_repeat_for_their_queries(name):
    model = shelf.model(name)
    weights = Weights(model.anatomy)
    group = model.n_heads // model.n_kv_heads
    assert weights.W_K[0].shape[0] == model.n_kv_heads < model.n_heads
    for h in range(model.n_heads):
        assert torch.equal(weights.W_V.per_head[0][h], weights.W_V[0][h // group])
        assert torch.equal(weights.b_K.per_head[0][h], weights.b_K[0][h // group])
    assert weights.W_Q.per_head[0].shape == weights.W_Q[0].shape
    assert weights.OV.stack().shape == (3, model.n_heads, model.d_model, model.d_model)


def test_indexing_a_weight_over_layers():
    weights = Weights(shelf.model("gpt2").anatomy)
    whole = weights.W_Q.stack()
    assert len(weights.W_Q) == 3 and whole.shape[0] == 3
    close(weights.W_Q[-1], whole[2])
    close(weights.W_Q[1, 3], whole[1, 3])
    close(weights.W_Q[1:, 3], whole[1:, 3])
    close(weights.W_Q[[0, 2]], whole[[0, 2]])
    close(torch.stack(list(weights.W_Q)), whole)
    close(weights.OV[1, 3].dense(), weights.W_V[1, 3] @ weights.W_O[1, 3])
    close(weights.OV[:, 3].dense(), weights.OV.stack().dense()[:, 3])
    close(weights.QK[2].dense(), weights.W_Q[2] @ weights.W_K[2].mT)


@pytest.mark.parametrize(
    ("name", "wrong", "error", "says"),
    [
        ("deepseek_v3", lambda w: w.W_Q[0], SiteAbsent, "latent"),
        ("deepseek_v3", lambda w: w.OV[0], SiteAbsent, "latent"),
        ("deepseek_v3", lambda w: w.b_K.stack(), SiteAbsent, "latent"),
        ("gpt2", lambda w: w.W_gate[0], SiteAbsent, "no gate"),
        ("gpt2", lambda w: w.folded().b_gate[0], SiteAbsent, "no gate"),
        ("llama", lambda w: w.W_pos, SiteAbsent, "rotary, ALiBi"),
        ("qwen2_moe", lambda w: w.W_in.stack(), CasebackError, "W_in cannot be stacked"),
        ("gpt2", lambda w: w.W_Q[3], CasebackError, "layers 0 to 2"),
    ],
)
def test_errors_say_what_is_not_there(name, wrong, error, says):
    with pytest.raises(error, match=says):
        wrong(Weights(shelf.model(name).anatomy))


class Rotated:
    """Folded weights seen in another basis of the stream, or of the neurons."""

    def __init__(self, weights, turn=None, neurons=None):
        self.weights, self.turn, self.neurons = weights, turn, neurons

    def __getattr__(self, name):
        value = getattr(self.weights, name)
        if name in ("W_E", "W_pos"):
            return self._write(value)
        if name == "W_U":
            return self._read(value)
        if name not in PER_LAYER:
            return value
        layers = [value[i] for i in range(len(value))] if name not in ("W_V", "b_V") else list(value.per_head)
        if name in ("W_in", "W_gate", "b_in", "b_gate") and self.neurons is not None:
            layers = [w @ self.neurons for w in layers]
        if name == "W_out" and self.neurons is not None:
            layers = [self.neurons.T @ w for w in layers]
        if name in ("W_O", "b_O", "W_out", "b_out"):
            layers = [self._write(w) for w in layers]
        if name in ("W_Q", "W_K", "W_V", "W_in", "W_gate"):
            layers = [self._read(w) for w in layers]
        return Stack(layers)

    def _write(self, w):
        return w if self.turn is None else w @ self.turn

    def _read(self, w):
        return w if self.turn is None else self.turn.T @ w


class Stack(list):
    per_head = property(lambda self: self)


def turned(size: int, fixing: torch.Tensor | None = None) -> torch.Tensor:
    """A random orthogonal matrix, on request one that leaves a vector where it is."""
    if fixing is None:
        return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    frame = torch.linalg.qr(torch.cat([fixing[:, None], torch.randn(size, size - 1, dtype=torch.float64)], 1)).Q
    block = torch.eye(size, dtype=torch.float64)
    block[1:, 1:] = turned(size - 1)
    return frame @ block @ frame.T


@pytest.mark.parametrize(("name", "free"), [("llama", True), ("granite", True), ("gpt2", False), ("gptj", False)])
def test_2_10_the_stream_has_no_basis_of_its_own_but_neurons_have(name, free):
    """RMSNorm: any rotation of the stream leaves the logits; LayerNorm: those that fix the vector of ones."""
    model = shelf.model(name)
    folded = Weights(model.anatomy).folded()
    with exact():
        run = model.run([PROMPTS[0]], read=READ)

    def made(weights):
        return logits(weights, final_stream(model, run, weights, embedded(run, weights)))

    told, ones = run.logits, torch.ones(model.d_model, dtype=torch.float64)
    close(made(folded), told)
    close(made(Rotated(folded, turned(model.d_model, fixing=ones))), told)
    anyway = made(Rotated(folded, turned(model.d_model)))
    assert float((anyway - told).abs().max()) < 1e-10 if free else float((anyway - told).abs().max()) > 1e-3
    neurons = made(Rotated(folded, neurons=turned(folded.W_in[0].shape[1])))
    assert float((neurons - told).abs().max()) > 1e-3


def test_half_precision_stays_in_views_and_is_widened_in_what_is_computed():
    weights = Weights(load(zoo.tiny("gemma2", torch.bfloat16), verify=False).anatomy)
    assert weights.W_Q[0].dtype == weights.OV[0].left.dtype == torch.bfloat16
    folded = weights.folded()
    for made in (folded.W_E, folded.W_U, folded.W_Q[0], folded.W_O[0], weights.qk(0, 0, 2).dense()):
        assert made.dtype == torch.float32
