"""Every kind of edit against the same thing computed by hand on the activations that it meets."""

import math

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
import zoo
from caseback.errors import CasebackError, EditError, OutOfRange, UnknownSite
from caseback.model.running.affine import Affine, Codebook, Fade, Rotate, SideMemory, SideTerm, Tilt
from exact import exact

ROWS = shelf.ids((6, 6))
D = 32


@pytest.fixture
def model():
    return shelf.model("llama")


def before_and_after(model, edit, site="resid_post", layer=1, rows=ROWS, **options):
    """A site's value in the clean run and in the edited one."""
    tokens = model.tokens(rows, **options)
    return model.run(tokens, read=[(site, layer)])[site, layer], model.run(tokens, edits=edit, read=[(site, layer)])[
        site, layer
    ]


def test_zero_replace_add_scale(model):
    value = torch.randn(D, dtype=torch.float64)
    clean, zero = before_and_after(model, cb.Zero("resid_post", layer=1, pos=2))
    assert not zero[:, 2].any() and torch.equal(zero[:, 3], clean[:, 3])
    for edit, expected in (
        (cb.Replace("resid_post", value, layer=1, pos=2), value.expand(2, D)),
        (cb.Add("resid_post", value, layer=1, pos=2), clean[:, 2] + value),
        (cb.Scale("resid_post", 0.25, layer=1, pos=2), clean[:, 2] * 0.25),
        (cb.Scale("resid_post", value, layer=1, pos=2), clean[:, 2] * value),
        (cb.Apply("resid_post", lambda x: x.flip(-1), layer=1, pos=2), clean[:, 2].flip(-1)),
    ):
        _, made = before_and_after(model, edit)
        torch.testing.assert_close(made[:, 2], expected)
        others = [0, 1, 3, 4, 5]
        assert torch.equal(made[:, others], clean[:, others])


@pytest.mark.parametrize(
    ("address", "shape", "block"),
    [
        ({}, (2, 6, 4, 12), (2, 6, 4, 12)),
        ({}, (6, 4, 12), (1, 6, 4, 12)),
        ({}, (12,), (1, 1, 1, 12)),
        ({"head": 1}, (2, 6, 12), (2, 6, 1, 12)),
        ({"head": 1}, (12,), (1, 1, 1, 12)),
        ({"head": [0, 3]}, (2, 6, 2, 12), (2, 6, 2, 12)),
        ({"head": [0, 3]}, (2, 12), (1, 1, 2, 12)),
        ({"pos": 2}, (2, 4, 12), (2, 1, 4, 12)),
        ({"pos": [2, -1]}, (2, 2, 4, 12), (2, 2, 4, 12)),
        ({"pos": slice(1, 4)}, (3, 4, 12), (1, 3, 4, 12)),
        ({"pos": [2, 4], "head": 1, "unit": 3}, (2, 2), (2, 2, 1, 1)),
        ({"pos": 2, "head": 1, "unit": 3}, (2,), (2, 1, 1, 1)),
        ({"pos": 2, "head": [1, 2], "unit": [3, 5]}, (2, 2, 2), (2, 1, 2, 2)),
        ({"pos": torch.tensor([1, -1]), "head": 2}, (2, 12), (2, 1, 1, 12)),
        ({"unit": 3}, (2, 6, 4), (2, 6, 4, 1)),
        ({"unit": [3, 4]}, (2, 1, 4, 2), (2, 1, 4, 2)),
    ],
)
def test_a_value_has_the_shape_of_what_it_replaces_or_broadcasts_to_it(model, address, shape, block):
    """``block`` is the value with the dimensions that an int took, or that were left out, put back as 1."""
    value = torch.randn(shape, dtype=torch.float64)
    clean, made = before_and_after(model, cb.Replace("z", value, layer=1, **address), site="z")
    expected, full = clean.clone(), value.view(block)
    pos = address.get("pos", slice(None))
    heads, units = (listed(address.get(part), n) for part, n in (("head", 4), ("unit", 12)))
    for b in range(2):
        at = (
            list(range(6))[pos]
            if isinstance(pos, slice)
            else listed(pos[b] if isinstance(pos, torch.Tensor) else pos, 6)
        )
        where = torch.tensor(at)[:, None, None], torch.tensor(heads)[:, None], torch.tensor(units)
        expected[(b, *where)] = full.expand(2, len(at), len(heads), len(units))[b]
    assert torch.equal(made, expected)


