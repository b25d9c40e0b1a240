"""Every technique on a device without float64, as Apple's ``mps``, in name only: what it gives is what a CPU gives.

The double (``logical_devices``) computes as the processor does and refuses float64, so numbers can differ only where
float32 took its place: ``IN_FLOAT32`` and ``OF_SHARES`` have those techniques. All others are equal to the bit.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import caseback as cb
from bad_inputs import commands, python_doors
from bad_inputs.examples import arguments_of_example
from bad_inputs.results import Results
from bad_inputs.valid import Valid
from caseback.model.registry import techniques
from logical_devices import FIRST, LogicalDevices

pytestmark = pytest.mark.slow
PUBLISHED = python_doors.published()
NAMES = sorted({f"{t.function.__module__}.{t.function.__qualname__}" for t in techniques()})
IN_FLOAT32 = {
    **{
        "causal_trace": 1e-5,
        "atp_star": 1e-4,
        "replacement_measures": 1e-4,
        "compare_dictionaries": 1e-4,
        "source_measures": 1e-4,
    },
    **{"attribute_scores": 1e-6, "in_context_sharpness": 1e-6, "lookback_ratio": 1e-6, "confidence_scores": 1e-6},
    **{"truth_detection": 1e-4, "translation_scores": 1e-4, "fit_mend": 1e-3, "causal_gym": 1e-5},
}
"""How far numbers may be off, as a share of the largest."""
OF_SHARES = {"atlas": 1e-8}
"""How far they may be off where they are differences of shares of attention, of which any may be near 0."""
OF_THE_DOUBLE = {
    "train_end_to_end": "torch has no autocast for a device that is one in name only",
}


def on(model: cb.Model, device: torch.device) -> cb.Model:
    return cb.load(model.hf.to(device), tokenizer=model.tokenizer)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Valid calls of a model on the processor and of one on the device, and the device's mode."""

    def made(name: str, move: Callable[[cb.Model], cb.Model]) -> Valid:
        folder: Path = tmp_path_factory.mktemp(name)
        valid = Valid(move(cb.load(commands.tiny_folder(folder / "tiny"))), folder / "room")
        valid.results = Results(PUBLISHED, partial(python_doors.result_of, PUBLISHED, valid), valid.room)
        return valid

    plain, mode = made("processor", lambda model: model), LogicalDevices(float64=False)
    with mode:
        double = made("device", lambda model: on(model, FIRST))
    return plain, double, mode


def from_arguments(name: str, valid: Valid) -> Any:
    """What a technique gives to our arguments."""
    function = PUBLISHED[name]
    with python_doors._quiet(valid.room):
        return python_doors.call(name, function, valid.arguments(name, function), valid)


def from_example(name: str, device: torch.device | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a technique gives in its docstring's example, whose models are brought to the device."""
    function, real, came = PUBLISHED[name], cb.load, []

    def loaded(*args: Any, **options: Any) -> cb.Model:
        model = real(*args, **options)
        return model if device is None else real(model.hf.to(device), tokenizer=model.tokenizer)

    @functools.wraps(function)
    def watched(*args: Any, **options: Any) -> Any:
        try:
            came.append(function(*args, **options))
        except Exception as error:
            came.append(error)
            raise
        return came[-1]

    with monkeypatch.context() as patched:
        patched.setattr(cb, "load", loaded)
        arguments_of_example.__wrapped__(watched)
    if not came:
        raise LookupError("the example does not call it")
    if isinstance(came[0], Exception):
        raise came[0]
    return came[0]


def numbers(x: Any, depth: int = 0) -> Iterator[np.ndarray]:
    """All numbers of a result, in one order."""
    if isinstance(x, xr.Dataset):
        for name in sorted(map(str, x.data_vars)):
            yield from numbers(x[name], depth)
    elif isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        yield (x if x.layout is torch.strided else x.to_dense()).numpy().astype(float)
    elif isinstance(x, xr.DataArray | np.ndarray):
        values = np.asarray(x)
        if values.dtype.kind in "fiub":
            yield values.astype(float)
    elif isinstance(x, int | float | np.number):
        yield np.asarray(float(x))
    elif isinstance(x, torch.nn.Module):
        for _, parameter in x.named_parameters():
            yield from numbers(parameter, depth + 1)
    elif depth < 6 and isinstance(x, dict | list | tuple):
        for one in x.values() if isinstance(x, dict) else x:
            yield from numbers(one, depth + 1)
    elif depth < 6 and dataclasses.is_dataclass(x):
        for field in dataclasses.fields(x):
            yield from numbers(getattr(x, field.name, None), depth + 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_technique_gives_what_it_gives_on_a_processor(name, both, monkeypatch):
    plain, double, mode = both
    short = name.rpartition(".")[2]
    if short in OF_THE_DOUBLE:
        pytest.skip(OF_THE_DOUBLE[short])
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    try:
        expected, ours = from_arguments(name, plain), True
    except Exception:  # the docstring has a call that works
        torch.manual_seed(0)
        expected, ours = from_example(name, None, monkeypatch), False
    torch.manual_seed(0)
    with mode:
        came = from_arguments(name, double) if ours else from_example(name, FIRST, monkeypatch)
        came = list(numbers(came))
    expected = list(numbers(expected))
    assert len(came) == len(expected)
    for one, other in zip(came, expected, strict=True):
        if short in OF_SHARES:
            np.testing.assert_allclose(one, other, rtol=0, atol=OF_SHARES[short])
        elif short in IN_FLOAT32:
            size = np.abs(other[np.isfinite(other)]).max(initial=1e-12)
            np.testing.assert_allclose(one, other, rtol=0, atol=IN_FLOAT32[short] * size)
        else:
            np.testing.assert_array_equal(one, other)
