"""What is not right in a published file is said in one line; what does not fit a model is refused, unless forced."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import published_layouts as layouts
import shelf
from caseback.decode.dictionaries import Facts, JumpReLU, Standard, TopK, load, load_set, save
from caseback.decode.dictionaries.formats.hook_names import hook_of_site, site_of_hook, site_of_module
from caseback.errors import CasebackError, LoadError
from published_layouts import D

FOLDERS = {
    "saelens": lambda p: layouts.saelens(p, torch.float32, "jumprelu"),
    "gemma_scope_2": lambda p: layouts.gemma_scope_2(p, torch.float32),
    "sparsify": lambda p: layouts.sparsify(p, torch.float32),
    "llamascopium": lambda p: layouts.llamascopium(p, torch.float32),
    "llama_scope": lambda p: layouts.llama_scope(p, torch.float32),
}


def _one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text and len(text) < 1500
    return text


def _changed(folder, change):
    path = next(folder.rglob("*.safetensors"))
    held = load_file(path)
    change(held)
    save_file(held, path)


@pytest.mark.parametrize("name", FOLDERS)
def test_weights_that_are_missing_unknown_or_no_numbers(tmp_path, name):
    for number, (change, says) in enumerate(
        [
            (lambda held: held.pop(sorted(held)[0]), "lacks the tensor"),
            (lambda held: held.update(surprise=torch.ones(2)), "surprise"),
            (lambda held: held[max(held, key=lambda n: held[n].numel())].view(-1)[3].fill_(torch.nan), "no numbers"),
            (
                lambda held: held.update({n: v[..., :-1].clone() for n, v in held.items() if "enc" in n or n == "W_E"}),
                "shape",
            ),
        ]
    ):
        path = FOLDERS[name](tmp_path / str(number)).path
        _changed(path, change)
        with pytest.raises(LoadError, match=says) as error:
            load(path)
        _one_line(error)


@pytest.mark.parametrize("name", FOLDERS)
def test_files_that_are_cut_short(tmp_path, name):
    path = FOLDERS[name](tmp_path / "a").path
    weights = next(path.rglob("*.safetensors"))
    for size in (0, 7, 100, weights.stat().st_size - 5):
        weights.write_bytes(weights.read_bytes()[:size])
        with pytest.raises(LoadError) as error:
            load(path)
        _one_line(error)


@pytest.mark.parametrize("size", [0, 7, 100, -5])
def test_one_file_that_is_cut_short_says_so(tmp_path, size):
    path = tmp_path / "resid_post.1-topk-4.safetensors"
    save(TopK(8, 32, k=4), tmp_path / "whole", format="caseback")
    path.write_bytes(next((tmp_path / "whole").iterdir()).read_bytes()[:size])
    with pytest.raises(LoadError, match="cannot be read") as error:
        load(path)
    _one_line(error)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"architecture": 3, "d_in": "x", "metadata": 5}', "null"])
def test_configs_of_any_other_form(tmp_path, name, text):
    path = FOLDERS[name](tmp_path / "a").path
    next(path.glob("*.json")).write_text(text)
    if (name, text) == ("gemma_scope_2", "{}"):
        return  # all of it may be absent
    with pytest.raises(LoadError) as error:
        load(path)
    _one_line(error)


def test_archives_of_numpy_that_are_none(tmp_path):
    path = layouts.gemma_scope(tmp_path / "a", torch.float32).path / "params.npz"
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:size])
        with pytest.raises(LoadError) as error:
            load(path.parent)
        _one_line(error)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(LoadError, match="one array"):
        load(path)
    with path.open("wb") as file:
        np.savez(file, W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(LoadError):
        load(path)


@pytest.mark.parametrize("architecture", ["temporal", "crosscoder", "nonsense", None])
def test_an_architecture_that_is_not_read_is_refused_by_name(tmp_path, architecture):
    path = layouts.saelens(tmp_path / "a", torch.float32, "standard").path
    config = json.loads((path / "cfg.json").read_text()) | {"architecture": architecture}
    (path / "cfg.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match=f"{architecture!r}"):
        load(path)


def test_a_folder_of_no_layout_says_what_was_looked_for(tmp_path):
    (tmp_path / "readme.md").write_text("nothing")
    with pytest.raises(LoadError, match="cfg.json and sae_weights.safetensors.*params.npz.*ae.pt"):
        load(tmp_path)
    with pytest.raises(LoadError, match="no set"):
        load_set(tmp_path)
    with pytest.raises(LoadError, match="Did you mean saelens"):
        load(tmp_path, format="saelen")


def test_pickles_are_read_on_request_and_run_nothing(tmp_path):
    for published in (
        layouts.dictionary_learning(tmp_path / "a", torch.float32, "AutoEncoder"),
        layouts.openai(tmp_path / "b", torch.float32),
    ):
        with pytest.raises(LoadError, match="allow_pickle=True"):
            load(published.path)

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for name in ("ae.pt", "layer0.sae.pt"):
        (tmp_path / name).write_bytes(pickle.dumps({"W_enc": Bomb()}, protocol=2))
        with pytest.raises(LoadError, match="weights_only"):
            load(tmp_path / name, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "source", ["nobody/nothing", "hf://nobody/nothing/a.npz", "a/b/c", "./absent", "absent", "hf://x", "a\0/b", ""]
)
def test_what_is_not_there_offline(source):
    with pytest.raises(LoadError) as error:
        load(source, subfolder="x")
    _one_line(error)


def test_a_dictionary_of_another_model_is_refused_and_one_of_another_name_is_forced(tmp_path):
    model = shelf.model("llama")
    width = model.d_model
    good = Standard(width, 8, facts=Facts(site="resid_post.1", model=f"somebody/{model.name}"))
    save(good, tmp_path / "good")
    assert load(tmp_path / "good", model=model).facts.site == "resid_post.1"
    cannot = {
        "width": (Standard(width + 1, 8, facts=Facts(site="resid_post.1")), "of width"),
        "site": (Standard(width, 8, facts=Facts(site="resid_post.99")), "another model"),
    }
    for name, (one, says) in cannot.items():
        save(one, tmp_path / name)
        for force in (False, True):
            with pytest.raises(LoadError, match=f"{says}(?!.*force)"):
                load(tmp_path / name, model=model, force=force)
        assert load(tmp_path / name).n_features == 8
    save(Standard(width, 8, facts=Facts(site="resid_post.1", model="gpt2")), tmp_path / "model")
    with pytest.raises(LoadError, match="'gpt2'.*force=True .*--force"):
        load(tmp_path / "model", model=model)
    forced = load(tmp_path / "model", model=model, force=True)
    assert (forced.facts.model, forced.facts.provenance["made_for"]) == (model.name, "gpt2")


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_norm_without_its_gain_is_read_through_the_models_own(tmp_path, family):
    """Llama Scope's transcoders read x / rms; mlp_norm is that times the gain."""
    model = shelf.model(family)
    d = model.d_model
    one = JumpReLU(d, 12, facts=Facts(site="mlp_norm.1", target="mlp_out.1"), skip=True, dtype=torch.float64)
    assert one.W_skip is not None
    one.W_skip.data.normal_()
    save(one, tmp_path / "a")
    config = json.loads((tmp_path / "a" / "cfg.json").read_text())
    config["metadata"]["hook_name"] = "blocks.1.ln2.hook_normalized"
    (tmp_path / "a" / "cfg.json").write_text(json.dumps(config))
    run = model.run([[1, 2, 3, 4]], read=["resid_mid", "mlp_norm", "mlp_norm.scale"])
    bare = (run["resid_mid", 1] / run["mlp_norm.scale", 1][..., None]).double()
    with_gain = run["mlp_norm", 1].double()
    assert not torch.allclose(bare, with_gain)
    read = load(tmp_path / "a", model=model)
    torch.testing.assert_close(read.scores(with_gain), one.scores(bare), rtol=0, atol=1e-6)
    torch.testing.assert_close(read(with_gain), one(bare), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("hook", "site"),
    [
        ("blocks.5.hook_resid_pre", "resid_pre.5"),
        ("blocks.5.hook_resid_mid", "resid_mid.5"),
        ("blocks.5.hook_resid_post", "resid_post.5"),
        ("blocks.5.hook_attn_out", "attn_out.5"),
        ("blocks.5.hook_mlp_out", "mlp_out.5"),
        ("blocks.5.hook_mlp_in", "mlp_in.5"),
        ("blocks.5.mlp.hook_in", "mlp_norm.5"),
        ("blocks.5.attn.hook_z", "z.5"),
        ("blocks.5.mlp.hook_post", "mlp_post.5"),
        ("hook_embed", "embed"),
        ("model.layers.3.mlp.act_fn.output", "model.layers.3.mlp.act_fn.output"),
    ],
)
def test_hooks_of_transformer_lens_both_ways(hook, site):
    assert site_of_hook(hook) == (site, False)
    assert hook_of_site(site) == hook


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
def test_modules_of_hugging_face_are_the_models_own_sites(family):
    """With the model, a path means what its module gives: checked by running both."""
    model = shelf.model(family)
    layers = {"gpt2": "h", "gpt_neox": "layers"}.get(family, "layers")
    attention = {"gpt2": "attn", "gpt_neox": "attention"}.get(family, "self_attn")
    for end in ("output", "input"):
        for part in ("", ".mlp", f".{attention}"):
            if end == "input" and part == f".{attention}":
                continue  # some families give attention its input by keyword
            path = f"{layers}.1{part}.{end}"
            site = site_of_module(path, model)
            full = next(name for name, _ in model.hf.named_modules() if name.endswith(f"{layers}.1{part}"))
            run = model.run([[1, 2, 3]], read=[site, f"{full}.{end}"])
            own = run[model.anatomy.sites(site).__next__().key]
            torch.testing.assert_close(own, run[f"{full}.{end}"], rtol=0, atol=0)
    if family == "gemma2":
        assert site_of_module("layers.1.mlp.output", model).endswith("mlp.output"), "a norm stands behind it"


def test_any_error_is_ours(tmp_path):
    """Bytes of each file are changed here and there; nothing but our errors comes out."""
    draw = np.random.default_rng(0)
    for name, write in FOLDERS.items():
        path = write(tmp_path / name).path
        for file in [*path.rglob("*.json"), *path.rglob("*.safetensors")]:
            whole = file.read_bytes()
            for _ in range(25):
                changed = bytearray(whole)
                changed[draw.integers(0, min(len(whole), 600))] = draw.integers(0, 256)
                file.write_bytes(changed)
                try:
                    load(path)
                except CasebackError as error:
                    assert "\n" not in str(error)
            file.write_bytes(whole)


def test_a_file_and_its_folder_are_one(tmp_path):
    path = layouts.saelens(tmp_path / "a", torch.float64, "topk", k=3).path
    x = layouts.numbers(4, D, seed=3)
    one, two = load(path), load(path / "sae_weights.safetensors")
    three = load(tmp_path, subfolder="a")
    assert type(one) is TopK
    assert torch.equal(one(x), two(x)) and torch.equal(one(x), three(x))
