"""RAVEL for features: a dictionary with a feature for each value disentangles, one of combinations does not."""

import itertools

import numpy as np
import pytest
import torch

import caseback as cb
from caseback.decode.dictionaries import Facts, Standard, attached
from caseback.errors import CasebackError, EditError, OutOfRange
from caseback.localize.abstraction import At, Interchanges, binary_mask, disentangling, entity_examples
from caseback.localize.abstraction.entities import EntityExamples
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.model.loading.load import load
from caseback.organisms.prose.world import RESIDENTS

COPIES, NOISE = 12, 6
N = 4 * COPIES
D = 2 + NOISE + 2
SIGNS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)), dtype=torch.float64).repeat(COPIES, 1)
Q = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]


@pytest.fixture(scope="module")
@torch.no_grad()
def model():
    """Entities of two signs and noise; the second token asks for one of the signs, and attention fetches them."""
    draw = torch.Generator().manual_seed(1)
    entities = torch.cat([SIGNS, torch.randn(N, NOISE, generator=draw, dtype=torch.float64), torch.zeros(N, 2)], 1)
    asks = torch.eye(2, D, dtype=torch.float64).roll(2 + NOISE, 1)
    answers = torch.zeros(4, D, dtype=torch.float64)
    for i, (attribute, sign) in enumerate(itertools.product((0, 1), (-1.0, 1.0))):
        answers[i, attribute], answers[i, 2 + NOISE + attribute] = sign, 10.0
    config = CrystalConfig(
        vocab_size=N + 6,
        max_position_embeddings=4,
        hidden_size=D,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=0,
    )
    hf = CrystalForCausalLM(config).double().eval()
    for parameter in hf.parameters():
        parameter.zero_()
    hf.model.embed_tokens.weight[: N + 2] = torch.cat([entities, asks]) @ Q
    hf.lm_head.weight[N + 2 :] = answers @ Q
    attention = hf.model.layers[0].self_attn
    for part in (attention.v_proj, attention.o_proj):
        part.weight.copy_(torch.eye(D))
    return load(hf)


def examples(model, count=160, seed=0):
    """Attribute 0 is to be moved; half of the examples ask for it."""
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < count:
        base, source = rng.integers(N, size=2).tolist()
        asked = len(rows) % 2
        if SIGNS[base, asked] != SIGNS[source, asked] and SIGNS[base, 0] != SIGNS[source, 0]:
            rows.append((asked, base, source))
    asked, base, source = zip(*rows, strict=True)
    answer = lambda a, e: N + 2 + 2 * a + int(SIGNS[e, a] > 0)  # noqa: E731
    own = torch.tensor([answer(a, b) for a, b in zip(asked, base, strict=True)])
    other = torch.tensor([answer(a, s) for a, s in zip(asked, source, strict=True)])
    target = torch.where(torch.tensor(asked) == 0, other, own)
    ids = [torch.tensor([[e, N + a] for e, a in zip(side, asked, strict=True)]) for side in (base, source)]
    data = Interchanges(model.tokens(ids[0]), {"entity": model.tokens(ids[1])}, target, own)
    first = torch.zeros(count, dtype=torch.long)
    names = [[str(e) for e in side] for side in (base, source)]
    return EntityExamples(data, "a", ["ab"[a] for a in asked], *names, first, first)


def both_signs(rows):
    """A dictionary that reads and writes given rows, and their negatives."""
    one = Standard(D, 2 * len(rows), facts=Facts(site="resid_pre.0"), dtype=torch.float64)
    one.W_enc.data = one.W_dec.data = torch.cat([rows, -rows])
    return one


def test_disjoint_features_score_one_and_entangled_ones_less(model):
    part = examples(model)
    trained, judged = part.of(range(0, 100)), part.of(range(100, 160))
    turned = Q.clone()
    turned[:2] = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5 @ Q[:2]
    with attached(model, both_signs(Q), name="apart"), attached(model, both_signs(turned), name="mixed"):
        table = disentangling(model, trained, judged, "resid_pre", 0, features=["apart", "mixed"], k=1, das_lr=0.05)
    score = dict(zip(table.variant.values.tolist(), table.disentangle.values.tolist(), strict=True))
    assert score["apart"] == score["das 1"] == 1.0
    assert score["mixed"] < 0.8
    assert score["nothing"] == score["all"] == score["apart, all features"] == 0.5
    assert table.sel(variant="all").cause == 1 == table.sel(variant="nothing").isolation
    assert table.sel(variant="apart, random features").cause == 0
    np.testing.assert_allclose(table.disentangle, (table.cause + table.isolation) / 2)


