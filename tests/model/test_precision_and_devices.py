"""Half precision, and models spread over devices or kept on disk."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import caseback as cb
import shelf
import zoo
from caseback.decode.steering.ablation import orthogonalized
from caseback.decode.vocabulary.lenses.logit_lens import logit_lens
from caseback.edit.knowledge_edit import KnowledgeEdit, applied
from caseback.errors import CasebackError, LoadError
from caseback.localize.circuits import attribution_graph, edge_attribution
from caseback.localize.components import attribution_patching, logit_attribution
from caseback.localize.inputs.gradients.integrated_gradients import integrated_gradients
from caseback.localize.inputs.gradients.relevance import attn_lrp
from caseback.localize.inputs.training.matrices import matrices_of
from caseback.localize.inputs.trust.randomisation import randomized
from caseback.stream.tables.registry import TABLES
from logical_devices import FIRST, logical_devices

NAMES = [
    "gpt2",
    "llama",
    "mistral",
    "gemma2",
    "bloom",
    "gptj",
    "falcon_alibi",
    "mixtral",
    "gpt_oss",
    "deepseek_v3",
    "mpt",
    "phi3",
]


def half(name, dtype=torch.bfloat16):
    return cb.load(zoo.tiny(name, dtype=dtype))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_runs_reads_edits_sweeps_and_generates(name):
    model = half(name)
    tokens = model.tokens(shelf.ids())
    with torch.no_grad():
        expected = model.hf(tokens.ids, use_cache=False).logits
    run = model.run(tokens, read=shelf.readable(model.anatomy))
    assert torch.equal(run.logits, expected) and run.logits.dtype == torch.bfloat16
    full = shelf.model(name).run(tokens, read=["resid_post"])
    size = full["resid_post"].abs().max()
    assert (run["resid_post", 0] - full["resid_post", 0]).abs().max() < 0.05 * size
    edits = [
        [cb.Zero("z", layer=1, head=1)],
        [cb.Scale("k", 1.5, layer=1)],
        [cb.Add("resid_post", 0.5, layer=0, pos=3)],
    ]
    edits += [[cb.Zero("pattern", layer=1, head=0, pos=-1, unit=2)], [cb.Noise("mlp_out", 0.5, layer=1)]]
    metric = cb.logit_diff(3, 5)
    swept = model.sweep(tokens, edits, metric)
    # Rounding to eight bits along three layers, in another order of sums.
    scale = model.run(tokens).logits.float().std()
    for edit, values in zip(edits, swept.values, strict=True):
        alone = metric(model.run(tokens, edits=edit))
        assert alone.dtype == torch.float32
        assert (torch.tensor(values) - alone).abs().max() < 0.15 * scale
    gradient = model.run(tokens, read=["resid_post", "q"], grad=True).grad(metric, ["resid_post", "q"])
    assert gradient["resid_post"].dtype == torch.bfloat16 and gradient["q", 1].isfinite().all()
    made = model.generate(tokens, edits=edits[0], max_new_tokens=3)
    assert made.lengths.tolist() == [12, 12]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_bfloat16_with_padding(name):
    model = half(name)
    rows = shelf.ids((9, 5))
    right, left = (
        model.run(model.tokens(rows, padding=side), edits=cb.Zero("scores", layer=1, pos=-1))
        for side in ("right", "left")
    )
    a, b = (cb.log_prob(4)(run) for run in (right, left))
    assert a.isfinite().all() and ((a - b).abs() < 0.05 * a.abs()).all()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_float16(name):
    model = half(name, torch.float16)
    run = model.run(shelf.ids(), read=["pattern"], edits=cb.Knockout(layer=1, query=-1, key=[0, 1]))
    assert run.logits.isfinite().all()
    assert not run["pattern", 1][:, :, -1, :2].any()
    torch.testing.assert_close(run["pattern", 1].float().sum(-1), torch.ones(2, 4, 9), rtol=0, atol=2e-3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    zoo.tiny("llama", dtype=torch.float32).save_pretrained(path)
    return path


def everything(model):
    """Numbers of every kind of use."""
    rows = shelf.ids((9, 6))
    edits = [cb.Zero("z", layer=1, head=2), cb.Scale("k", 1.5, layer=2), cb.Add("q_in", 0.3, layer=1, head=0)]
    run = model.run(rows, edits=edits, read=["resid_post", "pattern", "head_out"])
    yield run.logits
    yield run["head_out"]
    yield torch.tensor(model.sweep(rows, [[e] for e in edits], cb.logit_diff(3, 5)).values)
    yield model.generate(rows, edits=edits, max_new_tokens=4).ids
    yield model.run(rows, read=["resid_pre"], grad=True).grad(cb.logit(3), ["resid_pre"])["resid_pre"]


def test_a_device_map_of_one_device(saved):
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    mapped = cb.load(saved, device_map={"": "cpu"})
    for ours, plain in zip(everything(mapped), everything(cb.load(saved)), strict=True):
        torch.testing.assert_close(ours, plain)


def offloaded(saved, folder, how):
    """The saved model with weights that accelerate brings while a module runs."""
    accelerate = pytest.importorskip("accelerate", reason="offloading needs accelerate")
    if how == "one layer on disk":
        places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
        places |= {f"model.layers.{i}": "disk" if i == 1 else "cpu" for i in range(3)}
        return cb.load(saved, device_map=places, offload_folder=str(folder))
    hf = AutoModelForCausalLM.from_pretrained(saved).eval()
    if how == "cpu":
        accelerate.cpu_offload(hf, torch.device("cpu"))
    else:
        accelerate.disk_offload(hf, str(folder), torch.device("cpu"))
    return cb.load(hf)


@pytest.mark.parametrize("how", ["one layer on disk", "cpu", "disk"])
def test_offloaded_weights_are_read_where_they_are(saved, tmp_path, how):
    """Every kind of use, and the weights themselves, as with the same model in memory."""
    plain, model = cb.load(saved), offloaded(saved, tmp_path, how)
    assert any(parameter.is_meta for parameter in model.hf.parameters())
    for ours, theirs in zip(everything(model), everything(plain), strict=True):
        torch.testing.assert_close(ours, theirs)
    hf = AutoModelForCausalLM.from_pretrained(saved)
    q = hf.model.layers[1].self_attn.q_proj.weight
    torch.testing.assert_close(model.weights.W_Q[1], q.T.unflatten(1, (4, -1)).transpose(0, 1))
    torch.testing.assert_close(model.weights.W_E, hf.model.embed_tokens.weight)
    torch.testing.assert_close(model.weights.W_U, hf.lm_head.weight.T)
    norm = model.anatomy.norms[model.anatomy.layers[1].attn_norm]
    torch.testing.assert_close(norm.gamma, hf.model.layers[1].input_layernorm.weight)
    sites = ["z", "head_out", "q_in", "resid_mid"]
    ours, theirs = (m.run(shelf.ids((9, 6)), read=sites, grad=True).grad(cb.logit(3), sites) for m in (model, plain))
    for name in sites:
        torch.testing.assert_close(ours[name], theirs[name])


def test_a_model_without_numbers_is_refused():
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(zoo.FAMILIES["llama"]())
    for verify in (True, False):
        with pytest.raises(CasebackError, match="on the meta device, without numbers"):
            cb.load(hf.eval(), verify=verify)


def test_a_model_that_has_lost_its_numbers_is_refused():
    model = cb.load(zoo.tiny("llama"))
    model.hf.to("meta")
    jobs = [
        lambda: model.run(shelf.ids()),
        lambda: model.run(shelf.ids(), read=["z"], grad=True),
        lambda: model.sweep(shelf.ids(), [cb.Zero("z", layer=1)], cb.logit(3)),
        lambda: model.weights.W_Q[1],
    ]
    for job in jobs:
        with pytest.raises(CasebackError, match="on the meta device, without numbers: load"):
            job()


@pytest.mark.parametrize("how", ["one layer on disk", "cpu"])
def test_what_changes_weights_refuses_offloaded_ones(saved, tmp_path, how):
    model = offloaded(saved, tmp_path, how)
    term = cb.SideTerm("model.layers.1.mlp.down_proj.output", torch.ones(1, 32), torch.ones(1, model.anatomy.d_mlp))
    jobs = {
        "an edit of weights": lambda: applied(model, KnowledgeEdit([term], [], "by hand")),
        "taking a direction out of weights": lambda: orthogonalized(model, torch.ones(32), untie=True),
        "a randomization": lambda: randomized(model, order="cascading", draw="shuffle", seed=0).__enter__(),
        "a gradient of": lambda: matrices_of(model.anatomy, "attn"),
    }
    for what, job in jobs.items():
        with pytest.raises(CasebackError, match=f"{what}.* is offloaded: load the model without offloading"):
            job()


def test_a_device_without_float64():
    """As Apple's mps: what is summed up in float64 is summed up on the processor."""
    plain = cb.load(zoo.tiny("llama", dtype=torch.float32))
    rows, other, metric = shelf.ids((9, 6), seed=1), shelf.ids((9, 6), seed=2), cb.logit_diff(3, 5)
    edits = [[cb.Zero("z", layer=1, head=2)], [cb.Scale("k", 1.5, layer=2)]]
    jobs = [
        lambda model: model.run(rows, read=["resid_post"])["resid_post"].cpu(),
        lambda model: torch.tensor(model.sweep(rows, edits, metric).values),
        lambda model: torch.from_numpy(attribution_patching(model, rows, other, metric)["z"].values),
        lambda model: torch.from_numpy(logit_attribution(model, rows, metric).values),
        lambda model: model.weights.folded().W_Q.stack().cpu(),
        lambda model: torch.from_numpy(edge_attribution(model, rows, other, metric, steps=3).values),
        lambda model: torch.from_numpy(
            attribution_patching(model, rows, other, metric, sites=["z"], steps=3)["z"].values
        ),
        lambda model: torch.from_numpy(integrated_gradients(model, rows, metric, steps=5).values),
        lambda model: torch.from_numpy(attn_lrp(model, rows, metric).values),
        lambda model: torch.from_numpy(logit_lens(model, rows)["entropy"].values),
        lambda model: torch.from_numpy(attribution_graph(model, rows[:1], "neurons", most_logits=2).weight.values),
    ]
    with logical_devices(float64=False):
        model = cb.load(zoo.tiny("llama", dtype=torch.float32).to(FIRST))
        came = [job(model) for job in jobs]
        with pytest.raises(TypeError, match="does not have"):
            torch.ones(2, device=FIRST).double()
        with pytest.raises(LoadError, match="no float64: expected float32, or device='cpu'"):
            cb.load("meadow", device="privateuseone:0", dtype=torch.float64)
    for job, ours in zip(jobs, came, strict=True):
        torch.testing.assert_close(ours, job(plain), rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_tables_of_a_corpus_on_a_device_without_float64(name):
    """A batch's sums are float32's; batches are merged on the host in float64."""
    corpus = [shelf.ids((n,), seed=n)[0] for n in (9, 12, 7, 10)]
    of_experts = ["router_counts", "expert_documents"]
    names = of_experts if name == "mixtral" else [each for each in TABLES if each not in of_experts]
    plain = cb.load(zoo.tiny(name, dtype=torch.float32))
    expected = cb.stream.collect(plain, corpus, names, length=12)
    with logical_devices(float64=False):
        model = cb.load(zoo.tiny(name, dtype=torch.float32).to(FIRST))
        came = cb.stream.collect(model, corpus, names, length=12, batch_tokens=24)
    assert len(expected._states) == len(names)
    for table, state in expected._states.items():
        for key, theirs in state.items():  # assert_close compares types, shapes and devices too
            torch.testing.assert_close(came._states[table][key], theirs, rtol=1e-3, atol=1e-4)


def test_offloaded_experts_are_read_where_they_are(tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="offloading needs accelerate")
    plain, hf = zoo.tiny("mixtral"), zoo.tiny("mixtral")
    accelerate.cpu_offload(hf, torch.device("cpu"))
    ours, theirs = cb.load(hf), cb.load(plain)
    assert any(parameter.is_meta for parameter in hf.parameters())
    torch.testing.assert_close(ours.weights.W_out[1], theirs.weights.W_out[1])
    torch.testing.assert_close(ours.run(shelf.ids()).logits, theirs.run(shelf.ids()).logits)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "mixtral"])
def test_an_accelerator_says_what_the_processor_says(name):
    on_cpu, on_gpu = (cb.load(zoo.tiny(name, dtype=torch.float32).to(device)) for device in ("cpu", "cuda"))
    for a, b in zip(everything(on_gpu), everything(on_cpu), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)
