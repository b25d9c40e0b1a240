"""The identities that a model is believed by: they hold to rounding, and a model that breaks one is refused."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import caseback as cb
import shelf
import zoo
from caseback.errors import AnatomyError
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.families import family_of
from caseback.model.running.verify import identities, probe_tokens, unembed, verify
from exact import exact


@pytest.mark.parametrize("name", shelf.FAMILIES)
def test_every_identity_holds_to_rounding(name):
    with exact():
        found = verify(shelf.model(name).anatomy)
    assert len(found) >= 1 + 5 * 3 + 1
    assert max(found.values()) < 1e-8, max(found.items(), key=lambda item: item[1])


@pytest.mark.parametrize("name", shelf.FAMILIES)
def test_2_1_the_embedding_and_all_writes_sum_to_the_stream(name):
    model = shelf.model(name)
    anatomy = model.anatomy
    names = [
        n
        for n in ("embed", "pos_embed", "head_out", "z", "attn_out", "mlp_out", "resid_post")
        if n not in anatomy.lacks
    ]
    with exact(), torch.no_grad():
        run = model.run(shelf.ids(), read=names)
        total = run["embed"] + (run["pos_embed"] if "pos_embed" in names else 0)
        for layer, p in enumerate(anatomy.layers):
            total = total + run["head_out", layer].sum(2) + run["mlp_out", layer]
            bias = getattr(p.o, "bias", None)
            if p.attn_post_norm is not None:
                norm = anatomy.norms[p.attn_post_norm]
                before = p.o(run["z", layer].flatten(2))
                shift = norm(before) - norm.frozen(before if bias is None else before - bias, norm.scale(before))
                total = total + shift
            elif bias is not None:
                total = total + bias * anatomy.residual_scale
    size = run["resid_post", -1].abs().max()
    assert (total - run["resid_post", -1]).abs().max() < 1e-12 * size


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_the_last_stream_gives_the_logits(name):
    model = shelf.model(name)
    with exact(), torch.no_grad():
        run = model.run(shelf.ids(), read=["resid_post"])
        stream = run["resid_post", -1]
        torch.testing.assert_close(unembed(model.anatomy, stream), run.logits, rtol=1e-12, atol=1e-12)
        some = torch.tensor([4, 1, 60])
        torch.testing.assert_close(unembed(model.anatomy, stream, some), run.logits[..., some], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["opt_post_norm", "bloom_normed_residual"])
def test_a_model_that_does_not_fit_is_refused_by_the_identity_that_fails(name):
    with pytest.raises(AnatomyError) as caught:
        cb.load(zoo.tiny(name))
    text = str(caught.value)
    assert "does not fit its anatomy: the identity 'resid_pre + attn_out = resid_mid, layer 0' is off by" in text
    assert f"model type {name.split('_')[0]!r}" in text


class OddConfig(LlamaConfig):
    model_type = "odd"


class OddForCausalLM(LlamaForCausalLM):
    """Parts where Llama has them, but what leaves the final norm is doubled on its way to the head."""

    config_class = OddConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.register_forward_hook(self._double)

    @staticmethod
    def _double(module, args, output):
        output.last_hidden_state = 2 * output.last_hidden_state


def odd() -> OddForCausalLM:
    config = zoo.FAMILIES["llama"]().to_dict() | {"model_type": "odd"}
    return OddForCausalLM(OddConfig(**config)).eval()


def test_an_unknown_family_is_read_by_its_spellings_and_refused_if_they_mislead():
    with pytest.raises(AnatomyError) as caught:
        cb.load(odd())
    text = str(caught.value)
    assert "model type 'odd' has no declared anatomy, and the common layout does not fit it: " in text
    assert "identity 'logits = unembedding of final_norm(resid_post[-1])' is off by" in text
    assert "Declared: " in text and "gpt2" in text and "llama" in text


def test_an_unknown_family_that_fits_is_taken_and_marked_as_guessed():
    hf = odd()
    hf.model._forward_hooks.clear()
    assert not cb.load(hf).declared
    assert shelf.model("llama").declared


def test_an_unknown_family_whose_parts_are_not_found_is_refused():
    hf = odd()
    hf.model.blocks_of_mine = hf.model.layers
    del hf.model.layers
    with pytest.raises(AnatomyError, match=r"model type 'odd' has no declared anatomy.*no list of decoder layers at"):
        cb.load(hf)


WRONG = {
    "llama": {"residual_scale": lambda config: 0.5},
    "gpt_neox": {"parallel": lambda config: False},
    "gemma2": {"logit_softcap": lambda config: None},
    "cohere": {"logit_scale": lambda config: 1.0},
    "granite": {"embed_scale": lambda config, embed: 1.0},
    "bloom": {"embed_norm": None},
    "olmo2": {"attn_post_norm": None},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_found_out(name):
    """Without this the identities could be true of anything."""
    hf = shelf.model(name).hf
    family, _ = family_of(hf.config)
    with pytest.raises(AnatomyError, match="the identity '"):
        verify(Anatomy(hf, family.but(**WRONG[name])))


def test_the_identities_cover_every_part_of_every_layer():
    model = shelf.model("llama")
    reads = ["embed", "resid_pre", "attn_out", "head_out", "resid_mid", "v", "scores", "pattern", "z", "mlp_post"]
    run = model.run(probe_tokens(model.anatomy), read=[*reads, "mlp_out", "resid_post"])
    names = [name for name, _, _ in identities(model.anatomy, run)]
    for layer in range(3):
        for part in ("resid_mid", "resid_post", "head_out", "pattern v = z", "softmax", "sum to one", "W_out"):
            assert any(part in n and n.endswith(f"layer {layer}") for n in names), (part, layer)


def test_without_verification_a_model_loads_as_its_anatomy_says():
    model = cb.load(zoo.tiny("bloom_normed_residual"), verify=False)
    assert model.n_layers == 3
