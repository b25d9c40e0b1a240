"""Loading: what is no model, is broken or is unsafe is refused in words."""

import ast
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

import caseback as cb
import shelf
import zoo
from caseback.errors import AnatomyError, LoadError
from caseback.model.loading.model_files import locate


@pytest.fixture
def folder(tmp_path):
    """A tiny Llama on disk."""
    path = tmp_path / "tiny"
    zoo.tiny("llama", dtype=torch.float32).save_pretrained(path)
    return path


def refused(source, **options):
    with pytest.raises(LoadError) as caught:
        cb.load(source, **options)
    return str(caught.value)


def test_a_folder_loads_as_it_is(folder):
    model = cb.load(folder)
    assert model.name == "tiny" and model.tokenizer is None and model.dtype == torch.float32
    assert repr(model) == ("<caseback Model 'tiny': llama, 3 layers, 4 heads, d_model 32, vocabulary 61, float32>")
    weights = load_file(folder / "model.safetensors")
    for name, value in model.hf.state_dict().items():
        if name in weights:
            assert torch.equal(value, weights[name])
    assert model.provenance()["family"] == "llama" and model.provenance()["model_class"] == "LlamaForCausalLM"
    assert torch.equal(cb.load(str(folder)).run(shelf.ids()).logits, model.run(shelf.ids()).logits)


