"""Half precision, and models spread over devices or kept on disk."""

import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.errors import AnatomyError, CasebackError

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


def test_layers_kept_on_disk_are_right_or_refused_in_words(saved, tmp_path):
    """Offloaded weights are there only while their module runs: what needs them otherwise says so."""
    pytest.importorskip("accelerate", reason="offloading needs accelerate")
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{i}": "disk" if i == 1 else "cpu" for i in range(3)}
    plain = cb.load(saved)
    try:
        model = cb.load(saved, device_map=places, offload_folder=str(tmp_path))
    except AnatomyError as error:
        assert "offloaded" in str(error)
        model = cb.load(saved, device_map=places, offload_folder=str(tmp_path), verify=False)
    rows = shelf.ids((9, 6))
    reads = ["resid_post", "pattern", "q", "z", "mlp_out"]
    ours, theirs = (m.run(rows, read=reads, edits=cb.Zero("z", layer=1, head=1)) for m in (model, plain))
    torch.testing.assert_close(ours.logits, theirs.logits)
    for name in reads:
        torch.testing.assert_close(ours[name], theirs[name])
    variants = [cb.Zero("z", layer=i, head=h) for i in range(3) for h in range(2)]
    swept = [torch.tensor(m.sweep(rows, variants, cb.logit(3)).values) for m in (model, plain)]
    torch.testing.assert_close(*swept)
    with pytest.raises(CasebackError, match="offloaded and only present while the model runs"):
        model.run(rows, read=[("head_out", 1)])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "mixtral"])
def test_an_accelerator_says_what_the_processor_says(name):
    on_cpu, on_gpu = (cb.load(zoo.tiny(name, dtype=torch.float32).to(device)) for device in ("cpu", "cuda"))
    for a, b in zip(everything(on_gpu), everything(on_cpu), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)
