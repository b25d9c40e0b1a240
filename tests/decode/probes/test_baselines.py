"""What words, embeddings and random weights tell of a label; and a feature that is readable and unused (4.1.7)."""

import pytest
import torch

import caseback as cb
import zoo
from caseback.decode.probes import linear_probe, probe_baselines
from caseback.decode.probes.baselines import bag_of_tokens, untrained
from caseback.errors import CasebackError
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM

FAMILIES = ["gpt2", "llama", "gemma2", "bloom"]


def prompts(n=120, length=6, seed=0):
    return torch.randint(5, 45, (n, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_is_told_by_bags_and_an_order_is_not(family):
    model = cb.load(zoo.tiny(family))
    ids = prompts()
    ids[:, -1] = 7
    ids[:, 2], ids[:, 3] = 8, 9
    swapped = torch.rand(120, generator=torch.Generator().manual_seed(1)) > 0.5
    ids[swapped, 2], ids[swapped, 3] = 9, 8
    order = probe_baselines(model, ids, swapped.tolist())
    assert "embed" not in order.site.values  # all end in one token
    assert order.accuracy.sel(site="bag of tokens") < 0.75
    layers = [name for name in order.site.values if name.startswith("untrained")]
    assert len(layers) == model.n_layers and order.accuracy.sel(site=layers).max() > order.accuracy[0]
    ids[:, -1] = torch.where(swapped, 11, 12)
    word = probe_baselines(model, ids, swapped.tolist(), method="ridge")
    assert (word.accuracy.sel(site=["bag of tokens", "embed"]) == 1).all()
    assert (word.majority == order.majority).all() and word.majority.ndim == 0


def test_bags_count_the_prompts_own_tokens():
    model = cb.load(zoo.tiny("gpt2"))
    tokens = model.tokens([[5, 5, 6], [6, 7]], padding="left")
    counts = bag_of_tokens(tokens, 2)
    assert sorted(map(tuple, counts.T.tolist())) == [(1, 1), (2, 0)]


def test_an_untrained_model_is_another_of_its_kind_and_nothing_else_changes():
    model = cb.load(zoo.tiny("llama"))
    before, state = {n: p.clone() for n, p in model.hf.named_parameters()}, torch.get_rng_state()
    one, same, other = untrained(model, 0), untrained(model, 0), untrained(model, 1)
    ids = prompts(2)
    assert torch.equal(one.run(ids).logits, same.run(ids).logits)
    assert not torch.equal(one.run(ids).logits, other.run(ids).logits)
    assert all(torch.equal(p, before[n]) for n, p in model.hf.named_parameters())
    assert torch.equal(state, torch.get_rng_state()) and one.hf.dtype == model.hf.dtype


def test_a_place_that_prompts_lack_is_refused_in_words():
    model = cb.load(zoo.tiny("gpt2"))
    with pytest.raises(CasebackError, match="out of range"):
        probe_baselines(model, prompts(8), [0, 1] * 4, pos=6)
    with pytest.raises(CasebackError, match="vocabulary"):
        probe_baselines(model, prompts(8), [0, 1] * 4, vocabulary=0)


def test_a_feature_may_be_readable_and_unused():
    # written at layer 0 in a direction that nothing later reads or writes
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 24, "num_attention_heads": 3, "max_position_embeddings": 16}
    hf = CrystalForCausalLM(CrystalConfig(num_hidden_layers=3, initializer_range=0.1, **sizes)).double().eval()
    unread = torch.nn.functional.normalize(torch.randn(24, dtype=torch.float64), dim=0)
    readers, writers = ("q_proj", "k_proj", "v_proj", "up_proj", "lm_head"), ("o_proj", "down_proj")
    with torch.no_grad():
        for name, module in hf.named_modules():
            if name.rpartition(".")[2] in readers:
                module.weight -= torch.outer(module.weight @ unread, unread)
            if name.rpartition(".")[2] in writers:
                module.weight -= torch.outer(unread, unread @ module.weight)
                module.bias -= unread * (unread @ module.bias)
    model = cb.load(hf)
    ids, y = prompts(200), torch.rand(200, generator=torch.Generator().manual_seed(2)) > 0.5
    sign = (2.0 * y - 1).double()[:, None, None]

    def states(*edits):
        run = model.run(ids, edits=list(edits), read=["resid_post"])
        return run["resid_post"][:, :, -1], run.logits

    for direction, used in ((unread, False), (hf.lm_head.weight[7].detach(), True)):
        direction = direction / direction.norm()
        write = cb.Add("resid_post", 20 * sign * direction, layer=0)
        x, logits = states(write)
        probe = linear_probe(x, y.tolist())
        assert (probe.table.accuracy == 1).all() and probe.table.shuffled.max() < 0.7
        erased, without = states(write, cb.Project("resid_post", direction[None], layer=0))
        change = (without - logits).abs().max() / logits.std()
        assert change > 0.5 if used else change < 1e-10
        if not used:
            assert linear_probe(erased, y.tolist()).table.accuracy.max() < 0.7