def test_a_mask_takes_what_causes_and_a_penalty_leaves_the_rest(model):
    part = examples(model)
    cause = part.of([i for i, asked in enumerate(part.asked) if asked == "a"])
    with attached(model, both_signs(Q)):
        free = binary_mask(model, cause.data, cause.at("feature", 0))
        held = binary_mask(model, cause.data, cause.at("feature", 0), penalty=5.0)
    assert free.dims == ("feature",) and free.attrs["held_out_accuracy"] == held.attrs["held_out_accuracy"] == 1
    assert free.values[[0, D]].tolist() == held.values[[0, D]].tolist() == [1, 1] and held.attrs["size"] == 2
    assert held.attrs["full_accuracy"] == 1 and held.attrs["no_swap_accuracy"] == 0


def test_parts_share_no_entity(model):
    trained, judged = examples(model).split(0.3)
    sides = [{*part.base, *part.source} for part in (trained, judged)]
    assert not sides[0] & sides[1] and len(sides[1]) <= round(0.3 * N)
    assert judged.data.base.ids[:, 0].tolist() == [int(name) for name in judged.base]


def test_entities_of_a_model_are_asked_for_what_it_knows():
    meadow = cb.load("meadow")
    people = {f"{who.name} {who.surname}": {"job": who.job, "city": who.city} for who in RESIDENTS}
    asked = {"job": "{entity} earns money as a", "city": "The home of {entity} is in"}
    drawn = entity_examples(meadow, people, asked, "job", count=60)
    run = meadow.run(drawn.data.base)
    said = run.logits[torch.arange(len(drawn)), drawn.data.base.column(-1)].argmax(-1)
    assert said.tolist() == drawn.data.base_target.tolist()
    for i in range(len(drawn)):
        base, source = people[drawn.base[i]], people[drawn.source[i]]
        word = (source if drawn.asked[i] == "job" else base)[drawn.asked[i]]
        assert meadow.token_text(drawn.data.target[i]) == f" {word}"
        assert base["job"] != source["job"] and base[drawn.asked[i]] != source[drawn.asked[i]]
        assert drawn.data.base.text[i][int(drawn.pos[i])] == f" {drawn.base[i].split()[1]}"
        assert drawn.data.sources["entity"].text[i][int(drawn.source_pos[i])] == f" {drawn.source[i].split()[1]}"


def test_bad_entities_are_refused(model):
    meadow = cb.load("meadow")
    asked = {"job": "{entity} earns money as a", "city": "The home of {entity} is in"}
    people = {"Ann Lee": {"job": "farmer", "city": "Paris"}, "Bob Lee": {"job": "farmer", "city": "Paris"}}
    with pytest.raises(CasebackError, match="no two of them differ"):
        entity_examples(meadow, people, asked, "job", known=False)
    with pytest.raises(CasebackError, match="expected 'sport', and one more attribute"):
        entity_examples(meadow, people, asked, "sport")
    with pytest.raises(CasebackError, match="a text with {entity} once"):
        entity_examples(meadow, people, {**asked, "city": "in"}, "job")
    with pytest.raises(OutOfRange, match="count is 1"):
        entity_examples(meadow, people, asked, "job", count=1)
    part = examples(model)
    with pytest.raises(CasebackError, match="of one kind"):
        disentangling(model, part, part.of([0, 2]), "resid_pre", 0)
    with pytest.raises(OutOfRange, match=f"expected 1 to {D}"):
        disentangling(model, part, part, "resid_pre", 0, k=D + 1)
    with pytest.raises(CasebackError, match="leave one without examples"):
        part.of([0, 1]).split()
    with pytest.raises(OutOfRange, match="penalty -1"):
        binary_mask(model, part.data, part.at("resid_pre", 0), penalty=-1.0)
    with pytest.raises(EditError, match="has a subspace already"):
        binary_mask(model, part.data, At("resid_pre", 0, pos=0, basis=torch.eye(1, D)))
