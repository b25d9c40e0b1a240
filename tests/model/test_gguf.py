"""GGUF: a folder's file is read as transformers reads it, by the library and by every command, or refused by name."""

import importlib.util
import inspect
import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import caseback as cb
from caseback import cli
from caseback.cli.options import OfModel
from caseback.errors import LoadError
from caseback.model.loading import model_files

WIDTH, HEADS, HIDDEN, LAYERS = 32, 4, 48, 2
WORDS = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "c", "\u2581a", "\u2581b", "\u2581c"]


def write_gguf(path, seed=0):
    """A tiny Llama in GGUF, written with the format's own package."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(16)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(WORDS)
    writer.add_token_scores([-float(i) for i in range(len(WORDS))])
    writer.add_token_types([2, 3, 3, *[1] * (len(WORDS) - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    draw = np.random.default_rng(seed)

    def tensor(name, *shape):
        writer.add_tensor(name, draw.normal(size=shape).astype(np.float32) * 0.2)

    tensor("token_embd.weight", len(WORDS), WIDTH)
    tensor("output.weight", len(WORDS), WIDTH)
    tensor("output_norm.weight", WIDTH)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"blk.{layer}.{name}.weight", WIDTH, WIDTH)
        for name in ("attn_norm", "ffn_norm"):
            tensor(f"blk.{layer}.{name}.weight", WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            tensor(f"blk.{layer}.{name}.weight", HIDDEN, WIDTH)
        tensor(f"blk.{layer}.ffn_down.weight", WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "in-gguf"
    path.mkdir()
    write_gguf(path / "tiny.gguf")
    return path


def test_a_file_of_a_folder_is_read_as_transformers_reads_it(folder):
    plain = AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    ids = torch.tensor([[1, 7, 8, 9, 7]])
    with torch.no_grad():
        expected = plain(ids).logits
    model = cb.load(folder, gguf_file="tiny.gguf")
    assert model.dtype == torch.float32 and model.name == "in-gguf" and model.n_layers == LAYERS
    assert torch.equal(model.run(ids).logits, expected)


def test_what_was_read_can_be_saved_as_safetensors(folder, tmp_path):
    model = cb.load(folder, gguf_file="tiny.gguf")
    model.hf.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 7, 8, 9, 7]])
    assert torch.equal(cb.load(tmp_path).run(ids).logits, model.run(ids).logits)


def test_the_tokenizer_is_the_files_own_where_the_folder_has_none(folder):
    expected = AutoTokenizer.from_pretrained(folder, gguf_file="tiny.gguf")("a b c")["input_ids"]
    assert cb.load(folder, gguf_file="tiny.gguf").tokens("a b c").ids[0].tolist() == expected


def test_a_folder_whose_weights_are_gguf_names_the_option(folder):
    with pytest.raises(LoadError, match=r"gguf_file='tiny.gguf' \(--gguf tiny.gguf\)$"):
        cb.load(folder)
    with pytest.raises(LoadError, match=r"expected its folder .*in-gguf', and gguf_file='tiny.gguf' \(--gguf"):
        cb.load(folder / "tiny.gguf")
    with pytest.raises(LoadError, match=r"has no file 'other.gguf': expected one of its \*.gguf \(tiny.gguf\)"):
        cb.load(folder, gguf_file="other.gguf")
    with pytest.raises(LoadError, match="with a model in memory"):
        cb.load(cb.load("meadow").hf, gguf_file="tiny.gguf")


def test_a_folder_with_a_config_and_gguf_weights_names_the_option_too(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    (tmp_path / "a.gguf").write_bytes((folder / "tiny.gguf").read_bytes())
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(LoadError, match=r"it has no \*.safetensors; .* give gguf_file='a.gguf' .*another of its 2"):
        cb.load(tmp_path)
    with pytest.raises(LoadError, match="cannot load"):
        cb.load(tmp_path, gguf_file="b.gguf")


def test_the_package_that_reads_it_is_named_where_it_is_missing(folder, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(model_files, "find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(LoadError, match=r"pip install 'caseback\[gguf\]'"):
        cb.load(folder, gguf_file="tiny.gguf")


def takes_a_model(command):
    parameters = inspect.signature(inspect.unwrap(command)).parameters.values()
    return any(isinstance(p.annotation, type) and issubclass(p.annotation, OfModel) for p in parameters)


def test_every_command_that_loads_a_model_takes_the_file():
    for command in cli.COMMANDS:
        flat = inspect.signature(command).parameters
        assert ("gguf" in flat) == ("model" in flat), command.__name__
    assert sum(map(takes_a_model, cli.COMMANDS)) > 10


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    "line",
    [
        ("lens", "a b c", "--model", "{}"),
        ("dla", "a b c", "--model", "{}"),
        ("attribute", "a b c", "--method", "gradient_x_input", "--model", "{}"),
        ("ablate", "a b c", "--model", "{}"),
        ("weights", "{}", "--layer", "0", "--head", "1"),
    ],
)
def test_commands_read_the_file(folder, capsys, line):
    arguments = [part.format(folder) for part in line]
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--gguf", "tiny.gguf", "--json"])
    printed = capsys.readouterr()
    assert ended.value.code in (0, None), printed.err
    json.loads(printed.out)
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2 and "--gguf tiny.gguf" in capsys.readouterr().err


def test_the_tests_language_model_is_whole_and_says_paris(smollm_folder, smollm):
    names = {path.name for path in smollm_folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.startswith(".caseback")]
    tokens = smollm.tokens("The capital of France is")
    assert smollm.token_text(smollm.run(tokens).logits[0, -1].argmax()) == " Paris"
