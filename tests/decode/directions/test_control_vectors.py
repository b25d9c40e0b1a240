"""Control vectors byte by byte, as llama.cpp reads them; tensors in .pt files; both on the layers that they mean."""

import struct

import pytest
import torch

import caseback as cb
from caseback.decode import Place, read_states
from caseback.decode.directions import (
    load_control_vector,
    load_directions,
    load_tensor_directions,
    save_control_vector,
    save_directions,
)
from caseback.decode.steering import contrastive_addition, dose_response
from caseback.errors import CasebackError, EditError, LoadError

STRING, UINT32, FLOAT32 = 8, 4, 0  # of GGUF's types


def text(value):
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def gguf_bytes(rows, architecture="controlvector", kind=FLOAT32, shape=None):
    """A GGUF file of version 3, written by its specification: header, metadata, tensor infos, padding, data."""
    metadata = [
        text("general.architecture") + struct.pack("<I", STRING) + text(architecture),
        text("controlvector.model_hint") + struct.pack("<I", STRING) + text("llama"),
        text("controlvector.layer_count") + struct.pack("<II", UINT32, len(rows)),
    ]
    infos, data = [], b""
    for name, row in rows.items():
        dims = [len(row)] if shape is None else shape
        infos.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data)))
        data += struct.pack(f"<{len(row)}f", *row)
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(rows), len(metadata)) + b"".join(metadata) + b"".join(infos)
    return head + b"\0" * (-len(head) % 32) + data


def parsed(file):
    """Metadata and rows of a control vector, read without any library."""
    data, at = file.read_bytes(), 24

    def take(form):
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values[0] if len(values) == 1 else values

    def take_text():
        nonlocal at
        length = take("Q")
        at += length
        return data[at - length : at].decode()

    assert data[:4] == b"GGUF" and struct.unpack_from("<I", data, 4) == (3,)
    n_tensors, n_fields = struct.unpack_from("<QQ", data, 8)
    fields = {}
    for _ in range(n_fields):
        key, kind = take_text(), take("I")
        fields[key] = take_text() if kind == STRING else take("I")
    infos = {}
    for _ in range(n_tensors):
        name, n_dims = take_text(), take("I")
        assert n_dims == 1
        infos[name] = take("QIQ")
    start = at + -at % 32
    return fields, {name: (k, struct.unpack_from(f"<{d}f", data, start + o)) for name, (d, k, o) in infos.items()}


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def found(model):
    return contrastive_addition(model, ["the sun is warm", "a warm day"], ["the sun is cold", "a cold day"])


def test_a_file_written_by_the_specification_is_read(tmp_path):
    file = tmp_path / "other.gguf"
    file.write_bytes(gguf_bytes({"direction.3": (1.0, 2.0, -0.5), "direction.1": (0.25, 0.0, 4.0)}))
    directions = load_control_vector(file)
    assert directions.places == [Place("resid_post", 1), Place("resid_post", 3)]
    assert directions.write.tolist() == [[0.25, 0.0, 4.0], [1.0, 2.0, -0.5]]
    assert directions.table.attrs["model_hint"] == "llama"


def test_what_is_written_is_what_the_specification_says(model, found, tmp_path):
    file = tmp_path / "warm.gguf"
    some = found.at(["resid_post.3", "resid_post.1"])
    save_control_vector(some, file, model=model)
    fields, rows = parsed(file)
    assert fields == {
        "general.architecture": "controlvector",
        "controlvector.model_hint": model.hf.config.model_type,
        "controlvector.layer_count": 2,
    }
    for place, vector in zip(some.places, some.write, strict=True):
        kind, row = rows[f"direction.{place.layer}"]
        assert kind == FLOAT32 and torch.equal(torch.tensor(row), vector.float())
    again = load_control_vector(file, model=model)
    assert again.names == ["resid_post.1", "resid_post.3"]
    assert torch.equal(again.write, some.at(again.names).write.float())


def test_direction_n_is_added_to_what_block_n_writes(model, tmp_path):
    """As llama.cpp's build_cvec: behind block N, counted from 0."""
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    file = tmp_path / "two.gguf"
    file.write_bytes(gguf_bytes({"direction.2": vector.tolist()}))
    ids = model.tokens("The dog was").ids
    blocks = next(m for m in model.hf.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == model.n_layers)

    def add(module, args, out):
        return (out[0] + 1.5 * vector, *out[1:]) if isinstance(out, tuple) else out + 1.5 * vector

    handle = blocks[2].register_forward_hook(add)
    with torch.no_grad():
        expected = model.hf(ids).logits
    handle.remove()
    edits = load_control_vector(file, model=model).edits(1.5)
    assert torch.allclose(model.run(ids, edits=edits).logits, expected, atol=1e-4)
    assert not torch.allclose(model.run(ids).logits, expected, atol=1e-1)


def test_strengths_in_state_lengths_need_texts(model, found, tmp_path):
    file = tmp_path / "warm.gguf"
    save_control_vector(found.at("resid_post.2"), file)
    with pytest.raises(EditError, match="without the states' length"):
        load_control_vector(file).edits(1.0, unit="norm")
    prompts = ["The dog was old", "Tom"]
    directions = load_control_vector(file, model=model, prompts=prompts)
    states = read_states(model, prompts, sites="resid_post.2", pos=slice(None))
    assert directions.norm.tolist() == pytest.approx(states.x.norm(dim=2).mean(1).tolist(), rel=1e-6)
    curve = dose_response(model, directions, prompts, cb.logit(" happy"), strengths=[0.5], n_random=1)
    assert curve.effect.shape == (2, 2)
    save_directions(load_control_vector(file), tmp_path / "kept.safetensors")
    assert load_directions(tmp_path / "kept.safetensors").norm.isnan().all()


