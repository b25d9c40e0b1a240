"""What transformers' from_pretrained takes, `load` takes in the same sense: the model is the one that it would give."""

import shutil

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

import caseback as cb
import shelf
import zoo
from caseback.errors import LoadError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Llama, by itself and in a subfolder of an empty folder."""
    path = tmp_path_factory.mktemp("models")
    zoo.tiny("llama", dtype=torch.float32).save_pretrained(path / "plain")
    shutil.copytree(path / "plain", path / "above" / "inside")
    zoo.tiny("llama", dtype=torch.float32, seed=1).save_pretrained(path / "other")
    return path


CASES = {
    "subfolder": ("above", {"subfolder": "inside"}),
    "torch_dtype": ("plain", {"torch_dtype": torch.bfloat16}),
    "torch_dtype as text": ("plain", {"torch_dtype": "float16"}),
    "dtype": ("plain", {"dtype": torch.float64}),
    "a setting of the config": ("plain", {"max_position_embeddings": 7, "rms_norm_eps": 0.5}),
    "attention": ("plain", {"attn_implementation": "eager"}),
    "settings in a subfolder": ("above", {"subfolder": "inside", "rms_norm_eps": 0.25, "dtype": torch.float64}),
}


@pytest.mark.parametrize("name", CASES)
def test_an_option_means_what_it_means_to_transformers(folder, name):
    place, options = CASES[name]
    plain = AutoModelForCausalLM.from_pretrained(folder / place, **options).eval()
    model = cb.load(folder / place, **options)
    ids = torch.tensor(shelf.ids((6,)))
    with torch.no_grad():
        assert torch.equal(model.run(ids).logits, plain(ids).logits)
    assert model.dtype == plain.dtype
    for setting in ("max_position_embeddings", "rms_norm_eps", "_attn_implementation"):
        assert getattr(model.hf.config, setting) == getattr(plain.config, setting)


@pytest.mark.parametrize("form", ["config", "folder", "text"])
def test_the_config_may_come_from_elsewhere(folder, tmp_path, form):
    config = AutoConfig.from_pretrained(folder / "plain", rms_norm_eps=0.5)
    config.save_pretrained(tmp_path)
    given = {"config": config, "folder": tmp_path, "text": str(tmp_path)}[form]
    plain = AutoModelForCausalLM.from_pretrained(folder / "plain", config=config).eval()
    ids = torch.tensor(shelf.ids((6,)))
    with torch.no_grad():
        assert torch.equal(cb.load(folder / "plain", config=given).run(ids).logits, plain(ids).logits)


def test_the_tokenizer_is_the_subfolders_or_that_above(folder, tmp_path, assets):
    shutil.copytree(folder / "plain", tmp_path / "inside")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(assets / "models" / "stories260K" / name, tmp_path / name)
    above = cb.load(tmp_path, subfolder="inside", verify=False)
    assert above.tokenizer is not None
    shutil.copy(assets / "models" / "babyllama105" / "tokenizer.json", tmp_path / "inside")
    assert len(cb.load(tmp_path, subfolder="inside", verify=False).tokenizer) == 105 != len(above.tokenizer)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"subfolder": "nowhere"}, "has no subfolder 'nowhere'"),
        ({"dtype": torch.float32, "torch_dtype": torch.float16}, "they mean the same"),
        ({"no_such_option": 1}, "cannot load"),
    ],
)
def test_what_means_nothing_is_refused(folder, options, says):
    with pytest.raises(LoadError, match=says):
        cb.load(folder / "plain", **options)


@pytest.mark.parametrize(
    "option", ["dtype", "torch_dtype", "config", "subfolder", "device_map", "max_position_embeddings"]
)
def test_a_model_in_memory_is_taken_as_it_is(option):
    given = {"dtype": torch.float16, "torch_dtype": torch.float16, "device_map": "auto", "max_position_embeddings": 3}
    with pytest.raises(LoadError, match="with a model in memory, which is taken as it is"):
        cb.load(shelf.model("llama").hf, **{option: given.get(option, "somewhere")})


def vision_language(kind):
    """A tiny model that also sees."""
    text = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=44, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    sight = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sight |= {"image_size": 16, "patch_size": 8}
    if kind == "llava":
        config = transformers.LlavaConfig(
            vision_config=transformers.CLIPVisionConfig(**sight), text_config=text, image_token_id=60
        )
        return transformers.LlavaForConditionalGeneration(config).eval()
    config = transformers.SmolVLMConfig(text_config=text, vision_config=sight, image_token_id=60)
    return transformers.SmolVLMForConditionalGeneration(config).eval()


@pytest.mark.parametrize("kind", ["llava", "smolvlm"])
def test_a_model_that_also_sees_is_read_by_its_text_decoder_from_its_folder_and_in_memory(kind, tmp_path):
    plain = vision_language(kind)
    plain.save_pretrained(tmp_path)
    rows = torch.tensor(shelf.ids((7, 7), d_vocab=60))
    layers = (plain.model.language_model if kind == "llava" else plain.model.text_model).layers
    states = []

    def zeroed(module, args):
        z = args[0].clone()
        z[:, :, 8:16] = 0  # head 1, width 8
        return (z,)

    with torch.no_grad():
        expected = plain(input_ids=rows).logits
        handle = layers[1].register_forward_hook(lambda m, a, out: states.append(out))
        plain(input_ids=rows)
        handle.remove()
        handle = layers[1].self_attn.o_proj.register_forward_pre_hook(zeroed)
        edited = plain(input_ids=rows).logits
        handle.remove()
    longer = plain.generate(input_ids=rows, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
    for model in (cb.load(tmp_path), cb.load(plain)):
        run = model.run(rows, read=["resid_post", "pattern"])
        assert torch.equal(run.logits, expected)
        assert torch.equal(run["resid_post", 1], states[0])
        zero = cb.Zero("z", layer=1, head=1)
        torch.testing.assert_close(model.run(rows, edits=zero).logits, edited)
        swept = model.sweep(rows, [zero], cb.logit(5)).values[0]
        torch.testing.assert_close(torch.tensor(swept).float(), edited[:, -1, 5], rtol=1e-4, atol=1e-5)
        assert torch.equal(model.generate(rows, max_new_tokens=3, eos_token_id=None, pad_token_id=0).ids, longer)
