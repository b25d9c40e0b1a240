"""TransformerLens's names: where they mean other values on a model, they are refused with the right name."""

import pytest

import shelf
from caseback.errors import UnknownSite


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt_neox", "phi"])
@pytest.mark.parametrize("name", ["q", "k"])
def test_queries_before_rotation_are_not_those_after_it(family, name):
    model = shelf.model(family)
    with pytest.raises(UnknownSite, match=f"before its rotation.*say '{name}'"):
        model.run(shelf.ids(), read=[f"blocks.0.attn.hook_{name}"])
    run = model.run(shelf.ids(), read=[f"blocks.0.attn.hook_rot_{name}", name])
    assert run[name, 0].shape[1] == 9


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_where_nothing_is_rotated_they_are_the_same(family):
    model = shelf.model(family)
    assert model.run(shelf.ids(), read=["blocks.0.attn.hook_q"])["q", 0].shape[1] == 9
    with pytest.raises(UnknownSite, match="does not rotate"):
        model.run(shelf.ids(), read=["blocks.0.attn.hook_rot_q"])


@pytest.mark.parametrize(
    "name", ["blocks.1.ln1.hook_normalized", "blocks.1.ln2.hook_normalized", "ln_final.hook_normalized"]
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_stream_before_the_norms_weight_is_no_site(family, name):
    with pytest.raises(UnknownSite, match="before the norm's weight"):
        shelf.model(family).run(shelf.ids(), read=[name])