def listed(part, size):
    """An address part as a list of indices."""
    if part is None:
        return list(range(size))
    return [int(part) % size] if isinstance(part, int | torch.Tensor) else [p % size for p in part]


def test_a_value_at_the_maps_has_heads_before_queries(model):
    value = torch.rand(2, 4, 6, 6, dtype=torch.float64).tril()
    _, made = before_and_after(model, cb.Replace("pattern", value, layer=1), site="pattern")
    assert torch.equal(made, value)
    clean, made = before_and_after(
        model, cb.Replace("pattern", value[:, 1:3, [2, 5]], layer=1, head=[1, 2], pos=[2, 5]), site="pattern"
    )
    clean[:, 1:3, [2, 5]] = value[:, 1:3, [2, 5]]
    assert torch.allclose(made, clean)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (cb.Replace("z", torch.ones(5), layer=1), r"a value of shape \(5,\) where \[4, 12\] is addressed"),
        (
            cb.Replace("z", torch.ones(2, 6, 4, 12, 1), layer=1),
            r"for an address of 4 dimensions \(batch, pos, head, unit\)",
        ),
        (
            cb.Replace("z", torch.ones(2, 6, 12), layer=1, pos=2, head=1),
            r"for an address of 2 dimensions \(batch, unit\)",
        ),
        (cb.Add("resid_post", torch.ones(2, 4, D), layer=1), "the value has 4 positions, 6 needed"),
        (
            cb.Apply("z", lambda x: x[..., :3], layer=1),
            r"the function returned shape \(12, 4, 3\), expected shape \(12, 4, 12\)",
        ),
        (cb.Apply("z", lambda x: None, layer=1), "the function returned NoneType"),
        (cb.Project("resid_post", torch.ones(2, 7), layer=1), "a basis of vectors of size 7 at a site of size 32"),
        (cb.Project("resid_post", torch.ones(2, 3, D), layer=1), r"a basis of shape \(2, 3, 32\): expected vectors"),
        (
            cb.Project("resid_post", torch.full((2100, D), torch.nan), layer=1),
            "a basis of vectors that are not all finite",
        ),
        (cb.Noise("resid_post", torch.ones(5), layer=1), r"a value of shape \(5,\) where \[32\] is addressed"),
        (cb.Mean("pattern", layer=1), "a mean over positions is not defined at 'pattern': give Replace a value"),
        (cb.Zero("z", head=4), "head 4 is out of range at 'z': there are 4, 0 to 3"),
        (cb.Zero("k", head=2), "head 2 is out of range at 'k': there are 2, 0 to 1"),
        (cb.Zero("z", unit=12), "unit 12 is out of range at 'z': there are 12, 0 to 11"),
        (cb.Zero("mlp_out", head=1), "'mlp_out' has no heads: leave out head=1 or edit 'z' or 'head_out'"),
        (cb.Zero("embed", layer=1), "'embed' is not in a layer: leave out layer=1"),
        (cb.Zero("attn_norm.scale"), "'attn_norm.scale' is read-only: edit 'attn_norm' instead"),
        (cb.Zero("pattern", unit=[-1]), "keys are counted from the start of the prompt"),
        ("Zero z", "'Zero z' is not an edit: expected Zero, Replace"),
        (cb.Zero("zz"), "no site is called 'zz'"),
        (cb.Zero("z", layer=5), "layer 5 is out of range: this model has layers 0 to 2"),
        (cb.Zero("z", pos=[0, 6]), "position 6 is out of range: prompt 0 has 6 tokens, so positions go from -6 to 5"),
        (cb.Zero("scores", unit=6), "position 6 is out of range"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(model, edit, says):
    with pytest.raises((EditError, OutOfRange, UnknownSite), match=says):
        model.run(ROWS, edits=[edit])


def test_a_bare_edit_is_an_address_without_an_action(model):
    with pytest.raises((TypeError, CasebackError), match="address without an action"):
        model.run(ROWS, edits=cb.Edit("z"))


def test_router_is_read_only():
    with pytest.raises(EditError, match="'router' is read-only: edit 'expert' instead"):
        shelf.model("mixtral").run(ROWS, edits=cb.Zero("router"))


def test_positions_that_differ_by_prompt(model):
    pos = torch.tensor([1, -2])
    clean, made = before_and_after(model, cb.Zero("resid_post", layer=1, pos=pos), rows=shelf.ids((6, 4)))
    assert not made[0, 1].any() and not made[1, 2].any()
    clean[0, 1], clean[1, 2] = 0, 0
    assert torch.equal(made, clean)


def test_project_removes_a_span_or_keeps_it(model):
    basis = torch.randn(3, D, dtype=torch.float64)
    onto = basis.T @ torch.linalg.inv(basis @ basis.T) @ basis
    clean, gone = before_and_after(model, cb.Project("resid_post", basis, layer=1, pos=[1, 4]))
    _, kept = before_and_after(model, cb.Project("resid_post", basis, keep=True, layer=1, pos=[1, 4]))
    for pos in (1, 4):
        torch.testing.assert_close(gone[:, pos], clean[:, pos] - clean[:, pos] @ onto)
        torch.testing.assert_close(kept[:, pos], clean[:, pos] @ onto)
    torch.testing.assert_close((gone[:, 1] @ basis.T), torch.zeros(2, 3, dtype=torch.float64), rtol=0, atol=1e-10)
    assert torch.equal(gone[:, 2], clean[:, 2])
    _, one = before_and_after(model, cb.Project("resid_post", basis[0], layer=1))
    unit = basis[0] / basis[0].norm()
    torch.testing.assert_close(one, clean - (clean @ unit)[..., None] * unit)


def spanning_badly():
    """Vectors that span two dimensions, the first and the second, in ways that trip an orthonormalization."""
    e = torch.eye(D, dtype=torch.float64)
    return {
        "twice the same": torch.stack([e[0], e[0], e[1]]),
        "with zeros": torch.stack([torch.zeros(D, dtype=torch.float64), e[0], e[1]]),
        "a sum": torch.stack([e[0], e[1], e[0] + e[1]]),
        "more than the width": torch.cat([e[:2]] * D),
        "of very different lengths": torch.stack([1e-12 * e[0], 1e9 * e[1], e[0] + e[1]]),
    }


@pytest.mark.parametrize("case", spanning_badly())
def test_project_and_swap_know_the_span_of_any_vectors(case, model):
    basis, within = spanning_badly()[case], torch.zeros(D, dtype=torch.float64)
    within[:2] = 1
    clean, gone = before_and_after(model, cb.Project("resid_post", basis, layer=1))
    _, kept = before_and_after(model, cb.Project("resid_post", basis, keep=True, layer=1))
    torch.testing.assert_close(gone, clean * (1 - within))
    torch.testing.assert_close(kept, clean * within)
    source = model.run(shelf.ids((6, 6), seed=4), read=[("resid_post", 1)])
    _, swapped = before_and_after(model, cb.Swap("resid_post", basis, source, layer=1))
    torch.testing.assert_close(swapped, clean * (1 - within) + source["resid_post", 1] * within)


@pytest.mark.parametrize("count", [0, 2])
def test_no_vector_spans_nothing(count, model):
    clean, gone = before_and_after(model, cb.Project("resid_post", torch.zeros(count, D), layer=1))
    _, kept = before_and_after(model, cb.Project("resid_post", torch.zeros(count, D), keep=True, layer=1))
    assert torch.equal(gone, clean) and not kept.any()


def test_a_basis_that_is_learned_has_a_gradient(model):
    basis = torch.randn(2, D, dtype=torch.float64, requires_grad=True)
    model.run(shelf.ids((6,)), edits=cb.Project("resid_post", basis, layer=1), grad=True).logits.sum().backward()
    assert basis.grad is not None and basis.grad.isfinite().all() and basis.grad.any()


def test_swap_exchanges_the_part_in_a_subspace(model):
    basis = torch.randn(2, D, dtype=torch.float64)
    source = model.run(shelf.ids((6, 6), seed=4), read=[("resid_post", 1)])
    clean, made = before_and_after(model, cb.Swap("resid_post", basis, source, layer=1, pos=3))
    theirs = source["resid_post", 1]
    torch.testing.assert_close(made[:, 3] @ basis.T, theirs[:, 3] @ basis.T)
    q, _ = torch.linalg.qr(basis.T, mode="complete")
    rest = q[:, 2:]
    torch.testing.assert_close(made[:, 3] @ rest, clean[:, 3] @ rest)
    _, whole = before_and_after(model, cb.Swap("resid_post", torch.eye(D), source, layer=1))
    torch.testing.assert_close(whole, theirs)


def test_noise_is_seeded_and_the_same_in_every_layout(model):
    clean, one = before_and_after(model, cb.Noise("resid_post", 2.0, layer=1))
    _, again = before_and_after(model, cb.Noise("resid_post", 2.0, layer=1))
    _, other = before_and_after(model, cb.Noise("resid_post", 2.0, seed=1, layer=1))
    _, left = before_and_after(model, cb.Noise("resid_post", 2.0, layer=1, pos=[-1]))
    assert torch.equal(one, again) and not torch.equal(one, other)
    torch.testing.assert_close(left[:, -1], one[:, -1])
    noise = (one - clean).flatten()
    assert abs(noise.std() - 2.0) < 0.3 and abs(noise.mean()) < 0.4
    with exact():
        metric, rows = cb.logit(3), shelf.ids((6, 4))
        edit = cb.Noise("resid_pre", 0.7, layer=1, pos=[1, 2])
        ways = [
            metric(model.run(model.tokens(rows), edits=edit)),
            metric(model.run(model.tokens(rows, padding="left"), edits=edit)),
            torch.tensor(model.sweep(rows, [edit], metric).values[0]),
            torch.tensor(model.sweep(rows, [cb.Zero("z", layer=0), edit], metric, token_budget=3).values[1]),
        ]
    for way in ways[1:]:
        torch.testing.assert_close(way, ways[0], rtol=1e-10, atol=1e-10)


def test_mean_over_this_batch_over_a_run_and_a_given_tensor(model):
    rows = shelf.ids((6, 4))
    with exact():
        for padding in ("left", "right"):
            tokens = model.tokens(rows, padding=padding)
            clean = model.run(tokens, read=[("z", 1)])["z", 1]
            real = clean[tokens.mask]
            assert len(real) == 10
            made = model.run(tokens, edits=cb.Mean("z", layer=1, pos=2, head=1), read=[("z", 1)])["z", 1]
            at = tokens.column(2)
            for b in range(2):
                torch.testing.assert_close(made[b, at[b], 1], real[:, 1].mean(0))
                torch.testing.assert_close(made[b, at[b], 0], clean[b, at[b], 0])
        others = model.run(shelf.ids((5, 5, 5), seed=8), read=["z"])
        made = model.run(rows, edits=cb.Mean("z", others, layer=1, pos=0), read=[("z", 1)])["z", 1]
        torch.testing.assert_close(made[0, 0], others["z", 1].mean((0, 1)))
        mean = torch.randn(4, 12, dtype=torch.float64)
        made = model.run(rows, edits=cb.Mean("z", mean, layer=1, pos=0), read=[("z", 1)])["z", 1]
        torch.testing.assert_close(made[1, 0], mean)


def test_mean_at_each_position(model):
    rows = shelf.ids((6, 4, 5))
    with exact():
        tokens = model.tokens(rows, padding="left")
        clean = model.run(tokens, read=[("mlp_out", 1)])["mlp_out", 1]
        aligned = [clean[b][tokens.mask[b]] for b in range(3)]
        made = model.run(tokens, edits=cb.Mean("mlp_out", per_position=True, layer=1), read=[("mlp_out", 1)])[
            "mlp_out", 1
        ]
        for b in range(3):
            mine = made[b][tokens.mask[b]]
            for pos in range(len(mine)):
                expected = torch.stack([a[pos] for a in aligned if len(a) > pos]).mean(0)
                torch.testing.assert_close(mine[pos], expected)


def test_resample_takes_the_same_address_of_another_run(model):
    others = shelf.ids((6,), seed=9)
    source = model.run(others, read=["z", "pattern"])
    clean, made = before_and_after(model, cb.Resample("z", source, layer=1, head=2, pos=[1, 3]), site="z")
    for pos in (1, 3):
        # One source prompt serves all prompts.
        torch.testing.assert_close(made[:, pos, 2], source["z", 1][0, pos, 2].expand(2, 12))
        assert torch.equal(made[:, pos, 1], clean[:, pos, 1])
    clean, made = before_and_after(
        model, cb.Resample("pattern", source, layer=1, head=2, pos=3, unit=[0, 2]), site="pattern"
    )
    torch.testing.assert_close(made[:, 2, 3, [0, 2]], source["pattern", 1][0, 2, 3, [0, 2]].expand(2, 2))
    torch.testing.assert_close(made[:, 2, 3, [1, 3]], clean[:, 2, 3, [1, 3]])


def test_a_source_that_does_not_fit_is_refused(model):
    short = model.run(shelf.ids((4,)), read=["z"])
    with pytest.raises(
        EditError, match="the source prompt has 4 tokens, position 4 is past its end; prompts must be token-aligned"
    ):
        model.run(ROWS, edits=cb.Resample("z", short, layer=1))
    two = model.run(ROWS, read=["z"])
    with pytest.raises(EditError, match="the source run has 2 prompts, more are edited"):
        model.run(shelf.ids((6, 6, 6)), edits=cb.Resample("z", two, layer=1))
    with pytest.raises(CasebackError, match=r"this run did not read mlp_out.1: pass read=\['mlp_out'\]"):
        model.run(ROWS, edits=cb.Resample("mlp_out", two, layer=1))


@pytest.mark.parametrize("site", ["attn_out", "mlp_out", "pattern", "resid_mid"])
def test_freeze_holds_whatever_happens_upstream(model, site):
    tokens = model.tokens(ROWS)
    upstream = cb.Zero("resid_pre", layer=0, pos=2)
    clean = model.run(tokens, read=[(site, 1)])[site, 1]
    moved = model.run(tokens, edits=upstream, read=[(site, 1)])[site, 1]
    held = model.run(tokens, edits=[upstream, cb.Freeze(site, layer=1)], read=[(site, 1)])[site, 1]
    assert not torch.allclose(moved, clean)
    torch.testing.assert_close(held, clean)


def test_freeze_to_another_run(model):
    other = model.run(shelf.ids((6, 6), seed=2), read=["attn_out"])
    held = model.run(ROWS, edits=cb.Freeze("attn_out", other, layer=1), read=[("attn_out", 1)])["attn_out", 1]
    torch.testing.assert_close(held, other["attn_out", 1])


def test_knockout_cuts_edges_and_lets_the_others_share_or_not(model):
    with exact():
        clean = model.run(ROWS, read=["pattern", "v", "z"])
        was = clean["pattern", 1]
        shared = model.run(ROWS, edits=cb.Knockout(layer=1, head=2, query=4, key=[1, 3]), read=["pattern", "z"])
        bare = model.run(
            ROWS, edits=cb.Knockout(layer=1, head=2, query=4, key=[1, 3], renormalise=False), read=["pattern", "z"]
        )
        now, expected = shared["pattern", 1], was[:, 2, 4].clone()
        expected[:, [1, 3]] = 0
        torch.testing.assert_close(bare["pattern", 1][:, 2, 4], expected)
        torch.testing.assert_close(now[:, 2, 4], expected / expected.sum(-1, keepdim=True))
        untouched = torch.ones(4, 6, dtype=torch.bool)
        untouched[2, 4] = False
        torch.testing.assert_close(now[:, untouched], was[:, untouched])
        v = clean["v", 1].repeat_interleave(2, 2)
        torch.testing.assert_close(bare["z", 1][:, 4, 2], torch.einsum("bk,bkd->bd", expected, v[:, :, 2]))


def test_knocking_out_all_keys_but_oneself(model):
    run = model.run(
        ROWS, edits=cb.Knockout(layer=1, query=5, key=[0, 1, 2, 3, 4]), read=[("pattern", 1), ("z", 1), ("v", 1)]
    )
    torch.testing.assert_close(run["pattern", 1][:, :, 5, 5], torch.ones(2, 4, dtype=torch.float64))
    torch.testing.assert_close(run["z", 1][:, 5], run["v", 1][:, 5].repeat_interleave(2, 1))


def test_an_edit_says_itself_in_words():
    assert cb.Zero("z", layer=9, head=6).describe() == "Zero z L9H6"
    assert cb.Scale("mlp_out", 2.0, layer=1, pos=-1).describe() == "Scale mlp_out L1 pos -1"
    assert cb.Zero("resid_post", pos=slice(1, None), unit=[2, 3]).describe() == "Zero resid_post pos 1: unit [2, 3]"
    assert cb.Zero("z", pos=torch.tensor([1, 2])).describe() == "Zero z pos [1, 2]"


def test_hook_names_address_an_edit_too(model):
    clean, made = before_and_after(model, cb.Zero("blocks.1.hook_resid_post", pos=2))
    assert not made[:, 2].any() and clean[:, 2].any()
    _, made = before_and_after(model, cb.Zero("model.layers.1", pos=2))
    assert not made[:, 2].any()


def test_an_expert_may_be_silenced_added_and_reweighted():
    """mlp_out is linear in the experts' weights."""
    model = shelf.model("mixtral")
    with exact():
        clean = model.run(ROWS, read=[("expert", 1), ("mlp_out", 1)])
        weights, out = clean["expert", 1], clean["mlp_out", 1]
        assert ((weights != 0).sum(-1) == 2).all()
        parts = torch.zeros(5, *out.shape, dtype=out.dtype)
        for e in range(5):
            only = torch.zeros(5)
            only[e] = 1.0
            run = model.run(ROWS, edits=cb.Replace("expert", only, layer=1), read=[("mlp_out", 1)])
            parts[e] = run["mlp_out", 1]
        torch.testing.assert_close(torch.einsum("bpe,ebpd->bpd", weights, parts), out)
        new = torch.rand(2, 6, 5, dtype=torch.float64)
        run = model.run(ROWS, edits=cb.Replace("expert", new, layer=1), read=[("mlp_out", 1), ("expert", 1)])
        torch.testing.assert_close(run["mlp_out", 1], torch.einsum("bpe,ebpd->bpd", new, parts))
        torch.testing.assert_close(run["expert", 1], new)
        none = model.run(ROWS, edits=cb.Zero("expert", layer=1), read=[("mlp_out", 1)])
        assert not none["mlp_out", 1].any()


def test_a_python_number_keeps_its_digits_in_a_float64_model():
    model = shelf.model("llama")
    tokens = model.tokens(shelf.ids())
    with exact():
        clean = model.run(tokens, read=[("z", 1)])
        scaled = model.run(tokens, read=[("z", 1)], edits=cb.Scale("z", 1 + 1e-9, layer=1))
    torch.testing.assert_close(scaled["z", 1], clean["z", 1] * (1 + 1e-9), rtol=1e-15, atol=0)


@pytest.mark.parametrize("per_position", [False, True])
def test_a_mean_in_half_precision_does_not_overflow(per_position):
    half = cb.load(zoo.tiny("gpt2", dtype=torch.float16))
    rows = shelf.ids((6,) * 50)
    run = half.run(rows, read=[("resid_post", 1)], edits=cb.Replace("resid_post", 2000.0, layer=1))
    assert (run["resid_post", 1] == 2000).all() and 2000 * len(rows) > torch.finfo(torch.float16).max
    put = half.run(rows, read=[("resid_post", 1)], edits=cb.Mean("resid_post", run, per_position=per_position, layer=1))
    assert (put["resid_post", 1] == 2000).all()


def test_noise_does_not_depend_on_the_default_dtype(model):
    edit = cb.Noise("resid_post", 2.0, layer=1)
    _, one = before_and_after(model, edit)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64 if before == torch.float32 else torch.float32)
        _, other = before_and_after(model, edit)
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(one, other)


