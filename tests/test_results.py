import json

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import caseback
from caseback.errors import CasebackError, ResultError
from caseback.model import registry
from caseback.model.results import DIMS, labelled


class Tiny:
    def provenance(self):
        return {"model": "tiny", "revision": "abc123", "family": "llama", "dtype": "float32"}


@pytest.fixture
def shine(monkeypatch):
    """A technique in a registry of the test's own."""
    monkeypatch.setattr(registry, "_registered", {})

    @registry.technique(entry=("3.1.3", "3.1.22"), citation="Sundararajan et al. 2017", cost="none")
    def shine():
        """Shine."""

    return shine


def through_a_file(result: xr.DataArray, folder) -> xr.DataArray:
    result.to_netcdf(folder / "result.nc")
    with xr.open_dataarray(folder / "result.nc") as back:
        return back.load()


def test_a_result_says_how_it_was_made(shine):
    result = labelled([1.0], ["pos"], technique=shine, model=Tiny(), target=" Mary", foil=" John", seed=7)
    assert result.attrs == {
        "technique": shine.technique.name,
        "entry": "3.1.3, 3.1.22",
        "citation": "Sundararajan et al. 2017",
        "model": "tiny",
        "revision": "abc123",
        "family": "llama",
        "dtype": "float32",
        "caseback_version": caseback.__version__,
        "transformers_version": __import__("transformers").__version__,
        "torch_version": torch.__version__,
        "target": " Mary",
        "foil": " John",
        "seed": 7,
    }


def test_the_same_call_gives_the_same_result(shine):
    first, second = (labelled([1.0], ["pos"], technique=shine, model=Tiny(), seed=1) for _ in range(2))
    xr.testing.assert_identical(first, second)


def test_the_record_does_for_its_function(shine):
    by_record = labelled([1.0], ["pos"], technique=shine.technique)
    xr.testing.assert_identical(by_record, labelled([1.0], ["pos"], technique=shine))


def test_values_dims_coords_and_name_arrive():
    values = torch.arange(6.0).reshape(2, 3)
    result = labelled(
        values, ["layer", "pos"], {"layer": [4, 5], "token": ("pos", ["Tom", " ran", "!"])}, name="effect"
    )
    assert result.name == "effect"
    assert result.dims == ("layer", "pos")
    assert result.sel(layer=5)[2].item() == 5.0
    assert result.token.values.tolist() == ["Tom", " ran", "!"]
    np.testing.assert_array_equal(result.values, values.numpy())


@pytest.mark.parametrize(
    ("given_as", "kept_as"),
    [
        (torch.bfloat16, np.float32),
        (torch.float16, np.float32),
        (torch.float32, np.float32),
        (torch.float64, np.float64),
        (torch.int64, np.int64),
        (torch.uint8, np.int64),
        (torch.bool, np.bool_),
    ],
)
def test_tensors_of_every_type_are_kept_and_can_be_written(given_as, kept_as, tmp_path):
    tensor = torch.tensor([0, 1, 200 if given_as is torch.uint8 else 3]).to(given_as)
    result = labelled(tensor, ["pos"], {"id": ("pos", tensor)})
    assert result.dtype == kept_as
    back = through_a_file(result, tmp_path)
    expected = tensor.to(torch.float64).numpy()
    np.testing.assert_array_equal(back.values.astype(float), expected)
    np.testing.assert_array_equal(back.id.values.astype(float), expected)


def test_a_tensor_with_gradient_is_detached():
    result = labelled(torch.ones(2, requires_grad=True) * 3, ["pos"])
    assert result.values.tolist() == [3.0, 3.0]


def test_half_precision_arrays_are_widened(tmp_path):
    back = through_a_file(labelled(np.ones(2, np.float16), ["pos"]), tmp_path)
    assert back.dtype == np.float32


def test_a_scalar_has_no_dims():
    assert labelled(torch.tensor(2.5), []).item() == 2.5