@pytest.mark.parametrize("unit", ["difference", "norm"])
def test_the_unit_that_is_written(found, unit, tmp_path):
    here = found.at("resid_post.2")
    save_control_vector(here, tmp_path / "a.gguf", unit=unit)
    length = load_control_vector(tmp_path / "a.gguf").write.norm().item()
    assert length == pytest.approx(float(here.norm if unit == "norm" else here.write.norm()), rel=1e-5)


def test_places_that_the_format_lacks_are_refused(found, model, tmp_path):
    for directions in (found, contrastive_addition(model, "warm", "cold", sites="mlp_out.2")):
        with pytest.raises(CasebackError, match="expected places resid_post.1"):
            save_control_vector(directions, tmp_path / "a.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no GGUF file"),
        (b"GGUF", "no GGUF file"),
        (gguf_bytes({"direction.1": (1.0,) * 8})[:-20], "no GGUF file"),
        (gguf_bytes({"direction.1": (1.0, 2.0)}, architecture="llama"), "architecture 'llama'"),
        (gguf_bytes({"direction.0": (1.0, 2.0)}), "'direction.0'"),
        (gguf_bytes({"direction.x": (1.0, 2.0)}), "'direction.x'"),
        (gguf_bytes({"direction.1": (1.0, 2.0, 3.0, 4.0)}, shape=[2, 2]), "one row"),
        (gguf_bytes({"direction.1": (1.0, 2.0)}, kind=1), "float32"),
        (gguf_bytes({"else": (1.0, 2.0)}), "holds no direction"),
        (gguf_bytes({"direction.1": (0.0, 0.0)}), "zero or not finite"),
        (gguf_bytes({"direction.1": (float("nan"), 1.0)}), "zero or not finite"),
        (gguf_bytes({"direction.1": (1.0, 2.0), "direction.2": (1.0,)}), "several widths"),
    ],
)
def test_other_files_are_refused(data, says, tmp_path):
    file = tmp_path / "bad.gguf"
    file.write_bytes(data)
    with pytest.raises(LoadError, match=says):
        load_control_vector(file)


def test_another_model_is_refused(model, tmp_path):
    for name, row, says in (("direction.1", (1.0,) * 7, "width 7"), ("direction.9", (1.0,) * model.d_model, "9")):
        (tmp_path / "a.gguf").write_bytes(gguf_bytes({name: row}))
        with pytest.raises(LoadError, match=says):
            load_control_vector(tmp_path / "a.gguf", model=model)


def test_tensor_files(model, tmp_path):
    file, rows = tmp_path / "a.pt", torch.randn(5, 6)
    torch.save(rows, file)
    assert torch.equal(load_tensor_directions(file, allow_pickle=True).write, rows)
    counted = load_tensor_directions(file, allow_pickle=True, hidden_states=True)
    assert counted.names == ["resid_pre.0", "resid_post.0", "resid_post.1", "resid_post.2"]
    assert torch.equal(counted.write, rows[:-1])
    torch.save({3: rows[0], "1": rows[1].bfloat16()}, file)
    by_layer = load_tensor_directions(file, allow_pickle=True, site="mlp_out")
    assert by_layer.names == ["mlp_out.1", "mlp_out.3"] and torch.equal(by_layer.write[1], rows[0])
    torch.save(rows[2].double(), file)
    one = load_tensor_directions(file, allow_pickle=True, layer=4)
    assert one.names == ["resid_post.4"] and torch.equal(one.write[0], rows[2].double())
    with pytest.raises(CasebackError, match="allow_pickle=True"):
        load_tensor_directions(file, layer=4)
    with pytest.raises(CasebackError, match="say of which layer"):
        load_tensor_directions(file, allow_pickle=True)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Evil(), "cannot be read with weights_only=True"),
        ([1, 2], "a list"),
        (torch.zeros(2, 2, 2), "expected a vector"),
        ({"a": torch.ones(2)}, "'a'"),
        ({-1: torch.ones(2)}, "'-1'"),
        ({True: torch.ones(2)}, "'True'"),
        ({1: torch.ones(2, dtype=torch.int64)}, "real numbers"),
        ({}, "holds no direction"),
        ({1: torch.ones(2), 2: torch.ones(3)}, "several widths"),
    ],
)
def test_other_tensor_files_are_refused(value, says, tmp_path, capsys):
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(LoadError, match=says):
        load_tensor_directions(tmp_path / "a.pt", allow_pickle=True)
    assert "run" not in capsys.readouterr().out


def test_steer_takes_a_control_vector(found, tmp_path, capsys):
    from caseback import cli

    file = tmp_path / "warm.gguf"
    save_control_vector(found.at("resid_post.2"), file)
    with pytest.raises(SystemExit) as ended:
        cli.main(["steer", "The dog was", "--directions", str(file), "--generate", "2", "--strength", "0.5"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    assert "at resid_post.2" in printed.out