def test_noise_is_the_same_wherever_a_prompt_stands_in_the_batch(model):
    rows = shelf.ids((6, 4, 5))
    for seed, own in ((3, [3, 3, 3]), ([3, 8, 3], [3, 8, 3])):
        together = model.run(rows, edits=cb.Noise("resid_post", 2.0, seed=seed, layer=1)).logits
        for b, row in enumerate(rows):
            alone = model.run([row], edits=cb.Noise("resid_post", 2.0, seed=own[b], layer=1)).logits[0]
            torch.testing.assert_close(together[b, : len(row)], alone, rtol=1e-4, atol=1e-4)
    same = model.run([rows[0], rows[0]], edits=cb.Noise("resid_post", 2.0, seed=[1, 2], layer=1)).logits
    assert not torch.allclose(same[0], same[1])


@pytest.mark.parametrize("seed", [None, 0.5, "a", slice(2), [1, 2, 3]])
def test_noise_refuses_seeds_that_are_none_or_too_many(model, seed):
    with pytest.raises(EditError, match="seed"):
        model.run(shelf.ids((4, 4)), edits=cb.Noise("resid_post", 1.0, seed=seed, layer=1))


BAD = (
    math.nan,
    math.inf,
    -math.inf,
    np.float64("nan"),
    [0.0, math.nan],
    np.array([math.inf]),
    torch.full((4,), math.nan),
)


