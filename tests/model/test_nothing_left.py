"""The model is the user's: after a run, a sweep or a generation, and after any exception in them, it is as it was."""

import copy

import pytest
import torch
from transformers import AutoTokenizer

import caseback as cb
import shelf
import zoo
from caseback.errors import AnatomyError
from caseback.model.anatomy.sites import Site

HOOKS = [
    name
    for name in torch.nn.Module().__dict__
    if name.endswith("_hooks") or name.endswith("_hooks_with_kwargs") or name.endswith("_hooks_always_called")
]


class Broken(Exception):
    """Raised inside an edit."""


def configs(hf):
    found = {id(hf.config): hf.config, id(hf.generation_config): hf.generation_config}
    for module in hf.modules():
        config = getattr(module, "config", None)
        if config is not None:
            found[id(config)] = config
    return found


def state(hf):
    """All of a model that a run could leave its traces in."""
    return {
        "modules": [(name, id(module), type(module)) for name, module in hf.named_modules()],
        "attributes": [sorted(module.__dict__) for module in hf.modules()],
        "forward": [id(module.__dict__.get("forward")) for module in hf.modules()],
        "hooks": [{h: list(getattr(module, h)) for h in HOOKS} for module in hf.modules()],
        "training": [module.training for module in hf.modules()],
        "tensors": [(name, id(x), x._version, x.requires_grad, x.grad is None) for name, x in named(hf)],
        "configs": {key: copy.deepcopy(config.to_dict()) for key, config in configs(hf).items()},
        "attention": {key: getattr(c, "_attn_implementation_internal", None) for key, c in configs(hf).items()},
        "experts": {key: getattr(c, "_experts_implementation_internal", None) for key, c in configs(hf).items()},
    }


def named(hf):
    return [*hf.named_parameters(), *hf.named_buffers()]


def check(hf, before, bits):
    after = state(hf)
    for what in before:
        assert after[what] == before[what], what
    for name, x in named(hf):
        assert torch.equal(x, bits[name]), name


def test_the_hooks_looked_at_are_torchs():
    assert {"_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"} <= set(HOOKS)


@pytest.mark.parametrize(
    ("name", "attention"),
    [*((n, "eager") for n in shelf.DISTINCT), *((n, "sdpa") for n in ("gpt2", "llama", "falcon", "deepseek_v3"))],
)
def test_success_leaves_nothing(name, attention):
    model = shelf.model(name, attention)
    hf, anatomy = model.hf, model.anatomy
    # What a user may have set: it must survive too.
    frozen = next(hf.parameters())
    frozen.requires_grad_(False)
    mine = hf.get_input_embeddings().register_forward_hook(lambda module, args, output: None)
    hf.train()
    try:
        before, bits = state(hf), shelf.tensors(anatomy)
        tokens = model.tokens(shelf.ids((5, 5)))
        source = model.run(tokens, read=shelf.readable(anatomy))
        model.run(tokens, read=shelf.readable(anatomy), grad=True).grad(cb.logit(3), ["resid_post", "q"])
        everywhere = [cb.Resample(n, source, pos=2) for n in shelf.editable(anatomy) if n != "expert"]
        model.run(tokens, edits=everywhere)
        model.sweep(tokens, [[e] for e in everywhere], cb.logit(3))
        model.generate(tokens, edits=everywhere, max_new_tokens=2)
        model.generate(tokens, max_new_tokens=2, do_sample=True, seed=1)
        check(hf, before, bits)
        assert frozen.requires_grad is False and hf.training
    finally:
        mine.remove()
        frozen.requires_grad_(True)
        hf.eval()


@pytest.mark.parametrize(
    "name", [*shelf.FEW, "qwen2_moe", "deepseek_v2", "opt_projected", "falcon", "codegen", "gpt_neo"]
)
def test_an_exception_in_the_middle_leaves_nothing(name):
    model = shelf.model(name)
    before, bits = state(model.hf), shelf.tensors(model.anatomy)
    tokens = model.tokens(shelf.ids((5, 5)))

    def fail(old):
        raise Broken

    for site in shelf.editable(model.anatomy):
        edit = cb.Apply(site, fail, layer=shelf.middle(model.anatomy, site).layer)
        with pytest.raises(Broken):
            model.run(tokens, edits=edit, read=["pattern", "z"])
        with pytest.raises(Broken):
            model.run(tokens, edits=edit, grad=True)
        with pytest.raises(Broken):
            model.sweep(tokens, [cb.Zero("z", layer=0), edit], cb.logit(3))
        with pytest.raises(Broken):
            model.generate(tokens, edits=edit, max_new_tokens=2)
        assert state(model.hf) == before, site
    check(model.hf, before, bits)


def test_an_exception_in_a_later_step_of_decoding_leaves_nothing():
    model = shelf.model("llama")
    before, bits = state(model.hf), shelf.tensors(model.anatomy)
    calls = []

    def fail_late(old):
        calls.append(1)
        if len(calls) == 3:
            raise Broken
        return old

    with pytest.raises(Broken):
        model.generate(shelf.ids((5,)), edits=cb.Apply("scores", fail_late, layer=1), max_new_tokens=6)
    assert len(calls) == 3
    check(model.hf, before, bits)


def test_an_exception_of_the_users_own_metric_leaves_nothing():
    model = shelf.model("gpt2")
    before, bits = state(model.hf), shelf.tensors(model.anatomy)

    def fail(logits):
        raise Broken

    with pytest.raises(Broken):
        model.sweep(shelf.ids((5,)), [cb.Zero("z", layer=1)], cb.function(fail))
    check(model.hf, before, bits)


@pytest.mark.parametrize("name", ["gpt2", "falcon", "mixtral"])
def test_loading_leaves_nothing_even_when_it_refuses(name):
    hf = zoo.tiny(name)
    before, bits = state(hf), {n: x.detach().clone() for n, x in named(hf)}
    cb.load(hf)
    check(hf, before, bits)
    refused = zoo.tiny("opt_post_norm")
    before = state(refused)
    with pytest.raises(AnatomyError):
        cb.load(refused)
    assert state(refused) == before


def test_the_tokenizer_is_the_same_object_and_as_it_was(assets):
    tokenizer = AutoTokenizer.from_pretrained(assets / "models" / "stories3M")
    before = (
        copy.deepcopy(tokenizer.init_kwargs),
        tokenizer.padding_side,
        tokenizer.get_vocab(),
        tokenizer.special_tokens_map,
    )
    model = cb.load(assets / "models" / "stories3M", tokenizer=tokenizer)
    assert model.tokenizer is tokenizer
    tokens = model.tokens(["Tom and Lily", "Once upon a time there was"], padding="left", bos=False)
    model.generate(tokens, max_new_tokens=2)
    cb.logit_diff(" Tom", " Lily")(model.run(tokens))
    after = tokenizer.init_kwargs, tokenizer.padding_side, tokenizer.get_vocab(), tokenizer.special_tokens_map
    assert after == before


def test_the_model_in_hand_is_the_model():
    hf = zoo.tiny("llama")
    model = cb.load(hf)
    assert model.hf is hf and model.tokenizer is None
    assert model.run(shelf.ids(), read=[Site("z", 0)]).sites == [Site("z", 0)]
