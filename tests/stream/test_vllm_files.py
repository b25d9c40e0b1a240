"""Activations out of vLLM's files, which are written here as vLLM documents them, from plain transformers' states."""

import json

import pytest
import torch
from safetensors.torch import save_file

import caseback as cb
from caseback import cli
from caseback.errors import CasebackError, LoadError, OutOfRange
from caseback.stream import collect_vllm, from_vllm, mixed, nearest, open_collection

TEXTS = ["Mary went to the store.", "John saw the dog at the park.", "Mary and John went to the park.", "the cat"]
LAYERS = [0, 2, 4]


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def last_stream(model):
    """The stream before the final norm, which transformers' own hidden states have only behind it."""
    seen = []
    hook = model.hf.transformer.h[-1].register_forward_hook(lambda _, __, out: seen.append(out))
    yield seen
    hook.remove()


@pytest.fixture(scope="module")
def requests(model, last_stream):
    """(states of every layer id, ids) of each text."""
    listed = []
    for text in TEXTS:
        ids = torch.tensor(model.tokenizer(text)["input_ids"])
        with torch.no_grad():
            states = model.hf(ids[None], output_hidden_states=True).hidden_states
        last = last_stream[-1]
        last = last if isinstance(last, torch.Tensor) else last[0]
        listed.append((torch.stack([*(x[0] for x in states[:-1]), last[0]], 1), ids))
    return listed


@pytest.fixture
def files(requests, tmp_path):
    folder = tmp_path / "hidden_states"
    folder.mkdir()
    for number, (states, ids) in enumerate(requests):
        # vLLM rounds in its own way
        rounded = states[:, LAYERS].to(torch.bfloat16).contiguous()
        save_file({"hidden_states": rounded, "token_ids": ids}, folder / f"cmpl-{number}.safetensors")
        (folder / f"cmpl-{number}.safetensors.lock").touch()
    return folder


def test_a_layer_id_is_the_stream_that_enters_the_layer(files, model, requests, tmp_path):
    collection = collect_vllm(files, model, LAYERS, folder=tmp_path / "job", shard_tokens=10)
    assert collection.sites == ["resid_pre.0", "resid_post.1", "resid_post.3"]
    for column, site in zip(LAYERS, collection.sites, strict=True):
        store = collection.store(site)
        assert store.n_shards > 1
        want = torch.cat([states[:, column] for states, _ in requests]).to(torch.bfloat16)
        assert torch.equal(store.at(torch.arange(store.n_tokens)), want)
        assert (
            store.at(torch.arange(store.n_tokens), name="ids").tolist() == torch.cat([x for _, x in requests]).tolist()
        )
        assert store.row(1) == requests[1][1].tolist()
        store.expect_model(model)


def test_it_is_a_job_that_goes_on_and_a_store_like_any_other(files, model, tmp_path):
    first = collect_vllm(files, model, LAYERS, folder=tmp_path / "job", shard_tokens=10)
    path = first.store("resid_post.1")._path(1)
    whole = path.read_bytes()
    path.unlink()
    again = collect_vllm(files, model, LAYERS, folder=tmp_path / "job", shard_tokens=10)
    assert path.read_bytes() == whole
    assert open_collection(tmp_path / "job", model).sites == again.sites
    store = again.store("resid_post.1")
    place = int(nearest(store, store.at([4])[0].float(), top=1, model=model).place[0, 0])
    assert torch.equal(store.at([place]), store.at([4]))  # equal ones come in the order of the corpus


def test_a_layer_streams_into_the_mixing_buffer(files, requests):
    batches = list(mixed(from_vllm(files, LAYERS, 2), batch=5, buffer=12))
    want = torch.cat([states[:, 2] for states, _ in requests]).to(torch.bfloat16)
    order = lambda x: x[x.float()[:, 0].argsort(stable=True)]  # noqa: E731
    assert torch.equal(order(torch.cat(batches)), order(want))


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([0, 1, 4], "vLLM's layer 1 is nearer to resid_post.1 than to resid_post.0"),
        ([2, 0, 4], "vLLM's layer 2 is nearer to resid_pre.0"),
        ([0, 2], "holds 3 layers: 2 are named"),
        ([0, 2, 5], "counts from 0 to 4"),
        ([0, 2, 2], "each layer that vLLM extracted, once"),
        ([], "expected at least one"),
    ],
)
def test_layers_that_are_not_what_was_extracted_are_refused(files, model, layers, says, tmp_path):
    with pytest.raises(CasebackError, match=says.replace("(", r"\(")):
        collect_vllm(files, model, layers, folder=tmp_path / "job")
    assert not (tmp_path / "job").exists()
    if says.startswith("vLLM's layer"):
        assert collect_vllm(files, model, layers, folder=tmp_path / "job", compare=0).sites


def test_other_files_are_refused(files, model, requests, tmp_path):
    def refused(says, other=model):
        with pytest.raises(LoadError, match=says):
            collect_vllm(files, other, LAYERS, folder=tmp_path / "job", compare=9)

    path = files / "cmpl-2.safetensors"
    whole = path.read_bytes()
    states, ids = requests[2]
    states = states[:, LAYERS].contiguous()
    for tensors, says in (
        ({"hidden_states": states[:-1], "token_ids": ids}, "as many tokens in both"),
        ({"hidden_states": states[:, 0], "token_ids": ids}, "expected"),
        ({"hidden_states": states, "ids": ids}, "token_ids"),
        ({"hidden_states": states * torch.inf, "token_ids": ids}, "not finite"),
        ({"hidden_states": states, "token_ids": ids + 10**6}, "another model"),
        ({"hidden_states": states[..., :-1].contiguous(), "token_ids": ids}, "another model"),
    ):
        save_file({name: x.contiguous() for name, x in tensors.items()}, path)
        refused(says)
    path.write_bytes(whole[:-40])
    refused("cannot be read|incomplete|MetadataIncompleteBuffer")
    path.write_bytes(whole)
    (files / "cmpl-9.safetensors.zst").touch()
    refused("unzstd")
    with pytest.raises(LoadError, match="no folder"):
        next(from_vllm(files / "absent", LAYERS, 0))
    with pytest.raises(OutOfRange, match="layer 1 was not extracted"):
        next(from_vllm(files, LAYERS, 1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match="holds no file of vLLM's"):
        next(from_vllm(tmp_path / "empty", LAYERS, 0))


def test_files_of_another_job_or_changed_ones_are_refused(files, model, requests, tmp_path):
    collect_vllm(files, model, LAYERS, folder=tmp_path / "job")
    (files / "cmpl-9.safetensors").write_bytes((files / "cmpl-0.safetensors").read_bytes())
    with pytest.raises(LoadError, match="what differs: files"):
        collect_vllm(files, model, LAYERS, folder=tmp_path / "job")


def test_the_command_takes_the_same(files, tmp_path, capsys):
    def ran(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["collect", str(files), "--store", str(tmp_path / "job"), "--vllm-layers", *arguments])
        return ended.value.code, capsys.readouterr()

    code, output = ran("0,2,4", "--json")
    assert code == 0 and json.loads(output.out)["activations"] == ["resid_pre.0", "resid_post.1", "resid_post.3"]
    code, output = ran("0,2,4", "--tables", "stream_moments")
    assert code != 0 and "leave out --tables" in output.err
    # nothing that would be ignored is accepted
    code, output = ran("0,2,4", "--workers", "2", "--interleave", "3", "--max-length", "9")
    assert code != 0 and "leave out --max-length and --interleave and --workers" in output.err
