"""Linear modules that do not multiply by their weight: adapters are read with what they do, others are refused by name."""

import pytest
import torch
from torch import nn

import caseback as cb
import shelf
import zoo
from caseback.errors import AnatomyError, LoadError
from exact import exact

peft = pytest.importorskip("peft")

METRIC = cb.logit(3)
IDS = shelf.ids((6,))
TARGETS = {
    "llama": ["q_proj", "v_proj"],
    "gpt2": ["c_attn"],
}
EVERYWHERE = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
}
KINDS = {
    "lora": lambda name, targets: peft.LoraConfig(
        r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2"
    ),
    "dora": lambda name, targets: peft.LoraConfig(
        r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM", use_dora=True,
        fan_in_fan_out=name == "gpt2",
    ),
}  # fmt: skip


def adapted(name, kind="lora", targets=TARGETS):
    torch.manual_seed(0)
    return peft.get_peft_model(zoo.tiny(name), KINDS[kind](name, targets[name])).eval().double()


def merged(wrapped):
    import copy

    return cb.load(copy.deepcopy(wrapped).merge_and_unload().eval())


@pytest.mark.parametrize("targets", [TARGETS, EVERYWHERE], ids=["some", "everywhere"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_adapted_model_is_its_merged_model(name, kind, targets):
    wrapped = adapted(name, kind, targets)
    model, plain = cb.load(wrapped), merged(wrapped)
    read = ["q_in", "k_in", "v_in", "attn_in", "head_out", "mlp_post"]
    with exact():
        run, expected = (m.run(IDS, read=read, grad=True) for m in (model, plain))
        with torch.no_grad():
            assert torch.equal(run.logits, wrapped(torch.tensor(IDS), use_cache=False).logits)
        for site in read:
            torch.testing.assert_close(run[site], expected[site], rtol=1e-8, atol=1e-8)
            ours, theirs = (r.grad(METRIC, [site])[site] for r in (run, expected))
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
        for edits in ([cb.Add("q_in", 1.0, layer=1)], [cb.Scale("head_out", 0.5, layer=0, head=1)]):
            came, wanted = (m.run(IDS, edits=edits).logits for m in (model, plain))
            torch.testing.assert_close(came, wanted, rtol=1e-8, atol=1e-8)
        for weight in ("W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "b_Q", "b_O"):
            ours, theirs = (getattr(m.weights, weight)[1] for m in (model, plain))
            torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-8, atol=1e-8)


def test_the_inner_model_of_an_adapted_one_is_read_alike():
    wrapped = adapted("llama", targets=EVERYWHERE)
    with exact():
        assert torch.equal(cb.load(wrapped.base_model.model).weights.W_O[0], cb.load(wrapped).weights.W_O[0])


def test_an_adapter_that_is_switched_off_is_off():
    wrapped = adapted("llama")
    model = cb.load(wrapped)
    with wrapped.disable_adapter(), exact(), torch.no_grad():
        assert torch.equal(model.run(IDS).logits, wrapped(torch.tensor(IDS), use_cache=False).logits)
        torch.testing.assert_close(model.weights.W_Q[0].flatten(), model.hf.model.layers[0].self_attn.q_proj.base_layer.weight.unflatten(0, (model.n_heads, -1)).mT.flatten())  # fmt: skip


def saved(tmp_path, targets):
    """An adapted model whose adapter is in one folder and whose base in another."""
    from transformers import AutoModelForCausalLM

    zoo.tiny("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(base, KINDS["lora"]("llama", targets["llama"])).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    return wrapped


def test_a_folder_of_an_adapter_is_loaded_with_its_base(tmp_path):
    wrapped = saved(tmp_path, EVERYWHERE)
    model = cb.load(tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(model.run(IDS).logits, wrapped(torch.tensor(IDS), use_cache=False).logits)


def test_a_folder_whose_adapter_lacks_weights_or_is_pickled_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    saved(tmp_path, TARGETS)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file)
    with pytest.raises(LoadError, match="lacks weights"):
        cb.load(tmp_path / "adapter")
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(LoadError, match="allow_pickle"):
        cb.load(tmp_path / "adapter")


def test_tokens_before_the_prompt_are_refused():
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(LoadError, match="tokens of its own before the prompt"):
        cb.load(peft.get_peft_model(zoo.tiny("llama"), config))


class Rounding(nn.Linear):
    """A linear map that is not one: it rounds what it reads."""

    def forward(self, x):
        return super().forward((x * 4).round() / 4)


class Scaled(nn.Linear):
    """A linear map that multiplies by more than its weight."""

    def forward(self, x):
        return super().forward(x) * 1.5 + 0.25


@pytest.mark.parametrize("part", ["q_proj", "k_proj", "v_proj", "o_proj"])
def test_a_module_that_is_not_linear_is_refused_and_one_that_scales_is_read(part):
    hf = zoo.tiny("llama")
    attention = hf.model.layers[1].self_attn
    old = getattr(attention, part)
    for kind in (Rounding, Scaled):
        new = kind(old.in_features, old.out_features, bias=False).to(old.weight)
        new.weight = old.weight
        setattr(attention, part, new)
        if kind is Rounding:
            with pytest.raises(AnatomyError, match="Rounding is not linear"):
                cb.load(hf)
            continue
        model = cb.load(hf)
        with exact():
            expected = 1.5 * old.weight.detach().T
            name = f"W_{part[0].upper()}"
            came = getattr(model.weights, name)[1]
            flat = came.flatten(0, 1) if name == "W_O" else came.transpose(0, 1).flatten(1)
            torch.testing.assert_close(flat, expected)
            bias = getattr(model.weights, f"b_{part[0].upper()}")[1]
            torch.testing.assert_close(bias, torch.full_like(bias, 0.25))


class Wrapped(type(zoo.tiny("llama"))):
    """A model whose forward does not say what it takes."""

    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)


def test_positions_are_sent_where_forward_only_hands_on_what_it_is_given():
    hf = zoo.tiny("llama")
    wrapped = Wrapped(hf.config).to(hf.dtype).eval()
    wrapped.load_state_dict(hf.state_dict())
    model, rows = cb.load(wrapped), shelf.ids((7, 3))
    with exact():
        padded = model.run(model.tokens(rows, padding="left"))
        for b, row in enumerate(rows):
            with torch.no_grad():
                alone = hf(torch.tensor([row]), use_cache=False).logits[0]
            torch.testing.assert_close(padded.logits[b][padded.tokens.mask[b]], alone, rtol=1e-9, atol=1e-9)
