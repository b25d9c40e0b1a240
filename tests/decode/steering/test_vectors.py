"""Steering vectors against their formulas: in batches, in decoding, on planted heads and on a linear model."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode import Place, States, class_moments, read_states
from caseback.decode.directions import find_directions
from caseback.decode.probes import linear_probe
from caseback.decode.steering import (
    LAST_TOKEN,
    activation_addition,
    contrastive_addition,
    inference_time_intervention,
    transport,
)
from caseback.decode.steering.vectors import of_pairs
from caseback.errors import CasebackError, EditError, OutOfRange, TokensError
from exact import exact

TEXTS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2], [8, 3]]
HIGH, LOW = [[5, 1, 2], [7, 7, 3, 2], [9, 1]], [[5, 1, 4], [7, 7, 3, 8], [9, 6]]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", shelf.FEW)
def test_activation_addition_acts_position_by_position(name):
    model = shelf.model(name)
    with exact():
        edits = activation_addition(model, [5, 1, 2], [7, 7], layer=1, strength=2.0, pad=4)
        high, low = model.run([[5, 1, 2], [7, 7, 4]], read=["resid_pre"])["resid_pre", 1]
        for side in ("left", "right"):
            tokens = model.tokens(TEXTS, padding=side)
            seen, plain = (model.run(tokens, edits=e, read=["resid_pre"])["resid_pre", 1] for e in (edits, []))
            for row, text in enumerate(TEXTS):
                wanted, n = plain[row][tokens.mask[row]].clone(), min(3, len(text))
                wanted[:n] += 2 * (high - low)[:n]
                assert torch.allclose(seen[row][tokens.mask[row]], wanted, atol=1e-10)
        whole, run = model.generate(TEXTS[2], edits=edits, max_new_tokens=4, read=["resid_pre"])
        ids = whole.ids[0][:-1]
        by_hand = cb.Add("resid_pre", 2 * (high - low)[:2], layer=1, pos=[0, 1])  # the prompt has two tokens
        assert torch.allclose(
            run["resid_pre"], model.run(ids, edits=by_hand, read=["resid_pre"])["resid_pre"], atol=1e-10
        )


def test_what_has_no_difference_is_refused():
    model = shelf.model("llama")
    for given, words in (
        (([1, 2], [1, 2]), "the same tokens"),
        (([[1], [2]], [3]), "2 positive prompts: expected one"),
        (([1], [2, 3]), "pad"),
    ):
        with pytest.raises(CasebackError, match=words):
            activation_addition(model, *given, layer=0)
    with pytest.raises(CasebackError):
        activation_addition(model, [1], [2], layer=0, strength=float("nan"))
    with pytest.raises(CasebackError):
        activation_addition(model, [1], [2], layer=9)
    with pytest.raises(TokensError):
        contrastive_addition(model, [], [])


def test_contrastive_addition_is_the_mean_of_differences_at_the_answer():
    model = shelf.model("llama")
    with exact():
        found = contrastive_addition(model, HIGH, LOW)
        x, y = (read_states(model, side).x for side in (HIGH, LOW))
        assert torch.allclose(found.write, (x - y).mean(1), atol=1e-12)
        asked = contrastive_addition(model, [[2], [2], [1]], [[4], [8], [6]], questions=[[5, 1], [7, 7, 3], [9]])
    assert torch.allclose(asked.write, found.write, atol=1e-12)
    assert found.names == ["resid_post.0", "resid_post.1", "resid_post.2"]
    assert torch.allclose(found.norm, torch.cat([x, y], 1).norm(dim=2).mean(1), atol=1e-12)
    with pytest.raises(CasebackError, match="3 positive and 2 negative"):
        contrastive_addition(model, HIGH, LOW[:2])
    with pytest.raises(CasebackError, match="mean difference is 0.0 long"):
        contrastive_addition(model, HIGH, LOW, pos=0)


def test_pairs_are_judged_by_the_others():
    places, n, d = [Place("resid_post", 0), Place("resid_post", 1)], 40, 6
    base, noise = normal(2, n, d), normal(2, n, d, seed=1)
    noise[1] += 3 * torch.eye(6, dtype=torch.float64)[2]  # the second place alone has a shared difference
    found = of_pairs(base + noise, base, places)
    agreement = []
    for place in range(2):
        others = [torch.cat([noise[place, :i], noise[place, i + 1 :]]).mean(0) for i in range(n)]
        agreement.append(sum(float(o @ noise[place, i]) > 0 for i, o in enumerate(others)) / n)
    assert found.table.agreement.values.tolist() == pytest.approx(agreement)
    assert found.table.auroc[1] > 0.9 and found.table.agreement[1] > 0.95 and found.table.agreement[0] < 0.8
    assert found.best == "resid_post.1"


def test_steering_moves_logits_by_its_product_with_the_unembedding():
    model = shelf.model("llama")
    with exact():
        found = contrastive_addition(model, HIGH, LOW, sites="final_norm")  # what the unembedding multiplies
        plain = model.run(TEXTS).logits
        w = model.weights.W_U
        mask = model.tokens(TEXTS).mask
        for alpha in (-1.5, 0.5, 3.0):
            moved = model.run(TEXTS, edits=found.edits(alpha)).logits
            assert torch.allclose((moved - plain)[mask], (alpha * found.write[0] @ w).expand(len(plain[mask]), -1))
        other = find_directions(read_states(model, HIGH + LOW, sites="final_norm"), [0, 1, 0, 1, 0, 1], n_folds=2)
        both = model.run(TEXTS, edits=[*found.edits(), *other.edits(2.0)]).logits
        apart = [model.run(TEXTS, edits=e).logits - plain for e in (found.edits(), other.edits(2.0))]
        assert torch.allclose(both - plain, apart[0] + apart[1], atol=1e-10)
        assert torch.equal(model.run(TEXTS, edits=found.edits(0.0)).logits, plain)


@pytest.mark.parametrize("name", shelf.FEW)
def test_steered_decoding_is_a_steered_pass(name):
    model = shelf.model(name)
    with exact():
        found = contrastive_addition(model, HIGH, LOW).at("resid_post.1")
        for pos in (None, "prompt", "generated"):
            whole, run = model.generate(TEXTS, edits=found.edits(0.7, pos=pos), max_new_tokens=4, read=["resid_post"])
            for row, text in enumerate(TEXTS):
                ids = whole.ids[row][whole.mask[row]][:-1]
                part = {None: None, "prompt": slice(0, len(text)), "generated": slice(len(text), None)}[pos]
                alone = model.run(ids, edits=found.edits(0.7, pos=part), read=["resid_post"])["resid_post"][:, 0]
                assert torch.allclose(run["resid_post"][:, row][:, run.tokens.mask[row]], alone, atol=1e-10)


def test_the_head_that_tells_is_chosen_and_moved_by_sigma(monkeypatch):
    model = shelf.model("llama")
    prompts = shelf.ids((6,) * 80, seed=3)
    labels = [0, 1] * 40

    def planted(model, prompts, **options):
        states = read_states(model, prompts, **options)
        x = normal(*states.x.shape, seed=5)
        x[7, 1::2] += 4 * torch.eye(x.shape[2], dtype=torch.float64)[3]
        x[5] = x[5, :1]  # a head that looks at the first token alone
        x[2, 1::2] += 1.5 * torch.eye(x.shape[2], dtype=torch.float64)[1]
        return States(x, states.places, states.prompt)

    from caseback.decode.steering import inference_time

    monkeypatch.setattr(inference_time, "read_states", planted)
    for direction in ("mass_mean", "probe"):
        found = inference_time_intervention(model, prompts, labels, heads=2, strength=3.0, direction=direction)
        assert found.places == [Place("z", 1, 3), Place("z", 0, 2)]
        x = planted(model, prompts, sites="z").x[7]
        theta = found.write[0] / found.write[0].norm()
        assert theta.argmax() == 3 and theta[3] > (0.95 if direction == "mass_mean" else 0.8)
        assert float(found.write[0].norm()) == pytest.approx(3 * float((x @ theta).std(unbiased=False)))
        assert found.table.probe[0] > 0.9


def test_of_heads_that_are_always_right_those_of_the_least_surprised_probes_are_chosen(monkeypatch):
    model = shelf.model("llama")
    prompts, labels = shelf.ids((6,) * 40, seed=3), [0, 1] * 20

    def planted(model, prompts, **options):
        states = read_states(model, prompts, **options)
        x = normal(*states.x.shape, seed=5)
        for head in (1, 4, 9, 10):  # the later, the farther apart
            x[head, 1::2] += (8 + head) * torch.eye(x.shape[2], dtype=torch.float64)[2]
        return States(x, states.places, states.prompt)

    from caseback.decode.steering import inference_time

    monkeypatch.setattr(inference_time, "read_states", planted)
    found = inference_time_intervention(model, prompts, labels, heads=2)
    assert (found.table.probe == 1).all() and found.table.bits[0] <= found.table.bits[1]
    probes = linear_probe(planted(model, prompts, sites="z").x, labels, resamples=1, n_folds=4, seed=0).table
    assert int((probes.accuracy == 1).sum()) >= 4
    equal = probes.bits.values[probes.accuracy.values == 1]
    assert found.table.bits.values.tolist() == sorted(equal.tolist())[:2]


def test_heads_are_moved_at_the_last_token_of_each_step_or_at_all():
    model = shelf.model("llama")
    prompts, labels = shelf.ids((5,) * 24, seed=2), [0, 1] * 12
    with exact():
        found = inference_time_intervention(model, prompts, labels, heads=5)
        assert len(found.edits()) < 5 or len({p.layer for p in found.places}) == 5  # heads of a layer in one edit
        by_hand = [cb.Add(value=v, **place.address) for v, place in zip(found.write, found.places, strict=True)]
        assert torch.allclose(
            model.run(TEXTS, edits=found.edits()).logits, model.run(TEXTS, edits=by_hand).logits, atol=1e-10
        )
        strengths = torch.tensor([1.0, 0.0, -1.0])
        together = model.run(TEXTS, edits=found.edits(strengths)).logits
        mask = model.tokens(TEXTS).mask
        for row, strength in enumerate(strengths.tolist()):
            alone = model.run(TEXTS[row], edits=found.edits(strength)).logits[0]
            assert torch.allclose(together[row][mask[row]], alone, atol=1e-10)
        plain, last = model.run(TEXTS).logits, model.run(TEXTS, edits=found.edits(pos=LAST_TOKEN)).logits
        tokens = model.tokens(TEXTS)
        for row, text in enumerate(TEXTS):
            own = [x[row][tokens.mask[row]] for x in (plain, last)]
            assert torch.equal(own[0][: len(text) - 1], own[1][: len(text) - 1])
            assert not torch.allclose(own[0][-1], own[1][-1])
        whole, run = model.generate(TEXTS[0], edits=found.edits(pos=LAST_TOKEN), max_new_tokens=4, read=["resid_post"])
        edits = found.edits(pos=slice(len(TEXTS[0]) - 1, None))
        wanted = model.run(whole.ids[0][:-1], edits=edits, read=["resid_post"])["resid_post"]
        assert torch.allclose(run["resid_post"], wanted, atol=1e-10)
    with pytest.raises(OutOfRange, match="heads=99: expected 1 to 12"):
        inference_time_intervention(model, prompts, labels, heads=99)
    same = [[3, *ids[1:]] for ids in prompts]  # whose first token sees itself alone
    with pytest.raises(OutOfRange, match="only 0 heads differ"):
        inference_time_intervention(model, same, labels, heads=1, pos=0)


def two_classes(n=200, d=32, seed=0):
    x = torch.cat(
        [normal(2, n, d, seed=seed) @ normal(2, d, d, seed=1), normal(2, n, d, seed=2) @ normal(2, d, d, seed=3) + 2], 1
    )
    return States(x, [Place("resid_post", 0), Place("resid_post", 1)], torch.arange(2 * n)), ["a"] * n + ["b"] * n


def test_transport_gives_a_class_the_other_ones_mean_and_covariance():
    states, labels = two_classes()
    moments = class_moments(states, labels, each=True)
    for start, end in (("a", "b"), ("b", "a")):
        edits = transport(moments, source=start, target=end)
        rows = torch.tensor([label == start for label in labels])
        for place, edit in enumerate(edits):
            assert isinstance(edit, cb.Affine) and edit.center is not None and edit.offset is not None
            x, y = states.x[place, rows], states.x[place, ~rows]
            moved = x + (x - edit.center) @ edit.read.T + edit.offset
            assert torch.allclose(moved.mean(0), y.mean(0), atol=1e-10)
            assert torch.allclose(moved.T.cov(), y.T.cov(), atol=1e-10 * float(y.T.cov().abs().max()))
            # the least change among maps that match: A is symmetric and positive
            map_ = edit.read + torch.eye(32)
            assert torch.allclose(map_, map_.T, atol=1e-8) and torch.linalg.eigvalsh(map_).min() > 0
    added = transport(moments, covariance=False)[1]
    assert isinstance(added, cb.Add)
    assert torch.allclose(added.value, states.x[1, 200:].mean(0) - states.x[1, :200].mean(0), atol=1e-12)


def test_transport_is_its_map_in_a_model():
    model = shelf.model("llama")
    states, labels = two_classes()
    edits = transport(class_moments(states, labels, each=True))
    with exact():
        plain = model.run(TEXTS, read=["resid_post"])["resid_post", 0]
        moved = model.run(TEXTS, edits=edits, read=["resid_post"])["resid_post", 0]
    edit = edits[0]
    assert isinstance(edit, cb.Affine) and edit.center is not None and edit.offset is not None
    mask = model.tokens(TEXTS).mask
    assert torch.allclose(moved[mask], (plain + (plain - edit.center) @ edit.read.T + edit.offset)[mask], atol=1e-9)


def test_transport_refuses_what_has_no_map():
    states, labels = two_classes(n=20)
    moments = class_moments(states, labels, each=True)
    with pytest.raises(
        CasebackError, match="covariance of class 'a' at resid_post.0 is singular .20 examples of width"
    ):
        transport(moments)
    assert len(transport(moments, shrinkage=0.1)) == len(transport(moments, covariance=False)) == 2
    with pytest.raises(CasebackError, match="each=True"):
        transport(class_moments(states, labels))
    with pytest.raises(CasebackError, match="source='c'"):
        transport(moments, source="c", target="a")
    with pytest.raises(CasebackError, match="both 'a'"):
        transport(moments, source="a", target="a")
    with pytest.raises(CasebackError, match="plain numbers"):
        transport(class_moments(states.x, labels, each=True))
    with pytest.raises(OutOfRange, match="shrinkage 3"):
        transport(moments, shrinkage=3.0)


def test_a_direction_of_another_width_is_refused():
    model = shelf.model("llama")
    found = of_pairs(normal(1, 5, 7), normal(1, 5, 7, seed=1), [Place("resid_post", 1)])
    with pytest.raises(EditError, match="a value of shape"):
        model.run(TEXTS, edits=found.edits())
