"""A model whose layers are on several devices gives what it gives on one.

``device_map`` spreads a model's layers; here over devices in name only (``logical_devices``), among which torch refuses
to mix tensors as it does between accelerators. Accelerate's own hooks carry the stream over the seam, as they do there.
"""

import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.decode.vocabulary.lenses.logit_lens import logit_lens
from caseback.localize.circuits import edge_attribution
from caseback.localize.components import ablate, attribution_patching, logit_attribution
from caseback.localize.inputs.gradients.integrated_gradients import integrated_gradients
from caseback.model.algebra.decompose import logit_parts
from logical_devices import FIRST, HOST, SECOND, logical_devices, numbers, spread

pytest.importorskip("accelerate", reason="device_map needs accelerate")

METRIC = cb.logit_diff(3, 5)
IDS, OTHER = shelf.ids((9, 6), seed=1), shelf.ids((9, 6), seed=2)
READ = ["embed", "resid_pre", "attn_norm", "q", "v", "scores", "pattern", "z", "head_out", "attn_out", "mlp_in"]
READ += ["mlp_out", "resid_post", "final_norm", "final_norm.scale", "logits"]
WITH_HEADS_OF_THEIR_OWN = ["q_in", "v_in"]
EDITS = [
    cb.Zero("z", layer=1, head=2),
    cb.Scale("k", 1.5, layer=2),
    cb.Add("resid_post", torch.linspace(-1, 1, 32, dtype=torch.float64), layer=2, pos=3),
    cb.Knockout(layer=2, query=-1, key=[0, 1]),
    cb.Zero("pattern", layer=2, head=0, pos=-1, unit=2),
    cb.Noise("mlp_out", 0.5, layer=2),
]


def read(model):
    sites = [*READ, *(s for s in WITH_HEADS_OF_THEIR_OWN if s not in model.anatomy.lacks)]
    run = model.run(IDS, read=sites)
    return [run.logits, *(run[site] for site in sites), run["resid_post", -1] - run["resid_pre", 0]]


def edited(model):
    other = model.run(OTHER, read=["resid_pre", "z"])
    exchanged = [cb.Resample("resid_pre", other, layer=2, pos=1), cb.Resample("z", other, layer=1, head=0)]
    return [model.run(IDS, edits=edits).logits for edits in (*EDITS, *exchanged, EDITS)]


def gradients(model):
    sites = ["resid_pre", "z", "head_out", "attn_out"]
    sites += [s for s in WITH_HEADS_OF_THEIR_OWN if s not in model.anatomy.lacks]
    run = model.run(IDS, read=sites, grad=True)
    return [run.grad(METRIC, [site])[site] for site in sites]


def weights(model):
    held = model.weights
    names = ["W_Q", "W_K", "W_O", "b_O", "W_in", "W_out"]
    whole = [getattr(held, name).stack() for name in names] + [held.W_E, held.W_U, held.b_U]
    return [
        *whole,
        held.folded().W_Q.stack(),
        held.qk(2, 0, 3).dense() if "q_in" not in model.anatomy.lacks else held.W_U,
    ]


def swept(model):
    other = model.run(OTHER, read=["resid_pre", "z"])
    grid = [cb.Resample("resid_pre", other, layer=layer, pos=p) for layer in range(3) for p in range(4)]
    heads = [cb.Resample("z", other, layer=layer, head=h) for layer in range(3) for h in range(4)]
    ends = [cb.Zero("embed", pos=1), cb.Zero("resid_post", layer=2, pos=-1), cb.Zero("final_norm", pos=-1)]
    metrics = [cb.kl(model.run(IDS)), cb.loss(), cb.activation("resid_post", unit=3, layer=2)]
    for variants, metric in [(v, METRIC) for v in (grid, heads, ends, EDITS)] + [(EDITS[:2], m) for m in metrics]:
        yield torch.tensor(model.sweep(IDS, variants, metric).values).to(model.device)


JOBS = {
    "read": read,
    "edit": edited,
    "gradient": gradients,
    "generate": lambda m: [m.generate(IDS[:1], edits=EDITS[:3], max_new_tokens=4).ids],
    "weights": weights,
    "logit attribution": lambda m: [logit_attribution(m, IDS, METRIC)],
    "shares of all positions": lambda m: [logit_parts(m, IDS, [3, 5], pos=None)],
    "sweep": lambda m: [*swept(m)],
    "ablation": lambda m: [ablate(m, IDS, METRIC)],
    "logit lens": lambda m: [logit_lens(m, IDS)],
    "attribution patching": lambda m: [attribution_patching(m, IDS, OTHER, METRIC)],
    "attribution patching, steps": lambda m: [attribution_patching(m, IDS, OTHER, METRIC, sites=["z"], steps=3)],
    "edge attribution": lambda m: [edge_attribution(m, IDS, OTHER, METRIC)],
    "edge attribution, steps": lambda m: [edge_attribution(m, IDS, OTHER, METRIC, steps=3)],
    "integrated gradients": lambda m: [integrated_gradients(m, IDS, METRIC, steps=5)],
}


@pytest.mark.parametrize(
    ("name", "places"),
    [(name, (FIRST, SECOND)) for name in ("llama", "gpt2", "gemma2", "mixtral", "gptj", "bloom")]
    + [("llama", (HOST, FIRST))],
    ids=lambda value: value if isinstance(value, str) else " and ".join(map(str, value)),
)
def test_a_spread_model_gives_what_one_device_gives(name, places):
    plain = cb.load(zoo.tiny(name))
    with logical_devices() as devices:
        model = cb.load(spread(zoo.tiny(name), places))
        where = {devices.of(next(p.layer.parameters())) for p in model.anatomy.layers}
    assert where == set(places) and model.anatomy.device == HOST  # outside the context all are one
    for what, job in JOBS.items():
        expected = numbers(job(plain))
        with devices:
            results = job(model)
            assert all(devices.of(x) == places[0] for x in results if isinstance(x, torch.Tensor)), what
            came = numbers(results)
        for ours, theirs in zip(came, expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-10, equal_nan=True), what


def test_the_double_refuses_what_accelerators_refuse():
    """What the test above would not see if its devices mixed."""
    with logical_devices() as devices:
        x, y, host = torch.arange(4.0, device=FIRST), torch.arange(4.0).to(SECOND), torch.arange(4)
        assert [str(devices.of(t)) for t in (x, y, host, x[1:] + 1, y.to(x))] == [
            str(d) for d in (FIRST, SECOND, HOST, FIRST, FIRST)
        ]
        assert torch.equal(x[host], x) and float((x + torch.tensor(1.0)).sum()) == 10
        x.copy_(y)
        for mixed in (
            lambda: x + y,
            lambda: x @ y,
            lambda: torch.cat([x, y]),
            lambda: x + host,
            lambda: x[y.long()],
            lambda: host[x.long()],
            lambda: torch.nn.functional.embedding(host, torch.ones(4, 2, device=FIRST)),
            lambda: torch.stack([x, y]),
            lambda: x.index_put((host,), y),
        ):
            with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
                mixed()
        with pytest.raises(TypeError, match="can't convert"):
            x.numpy()
        w = torch.ones(4, device=SECOND, requires_grad=True)
        (g,) = torch.autograd.grad((w.to(FIRST) * x).sum(), w)
        assert devices.of(g) == SECOND and torch.equal(g.cpu(), x.cpu())
