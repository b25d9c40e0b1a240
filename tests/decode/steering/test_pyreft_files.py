"""LoReFT as pyreft keeps it: a folder written without the package, and its formula run as a hook."""

import json

import pytest
import torch

import caseback as cb
from caseback.decode import Place
from caseback.decode.steering import load_pyreft, load_reft, save_reft
from caseback.errors import CasebackError, LoadError

LORA = "<class 'pyreft.interventions.LoreftIntervention'>"


def written(folder, d, layers=(2, 1), rank=3, component="block_output", dots=False, seed=0, **config):
    """A folder with the keys and files that pyvene's save writes."""
    folder.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(seed)
    keys, tensors = [], {}
    for layer in layers:
        key = f"layer_{layer}_comp_{component}_unit_pos_nunit_1#0"
        if dots:
            key = f"layer.{layer}.comp.{component}.unit.pos.nunit.1#0"
        rotate = torch.linalg.qr(torch.randn(d, rank, generator=draw))[0]
        weight, bias = torch.randn(rank, d, generator=draw) / d**0.5, torch.randn(rank, generator=draw)
        tensors[layer] = {"weight": weight, "bias": bias, "rotate_layer": rotate}
        torch.save(tensors[layer], folder / f"intkey_{key}.bin")
        keys.append(key)
    rest = [None] * 7 + [False]
    represented = [[layer, component, "pos", 1, rank, *rest] for layer in layers]
    whole = {"representations": represented, "sorted_keys": keys, "intervention_types": [LORA] * len(layers)}
    (folder / "config.json").write_text(json.dumps(whole | config))
    return tensors


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.mark.parametrize("dots", [False, True])
def test_a_folder_does_what_the_published_formula_does(model, tmp_path, dots):
    tensors = written(tmp_path / "loreft", model.d_model, dots=dots)
    reft = load_pyreft(tmp_path / "loreft", allow_pickle=True, first=1, last=2, model=model)
    assert reft.places == [Place("resid_post", 1), Place("resid_post", 2)] and (reft.first, reft.last) == (1, 2)
    ids = model.tokens("When Mary and John went to the store").ids
    at = [0, ids.shape[1] - 2, ids.shape[1] - 1]
    blocks = next(m for m in model.hf.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == model.n_layers)
    handles = []
    for layer, of in tensors.items():

        def hook(module, args, out, of=of):
            stream = out[0] if isinstance(out, tuple) else out
            x, rotate = stream[:, at], of["rotate_layer"]
            stream = stream.clone()
            stream[:, at] = x + (x @ of["weight"].T + of["bias"] - x @ rotate) @ rotate.T
            return (stream, *out[1:]) if isinstance(out, tuple) else stream

        handles.append(blocks[layer].register_forward_hook(hook))
    with torch.no_grad():
        expected = model.hf(ids).logits
    for handle in handles:
        handle.remove()
    logits = model.run(ids, edits=reft.edits(model, ids)).logits
    assert torch.allclose(logits, expected, atol=1e-3)
    assert not torch.allclose(model.run(ids).logits, expected, atol=1e-1)
    save_reft(reft, tmp_path / "kept.safetensors")
    assert torch.equal(load_reft(tmp_path / "kept.safetensors").rows, reft.rows)


def test_names_in_place_of_lists(model, tmp_path):
    written(
        tmp_path / "a",
        5,
        layers=(0,),
        representations=[{"layer": 0, "component": "mlp_output"}],
        component="mlp_output",
    )
    assert load_pyreft(tmp_path / "a", allow_pickle=True).places == [Place("mlp_out", 0)]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"intervention_types": ["<class 'pyreft.interventions.ConsreftIntervention'>"] * 2},
            "expected LoreftIntervention",
        ),
        ({"sorted_keys": ["../x"] * 2}, "none of a layer's component"),
        ({"sorted_keys": []}, "sorted_keys"),
        ({"representations": [[1, "head_attention_value_output"], [2, "block_output"]]}, "is none of"),
        ({"representations": [[1, "block_output"], [3, "block_output"]]}, "other places"),
        ({"representations": None}, "none that pyreft wrote"),
    ],
)
def test_other_folders_are_refused(config, says, tmp_path):
    written(tmp_path / "a", 5, **config)
    with pytest.raises(LoadError, match=says):
        load_pyreft(tmp_path / "a", allow_pickle=True)


def test_maps_of_several_ranks_are_refused(tmp_path):
    written(tmp_path / "a", 5)
    written(tmp_path / "b", 5, rank=2)
    name = "intkey_layer_1_comp_block_output_unit_pos_nunit_1#0.bin"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(LoadError, match="several ranks"):
        load_pyreft(tmp_path / "a", allow_pickle=True)


def test_files_that_do_not_fit_are_refused(model, tmp_path):
    written(tmp_path / "a", 5, layers=(1,))
    with pytest.raises(CasebackError, match="allow_pickle=True"):
        load_pyreft(tmp_path / "a")
    with pytest.raises(LoadError, match="width 5"):
        load_pyreft(tmp_path / "a", allow_pickle=True, model=model)
    file = next((tmp_path / "a").glob("*.bin"))
    for value, says in (
        ({"weight": torch.ones(2, 5)}, "expected weight, bias and rotate_layer"),
        (
            {"weight": torch.ones(2, 5), "bias": torch.ones(2), "rotate_layer": torch.ones(2, 5)},
            "rotate_layer \\(d, r\\)",
        ),
        (
            {"weight": torch.full((2, 5), torch.nan), "bias": torch.ones(2), "rotate_layer": torch.ones(5, 2)},
            "not finite",
        ),
    ):
        torch.save(value, file)
        with pytest.raises(LoadError, match=says):
            load_pyreft(tmp_path / "a", allow_pickle=True)
    file.unlink()
    with pytest.raises(LoadError, match="is absent"):
        load_pyreft(tmp_path / "a", allow_pickle=True)