def test_a_dtype_may_be_asked_for(folder):
    assert cb.load(folder, dtype=torch.float64).dtype == torch.float64
    assert cb.load(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_a_missing_folder(tmp_path):
    text = refused(tmp_path / "nowhere")
    assert text == (
        f"there is no model folder {str(tmp_path / 'nowhere')!r}: expected a folder with config.json and model.safetensors"
    )
    assert "there is no model folder './nowhere'" in refused("./nowhere")


@pytest.mark.parametrize("name", ["meadow_2", "medow", "Meadows", "meadow-1", "inductions", "groking"])
def test_a_misspelt_bundled_name_is_refused_before_the_hub_is_asked(monkeypatch, name):
    monkeypatch.setattr("transformers.utils.hub.cached_files", lambda *args, **how: pytest.fail("the hub was asked"))
    text = refused(name)
    assert f"no bundled model {name!r}. Did you mean " in text and "meadow_1, spread, a folder, or a hub id" in text


@pytest.mark.parametrize("name", ["gpt2", "distilgpt2", "openai-gpt", "ctrl", "gpt2-medium", "someone/meadow_2"])
def test_a_hub_id_is_taken_as_one(name):
    assert locate(name, None) == (name, name)


def test_a_folder_without_a_model(tmp_path):
    assert refused(tmp_path) == f"{str(tmp_path)!r} holds no model: it has no config.json"
    (tmp_path / "config.json").write_text("{broken")
    assert "is not readable JSON" in refused(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "is not a transformers model: its config.json names no model_type" in refused(tmp_path)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert refused(folder) == f"{str(folder)!r} has no weights that are safe to load: it has no *.safetensors"


def test_pickled_weights_are_refused_unless_asked_for(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert refused(folder).endswith("its weights are pickled: pass allow_pickle=True (--allow-pickle) to read them")
    model = cb.load(folder, allow_pickle=True)
    assert model.n_layers == 3


def test_a_pickle_that_runs_code_is_not_run_even_when_asked_for(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Bomb()}, folder / "pytorch_model.bin")
    assert "cannot load" in refused(folder, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_corrupt_safetensors(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = refused(folder)
    assert text.startswith(f"cannot load {str(folder)!r}: ") and "\n" not in text
    path.write_bytes(b"nonsense")
    assert refused(folder).startswith(f"cannot load {str(folder)!r}: ")


def test_weights_of_another_shape(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "cannot load" in refused(folder)


def test_a_folder_that_is_no_causal_language_model(tmp_path):
    config = T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=20)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    text = refused(tmp_path / "t5")
    assert text == f"{str(tmp_path / 't5')!r} is not a causal language model: its model type is 't5'"
    shutil.rmtree(tmp_path / "t5")


def test_an_unknown_model_type(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nothing_known"}))
    assert refused(folder).startswith(f"cannot load {str(folder)!r}: ")


def test_a_module_that_is_no_language_model():
    assert "Linear is not a causal language model of transformers: expected a *ForCausalLM" in refused(
        torch.nn.Linear(2, 2)
    )
    with pytest.raises((LoadError, AnatomyError)):
        cb.load(BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)))


def test_an_encoder_beside_the_decoder_is_refused():
    config = T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=20)
    with pytest.raises(AnatomyError, match="has an encoder or cross-attention: only decoder-only models are read"):
        cb.load(T5ForConditionalGeneration(config))


def test_a_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")
    (folder / "tokenizer_config.json").write_text("{")
    assert "cannot load a tokenizer from" in refused(folder)
    assert "cannot load a tokenizer from" in refused(folder, tokenizer=str(folder))


def test_a_tokenizer_may_come_from_elsewhere(folder, assets):
    source = assets / "models" / "stories260K"
    model = cb.load(folder, tokenizer=str(source))
    assert model.tokenizer is not None
    with pytest.raises(cb.CasebackError, match="expected 0 to 60"):
        model.tokens("Once upon a time")


def test_weights_that_fit_the_config_but_not_the_family_are_refused():
    """A projection whose rows do not split into the heads that the config tells of."""
    hf = zoo.tiny("llama")
    hf.model.layers[1].self_attn.k_proj = torch.nn.Linear(32, 25, bias=False, dtype=torch.float64)
    with pytest.raises(AnatomyError, match="do not split into 4 heads"):
        cb.load(hf)


def test_a_checkpoint_that_lacks_a_weight_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    for name in list(weights):
        less = {key: value for key, value in weights.items() if key != name}
        save_file(less, folder / "model.safetensors", {"format": "pt"})
        text = refused(folder)
        assert "lacks weights that the model has, and they would be random" in text and name in text
    some = {key: value for key, value in weights.items() if "mlp" not in key}
    save_file(some, folder / "model.safetensors", {"format": "pt"})
    assert "and 6 more" in refused(folder)


def test_a_tied_head_that_no_file_holds_is_not_missed(tmp_path):
    model = zoo.tiny("gpt2", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert torch.equal(cb.load(tmp_path).hf.lm_head.weight, model.lm_head.weight)


def test_weights_of_another_shape_are_refused_even_where_transformers_would_ignore_them(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "has in another shape" in refused(folder, ignore_mismatched_sizes=True)


OWN_CODE = """
from pathlib import Path
Path(__file__).with_name("RAN").touch()
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.mark.parametrize("answer", ["y\n", "yes\n", ""])
def test_code_beside_a_model_is_not_run_and_nobody_is_asked(folder, answer, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(OWN_CODE)
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    assert "pass trust_remote_code=True (--trust-remote-code)" in refused(folder)
    assert not list(folder.glob("**/RAN"))


def test_code_beside_a_tokenizer_is_not_run(folder, monkeypatch):
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    (folder / "own.py").write_text(OWN_CODE)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    refused(folder)
    assert not list(folder.glob("**/RAN"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../model.safetensors", "/model.safetensors"])
def test_an_index_that_names_something_else_is_refused(folder, name):
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"metadata": {}, "weight_map": {key: name for key in weights}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "expected *.safetensors beside it" in refused(folder)


def test_an_index_of_safetensors_is_read(folder):
    whole = cb.load(folder).run(shelf.ids()).logits
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {"a.safetensors": list(weights)[::2], "b.safetensors": list(weights)[1::2]}
    for file, keys in halves.items():
        save_file({key: weights[key] for key in keys}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, keys in halves.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(cb.load(folder).run(shelf.ids()).logits, whole)
    (folder / "model.safetensors.index.json").write_text("[]")
    assert "cannot be read" in refused(folder)


def test_no_loading_of_ours_reads_pickles_or_runs_code_unasked():
    """Every ``from_pretrained`` of the package says so itself: the defaults of transformers are another project's."""
    source = Path(cb.__file__).parent
    calls = []
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained":
                keywords = {keyword.arg for keyword in node.keywords}
                auto = ast.unparse(node.func).startswith("Auto")
                # peft has no such option: its folder is looked at before (test_adapters)
                weights = not ast.unparse(node.func).startswith(("AutoConfig", "AutoTokenizer", "PeftModel"))
                calls.append(path.name)
                assert not auto or "trust_remote_code" in keywords, ast.unparse(node)
                assert not weights or "use_safetensors" in keywords, ast.unparse(node)
    assert len(calls) >= 5


def test_a_model_that_is_larger_than_the_memory_is_refused_before_it_is_read_with_what_would_fit(tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, LlamaConfig

    from caseback.model.loading import room

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=512, tie_word_embeddings=False, **sizes)
    small = AutoModelForCausalLM.from_config(config)
    small.save_pretrained(tmp_path)
    needed = 4 * sum(one.numel() for one in small.parameters())
    small.save_pretrained(tmp_path / "parts", max_shard_size="50KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "parts" / "consolidated.safetensors")
    stored = room.stored_numbers(tmp_path)
    assert (
        stored
        == room.stored_numbers(tmp_path / "parts")
        == room.numbers_of_config(AutoModelForCausalLM, config)
        == {"F32": needed // 4}
    )
    refused = {
        needed - 1: "dtype='bfloat16' .*--dtype bfloat16.* needs .* and fits",
        needed // 2 - 1: "billion parameters in bfloat16 would fit, and device_map='auto'",
    }
    for free, words in refused.items():
        monkeypatch.setattr(room, "free_bytes", lambda where, free=free: free)
        with pytest.raises(LoadError, match=f"of memory, and .* are free on cpu: .*{words}"):
            cb.load(tmp_path)
    monkeypatch.setattr(room, "free_bytes", lambda where: needed // 2)
    assert cb.load(tmp_path, dtype="bfloat16").n_layers == 2
    with pytest.raises(LoadError, match="in bfloat16 would fit|and fits"):
        cb.load(tmp_path, dtype=torch.float64)
    monkeypatch.setattr(room, "free_bytes", lambda where: None)
    assert cb.load(tmp_path).n_layers == 2