def test_all_attributes_survive_a_file(shine, tmp_path):
    result = labelled(
        torch.rand(2, 3),
        ["head", "pos"],
        {"head": ["L0H0", "L0H1"], "token": ("pos", [" é", "", "\n"])},
        name="attribution",
        technique=shine,
        model=Tiny(),
        target=" 'Mary'",
        foil=None,
        seed=2**40,
        gap=torch.tensor(1e-6, dtype=torch.float64),
        steps=np.int64(50),
        passed=True,
        limits=[0.25, 0.5],
        layers=torch.tensor([1, 2]),
        flags=(True, False),
        variants=["zero", "mean"],
        options={"baseline": "zero"},
        note="",
    )
    assert "foil" not in result.attrs
    back = through_a_file(result, tmp_path)
    xr.testing.assert_equal(back, result)
    assert back.name == "attribution"
    assert back.attrs.keys() == result.attrs.keys()
    for key in ("technique", "entry", "citation", "model", "revision", "target", "caseback_version", "note"):
        assert back.attrs[key] == result.attrs[key]
    assert int(back.attrs["seed"]) == 2**40
    assert back.attrs["gap"] == 1e-6
    assert back.attrs["steps"] == 50
    assert back.attrs["passed"] == 1
    assert back.attrs["limits"].tolist() == [0.25, 0.5]
    assert back.attrs["layers"].tolist() == [1, 2]
    assert back.attrs["flags"].tolist() == [1, 0]
    assert json.loads(back.attrs["variants"]) == ["zero", "mean"]
    assert json.loads(back.attrs["options"]) == {"baseline": "zero"}


# netCDF-3 text ends at a NUL and is UTF-8, so neither NULs nor lone surrogates are text that it can hold.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
ATTRIBUTE = st.one_of(
    TEXT,
    st.integers(),
    st.floats(),
    st.booleans(),
    st.lists(st.integers()),
    st.lists(st.floats()),
    st.lists(st.booleans()),
    st.lists(TEXT),
    st.dictionaries(TEXT, st.integers()),
)


@given(value=ATTRIBUTE)
def test_whatever_is_accepted_can_be_written(value, tmp_path_factory):
    result = labelled([1.0], ["pos"], checked=value)
    back = through_a_file(result, tmp_path_factory.mktemp("netcdf")).attrs["checked"]
    kept = result.attrs["checked"]
    if isinstance(kept, str):
        assert back == kept
        # a list of one is read back as a scalar: that is netCDF's own way
    else:
        np.testing.assert_array_equal(np.atleast_1d(back), np.atleast_1d(np.asarray(kept, float)))


def test_an_attribute_that_no_file_can_hold_is_refused():
    with pytest.raises(ResultError, match=r"metric=<function .* is a function, which no file can hold"):
        labelled([1.0], ["pos"], metric=labelled)


@pytest.mark.parametrize("key", ["citation", "revision", "torch_version"])
def test_an_attribute_cannot_hide_the_provenance(key, shine):
    with pytest.raises(ResultError, match=f"{key}='mine' would overwrite"):
        labelled([1.0], ["pos"], technique=shine, model=Tiny(), **{key: "mine"})


def test_every_dimension_of_the_table_is_allowed():
    for dim in DIMS:
        assert labelled([1.0], [dim]).dims == (dim,)


def test_a_dimension_outside_the_table_is_refused_with_the_near_ones():
    with pytest.raises(ResultError, match="'layers' is not a dimension of a result. Did you mean layer"):
        labelled([1.0], ["layers"])
    assert issubclass(ResultError, CasebackError)


def test_a_dimension_is_named_once():
    with pytest.raises(ResultError, match="named twice"):
        labelled([[1.0]], ["layer", "layer"])


def test_a_function_that_is_no_technique_is_refused():
    with pytest.raises(ResultError, match="'labelled' is not a registered technique"):
        labelled([1.0], ["pos"], technique=labelled)
