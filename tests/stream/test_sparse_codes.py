"""Sparse codes by feature: what is read is what the dense matrix holds, whatever the pieces, layouts and files."""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caseback.errors import LoadError, OutOfRange, TokensError, WriteError
from caseback.stream import open_codes, write_codes

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CS:UserWarning")  # torch says that they are new
LAYOUTS = {
    "dense": lambda x: x,
    "coo": lambda x: x.to_sparse_coo(),
    "csr": lambda x: x.to_sparse_csr(),
    "csc": lambda x: x.to_sparse_csc(),
}


def matrix(tokens=60, features=17, seed=0, dtype=torch.float32):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, features, generator=draw)
    x[torch.rand(tokens, features, generator=draw) < 0.8] = 0
    x[:, 3] = 0  # never active
    return x.to(dtype)


def expect_same(codes, x):
    assert (codes.n_tokens, codes.n_features) == x.shape
    assert torch.equal(codes.counts, (x != 0).sum(0))
    for number in range(x.shape[1]):
        place, value = codes.feature(number)
        assert place.tolist() == x[:, number].nonzero()[:, 0].tolist()
        assert torch.equal(value, x[place, number])
    dense = torch.zeros_like(x.T)
    for first, (starts, place, value) in zip(codes.starts, map(codes.shard, range(len(codes.starts))), strict=True):
        dense[first + torch.arange(len(starts) - 1).repeat_interleave(starts.diff()), place] = value
    assert torch.equal(dense, x.T)


@given(
    layout=st.sampled_from(list(LAYOUTS)),
    pieces=st.integers(1, 30),
    file_bytes=st.integers(1, 3000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_pieces_layouts_and_files_hold_the_same(layout, pieces, file_bytes, dtype, tmp_path_factory):
    x, folder = matrix(dtype=dtype), tmp_path_factory.mktemp("codes")
    written = write_codes(folder, map(LAYOUTS[layout], x.split(pieces)), file_bytes=file_bytes)
    expect_same(written, x)
    expect_same(open_codes(folder), x)
    assert sorted(os.listdir(folder)) == ["codes", "codes.json", "counts.safetensors"]


def test_files_are_as_large_as_is_said_and_the_same_for_any_pieces(tmp_path):
    x = matrix(tokens=500, features=40)
    codes = write_codes(tmp_path / "a", x.split(7), file_bytes=2000)
    sizes = [12 * int(codes.counts[a:b].sum()) for a, b in zip(codes.starts, [*codes.starts[1:], 40], strict=True)]
    assert len(sizes) > 3 and max(sizes) <= 2000
    write_codes(tmp_path / "b", x.split(100), file_bytes=2000)
    for shard in range(len(codes.starts)):
        name = f"codes/{shard:05d}.safetensors"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_codes_that_are_there_are_taken_and_others_refused(tmp_path):
    x = matrix()
    write_codes(tmp_path, [x], result_of="one")
    expect_same(write_codes(tmp_path, iter(()), result_of="one"), x)
    with pytest.raises(LoadError, match="something else"):
        write_codes(tmp_path, [x], result_of="two")


def test_an_interruption_leaves_nothing_that_is_taken_for_codes(tmp_path):
    x = matrix()

    def stops():
        yield x[:20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_codes(tmp_path, stops(), file_bytes=100)
    with pytest.raises(LoadError, match="no sparse codes"):
        open_codes(tmp_path)
    expect_same(write_codes(tmp_path, x.split(20), file_bytes=100), x)


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        ([], "no codes"),
        ([torch.zeros(0, 4)], "no codes"),
        ([torch.zeros(3)], "expected a matrix"),
        (["text"], "expected a matrix"),
        ([torch.zeros(2, 4), torch.zeros(2, 5)], "behind codes of 4"),
    ],
)
def test_what_is_no_codes_is_refused(pieces, says, tmp_path):
    with pytest.raises(TokensError, match=says):
        write_codes(tmp_path / "codes", pieces)


def test_codes_without_an_active_feature_are_codes(tmp_path):
    expect_same(write_codes(tmp_path, [torch.zeros(5, 3)]), torch.zeros(5, 3))


def test_damage_and_other_folders_are_noticed(tmp_path):
    x = matrix()
    write_codes(tmp_path / "codes", [x])
    path = tmp_path / "codes" / "codes" / "00000.safetensors"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for damaged in (bytes(flipped), whole[:-9], b""):
        path.write_bytes(damaged)
        with pytest.raises(LoadError):
            open_codes(tmp_path / "codes").feature(0)
    path.write_bytes(whole)
    with pytest.raises(OutOfRange, match="there are 17"):
        open_codes(tmp_path / "codes").feature(17)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(WriteError, match=r"thesis\.tex"):
        write_codes(tmp_path / "other", [x])
    facts = tmp_path / "codes" / "codes.json"
    facts.write_text(facts.read_text().replace('"tokens": 60', '"tokens": 61'))
    with pytest.raises(LoadError):
        open_codes(tmp_path / "codes")
