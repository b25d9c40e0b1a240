"""Fine-tuned representations: their identities, what training does, and files."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode import Place
from caseback.decode.steering import ReFT, fit_reft, load_reft, save_reft
from caseback.decode.steering.reft import where_edited
from caseback.errors import CasebackError, EditError, LoadError, OutOfRange, TargetError
from exact import exact

D = 32
PROMPTS, ANSWERS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2], [8, 3], [7, 2, 2]], [[7], [9, 4], [7], [9, 4]]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(r, seed=0):
    return torch.linalg.qr(normal(D, r, seed=seed))[0].T[None]


@pytest.fixture(scope="module")
def model():
    return shelf.model("llama")


@pytest.mark.parametrize("variant", ["loreft", "noreft"])
def test_the_same_map_on_both_sides_is_the_identity(model, variant):
    rows = orthonormal(3) if variant == "loreft" else normal(1, 3, D)
    same = ReFT(rows, rows, torch.zeros(1, 3).double(), [Place("resid_post", 1)], variant)
    with exact():
        edited = model.run(PROMPTS, edits=same.edits(model, PROMPTS)).logits
        assert torch.equal(edited, model.run(PROMPTS).logits)


def test_no_rank_is_no_edit(model):
    none = ReFT(torch.zeros(1, 0, D), torch.zeros(1, 0, D), torch.zeros(1, 0), [Place("resid_post", 1)])
    assert torch.equal(model.run(PROMPTS, edits=none.edits(model, PROMPTS)).logits, model.run(PROMPTS).logits)


def test_it_is_a_distributed_interchange_with_the_learned_source(model):
    """DII: the part of h in the span of R becomes that of a source s with R s = W h + b."""
    rows, weight, bias = orthonormal(3), normal(1, 3, D, seed=1), normal(1, 3, seed=2)
    reft = ReFT(rows, weight, bias, [Place("resid_post", 1)])
    r, w, b = rows[0], weight[0], bias[0]

    def interchange(h):
        h = h.flatten(0, -2)
        source = (h @ w.T + b) @ r + normal(len(h), D, seed=3) @ (torch.eye(D) - r.T @ r)  # all else is arbitrary
        return h - h @ r.T @ r + source @ r.T @ r

    with exact():
        swapped = model.run(PROMPTS, edits=cb.Apply("resid_post", interchange, layer=1))
        given = model.run(PROMPTS, edits=reft.edits(model, PROMPTS))
        mask = model.tokens(PROMPTS).mask
        assert torch.allclose(given.logits[mask], swapped.logits[mask], atol=1e-10)


@pytest.mark.parametrize("variant", ["loreft", "noreft", "direft"])
def test_each_variant_is_its_formula(model, variant):
    rows, weight, bias = normal(1, 2, D), normal(1, 2, D, seed=1), normal(1, 2, seed=2)
    reft = ReFT(rows, weight, bias, [Place("resid_post", 1)], variant)
    with exact():
        h = model.run(PROMPTS[1], read=["resid_post"])["resid_post", 1][0]
        seen = model.run(PROMPTS[1], edits=reft.edits(model, PROMPTS[1]), read=["resid_post"])["resid_post", 1][0]
    inner = h @ weight[0].T + bias[0] - (0 if variant == "direft" else h @ rows[0].T)
    assert torch.allclose(seen, h + inner @ rows[0], atol=1e-10)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_first_and_last_positions_of_each_prompt_are_edited_once(model, side):
    reft = ReFT(normal(1, 2, D), normal(1, 2, D, seed=1), normal(1, 2), [Place("resid_post", 0)], "noreft", 1, 2)
    tokens = model.tokens(PROMPTS, padding=side)
    with exact():
        plain = model.run(tokens, read=["resid_post"])["resid_post", 0]
        together = model.run(tokens, edits=reft.edits(model, tokens), read=["resid_post"])["resid_post", 0]
        for row, prompt in enumerate(PROMPTS):
            alone = model.run(prompt, edits=reft.edits(model, prompt), read=["resid_post"])["resid_post", 0][0]
            mask = tokens.mask[row]
            assert torch.allclose(together[row][mask], alone, atol=1e-10)
            moved = (alone - plain[row][mask]).abs().amax(-1) > 1e-9
            assert moved.tolist() == [i < 1 or i >= len(prompt) - 2 for i in range(len(prompt))]
        whole, run = model.generate(tokens, edits=reft.edits(model, tokens), max_new_tokens=3, read=["resid_post"])
        for row, prompt in enumerate(PROMPTS):
            ids = whole.ids[row][whole.mask[row]][:-1]
            pos = where_edited([len(prompt)], 1, 2)[0]["pos"]
            edit = reft.edits(model, prompt)[0]
            by_hand = cb.Affine("resid_post", edit.read, edit.write, None, edit.offset, layer=0, pos=pos)
            wanted = model.run(ids, edits=by_hand, read=["resid_post"])["resid_post"][:, 0]
            assert torch.allclose(run["resid_post"][:, row][:, run.tokens.mask[row]], wanted, atol=1e-10)


def surprise(model, reft=None):
    total = 0.0
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        edits = [] if reft is None else reft._edits([len(prompt)])
        log_p = model.run([prompt + answer], edits=edits).logits[0].log_softmax(-1)
        total -= sum(float(log_p[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))
    return total / sum(map(len, ANSWERS))


@pytest.mark.parametrize("variant", ["loreft", "noreft", "direft"])
def test_training_teaches_answers_and_begins_at_the_unedited_model(model, variant):
    how = {"rank": 4, "layers": [1], "first": 1, "last": 1, "lr": 0.1, "batch_size": 4, "variant": variant}
    before = shelf.tensors(model.anatomy)
    with exact():
        found = fit_reft(model, PROMPTS, ANSWERS, epochs=80, **how)
        assert found.losses[0] == pytest.approx(surprise(model), abs=1e-9)
        assert surprise(model, found) < 0.2 * found.losses[0]
        assert not found.rows.requires_grad and found.rows.dtype == torch.float64
        if variant == "loreft":
            assert torch.allclose(found.rows[0] @ found.rows[0].T, torch.eye(4).double(), atol=1e-10)
        again = fit_reft(model, PROMPTS, ANSWERS, epochs=80, **how)
        assert torch.equal(found.weight, again.weight)
    after = shelf.tensors(model.anatomy)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_interrupted_training_goes_on(model, tmp_path, monkeypatch):
    how = {"rank": 2, "layers": [0, 2], "lr": 0.01, "epochs": 6, "batch_size": 2}
    whole = fit_reft(model, PROMPTS, ANSWERS, **how)
    from caseback.decode.steering import reft

    calls, real = [], reft.measured

    def stops(*args, **options):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(reft, "measured", stops)
    with pytest.raises(KeyboardInterrupt):
        fit_reft(model, PROMPTS, ANSWERS, checkpoint=tmp_path / "a", **how)
    found = fit_reft(model, PROMPTS, ANSWERS, checkpoint=tmp_path / "a", **how)
    assert len(calls) == 8 + 2 * 3  # three of six epochs were done
    assert torch.equal(found.weight, whole.weight) and found.losses == whole.losses
    with pytest.raises(LoadError, match="another training"):
        fit_reft(model, PROMPTS, ANSWERS, checkpoint=tmp_path / "a", **{**how, "rank": 3})


def test_it_is_the_same_after_it_was_kept(model, tmp_path):
    found = fit_reft(model, PROMPTS, ANSWERS, rank=2, layers=[1], epochs=1)
    path = tmp_path / "a.safetensors"
    save_reft(found, path)
    again = load_reft(path, model=model)
    for name in ("rows", "weight", "bias"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert (again.places, again.variant, again.first, again.last) == (found.places, "loreft", 7, 7)
    assert list(again.losses) == list(found.losses)
    with pytest.raises(LoadError, match="width 32"):
        load_reft(path, model=cb.load("meadow"))
    with pytest.raises(LoadError, match="load_reft reads it"):
        cb.load_edits(path)
    with pytest.raises(LoadError, match="width 32"):
        found.edits(cb.load("meadow"), "the cat")


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"rank": 33}, OutOfRange, "rank=33: expected 1 to 32"),
        ({"rank": 0}, CasebackError, "rank"),
        ({"first": None}, EditError, "None for both"),
        ({"first": 0, "last": 0}, EditError, "numbers of positions"),
        ({"first": -1, "last": 3}, CasebackError, "first"),
        ({"layers": []}, CasebackError, "layers"),
        ({"layers": [9]}, CasebackError, "9"),
        ({"site": "z"}, CasebackError, "'z' is of heads"),
        ({"answers": [[1]]}, TargetError, "answers"),
        ({"lr": float("nan")}, CasebackError, "lr"),
        ({"variant": "other"}, CasebackError, "variant"),
    ],
)
def test_what_cannot_be_trained_is_refused(model, change, error, words):
    given = {"prompts": PROMPTS, "answers": ANSWERS, "epochs": 1, **change}
    with pytest.raises(error, match=words):
        fit_reft(model, **given)