@pytest.mark.parametrize("value", BAD, ids=str)
def test_numbers_that_are_not_finite_are_refused_where_they_are_given(value):
    vector = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    square = torch.zeros(len(vector), len(vector)) + vector
    for edit in (
        lambda: cb.Add("resid_post", value, layer=1),
        lambda: cb.Replace("resid_post", value, layer=1),
        lambda: cb.Scale("z", value, layer=1),
        lambda: cb.Noise("resid_post", value, layer=1),
        lambda: cb.Mean("resid_post", vector, layer=1),
        lambda: cb.Project("resid_post", vector[None], layer=1),
        lambda: Tilt("resid_post", value, layer=1),
        lambda: Fade("resid_post", value, layer=1),
        lambda: Rotate("resid_post", torch.eye(2, 8), value, layer=1),
        lambda: Affine("resid_post", square, layer=1),
        lambda: Affine("resid_post", torch.zeros_like(square), offset=vector, layer=1),
        lambda: SideTerm("model.layers.0.mlp.output", square, square),
        lambda: Codebook("model.layers.0.mlp.output", square, square, vector),
        lambda: SideMemory("model.layers.0.mlp.output", square, vector[:1]),
    ):
        with pytest.raises(EditError, match="(has|is) (nan|inf|-inf): expected finite numbers"):
            edit()


def test_minus_infinity_hides_a_key_and_a_run_that_is_computed_passes():
    assert cb.Replace("scores", -math.inf, layer=0).value == -math.inf
    with pytest.raises(EditError, match="value is nan: expected numbers, not NaN"):
        cb.Replace("scores", math.nan, layer=0)
    learned = torch.full((4,), math.nan, requires_grad=True)
    assert cb.Add("resid_post", learned).value is learned
    with pytest.raises(EditError, match="value is inf"):
        cb.Add("resid_post", 10**400)
    assert cb.Add("resid_post", 10**30).value == 10**30


def test_an_edit_shows_what_was_given_and_no_whole_tensor():
    assert repr(cb.Zero("z", layer=0, head=[1, 2])) == "Zero(layer=0, head=[1, 2], site='z')"
    assert repr(cb.Add("resid_post", torch.ones(64), layer=1)) == (
        "Add(layer=1, site='resid_post', value=<tensor (64,)>)"
    )
