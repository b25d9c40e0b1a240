"""Every fitted thing comes back as it was, is refused when a byte of it differs, and names what reads another kind."""

import json

import pytest
import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import save_file

import shelf
from caseback.artifacts.kinds import KINDS
from caseback.decode.vocabulary import fit_mapping, fit_translators, load_lens, load_mapping, save_lens, save_mapping
from caseback.errors import CasebackError, LoadError
from caseback.localize.abstraction import At, Interchanges, boundless_das, das, load_subspace, save_subspace
from caseback.model.circuit import Circuit
from caseback.version import __version__


def lens():
    return fit_translators(shelf.model("gpt2"), shelf.ids((6, 8)), rows=[0, 2])


def mapping():
    model = shelf.model("gpt2")
    return fit_mapping(model, model, shelf.ids((9, 9)), row=0, target_row=2)


def subspace(search=das, **how):
    model = shelf.model("gpt2")
    tokens, targets = model.tokens(shelf.ids((6, 6)) * 2), torch.tensor([3, 4, 5, 6])
    data = Interchanges(tokens, {"a": model.tokens(shelf.ids((6, 6), seed=1) * 2)}, targets, targets + 1)
    return search(model, data, At("resid_post", layer=0, pos=-1), epochs=1, **how)


def circuit():
    return Circuit.of("embed -> L0H0.v", "L0H0 -> logits", roles={"L0H0": "copies — what stands before"}, model="tiny")


THINGS = {
    "lens": (lens, save_lens, load_lens),
    "mapping": (mapping, save_mapping, load_mapping),
    "subspace": (subspace, save_subspace, load_subspace),
    "circuit": (circuit, Circuit.save, Circuit.load),
}


@pytest.mark.parametrize("kind", THINGS)
def test_a_changed_byte_a_missing_end_and_a_folder_are_refused(kind, tmp_path):
    make, save, load = THINGS[kind]
    path = tmp_path / "a"
    save(make(), path)
    load(path)
    whole = path.read_bytes()
    for at in (len(whole) // 3, len(whole) // 2, len(whole) - 90):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CasebackError) as refused:
            load(path)
        assert "\n" not in str(refused.value)
    for short in (whole[:-7], whole[:20], b""):
        path.write_bytes(short)
        with pytest.raises(LoadError, match=f"cannot be read as a {kind}"):
            load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(LoadError, match=f"cannot be read as a {kind}"):
        load(path)


@pytest.mark.parametrize("kind", THINGS)
def test_no_byte_can_change_unseen(kind, tmp_path):
    make, save, load = THINGS[kind]
    path = tmp_path / "a"
    save(make(), path)
    whole = path.read_bytes()
    step = max(1, len(whole) // 2000)
    unseen = []
    for at in range(0, len(whole), step):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            load(path)
            unseen.append(at)
        except CasebackError:
            pass
    assert [whole[at - 20 : at + 20] for at in unseen] == []


@pytest.mark.parametrize("kind", THINGS)
def test_the_same_thing_is_the_same_bytes(kind, tmp_path):
    make, save, _ = THINGS[kind]
    thing = make()
    files = [tmp_path / str(i) for i in range(6)]
    for file in files:
        save(thing, file)
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("kind", ["lens", "mapping", "subspace"])
def test_another_kind_names_what_reads_it(kind, tmp_path):
    make, save, _ = THINGS[kind]
    save(make(), tmp_path / "a")
    for other in {"lens", "mapping", "subspace"} - {kind}:
        with pytest.raises(
            LoadError, match=rf"holds no {other} but 'caseback {kind} 1': {KINDS[kind].reader} reads it"
        ):
            THINGS[other][2](tmp_path / "a")


def test_a_mapping_comes_back_to_the_bit(tmp_path):
    made = mapping()
    save_mapping(made, tmp_path / "a")
    back = load_mapping(tmp_path / "a")
    assert torch.equal(back.weight, made.weight) and torch.equal(back.bias, made.bias)
    assert (back.explained, back.provenance) == (made.explained, made.provenance) and made.provenance["target_row"] == 2


@pytest.mark.parametrize("search", [das, boundless_das])
def test_a_subspace_comes_back_to_the_bit_and_is_put_in_a_place(search, tmp_path):
    made = subspace(search)
    save_subspace(made, tmp_path / "a")
    back = load_subspace(tmp_path / "a")
    assert back.identical(made) and back.dtype == made.dtype
    assert torch.equal(At("resid_post", layer=0).holding(back, "a").basis, torch.as_tensor(made.values))
    with safe_open(tmp_path / "a", "pt") as file:
        told = file.metadata()
    assert json.loads(told["checks"])["held_out_accuracy"] == made.attrs["held_out_accuracy"]
    assert json.loads(told["made"])["place"] == made.attrs["place"] and told["caseback_version"] == __version__
    for wrong, says in (({}, "expected a labeled result"), (xr.DataArray([1.0], dims="k"), "is not a subspace")):
        with pytest.raises(CasebackError, match=says):
            save_subspace(wrong, tmp_path / "b")


def test_a_lens_of_an_earlier_version_is_read(tmp_path):
    made = lens()
    save_lens(made, tmp_path / "a")
    with safe_open(tmp_path / "a", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = {
            k: v for k, v in file.metadata().items() if k not in ("digests", "sealed", "caseback_version", "checks")
        }
    assert told.keys() == {"format", "kind", "rows", "n_layers", "ahead", "fingerprint", "made"}
    save_file(tensors, tmp_path / "b", told)
    assert torch.equal(load_lens(tmp_path / "b", shelf.model("gpt2")).weight, made.weight)


def test_a_circuit_of_an_earlier_version_is_read_and_a_changed_one_is_not(tmp_path):
    made, path = circuit(), tmp_path / "a.json"
    path.write_text(json.dumps(made.to_json()))
    assert Circuit.load(path) == made
    made.save(path)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["roles"] == made.to_json()["roles"] and "—" in path.read_text(encoding="utf-8")
    path.write_text(json.dumps({**data, "edges": data["edges"][:1]}))
    with pytest.raises(LoadError, match="damaged"):
        Circuit.load(path)
    path.write_text(json.dumps({**data, "format": "caseback circuit 2"}))
    with pytest.raises(LoadError, match="this version of caseback reads 'caseback circuit 1'"):
        Circuit.load(path)
