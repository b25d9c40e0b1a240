"""TPP and SCR on planted features: a dictionary with one feature a label scores 1, one that mixes labels does not."""

import numpy as np
import pytest
import torch

from caseback.decode.dictionaries import Standard
from caseback.decode.dictionaries.measures import spurious_correlation_removal, targeted_probe_perturbation
from caseback.errors import CasebackError, OutOfRange

D = 12


def exact(rows: torch.Tensor) -> Standard:
    """Features that read and write orthonormal rows."""
    one = Standard(D, len(rows), dtype=torch.float64)
    one.W_enc.data, one.W_dec.data = rows.clone(), rows.clone()
    return one


def noisy(x: torch.Tensor, size: float = 0.05) -> torch.Tensor:
    return x + size * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_one_feature_a_class_is_all_that_its_probe_needs():
    eye = torch.eye(D, dtype=torch.float64)
    y = torch.arange(600) % 4
    x = noisy(eye[y])
    mixed = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    both = {"exact": exact(eye), "mixed": exact(torch.cat([mixed, -mixed]))}
    table = targeted_probe_perturbation(both, x, y.tolist(), n_features=[1, 3])
    assert (table.accuracy > 0.99).all()
    # without its feature a class looks like none: half of the balanced accuracy is left, and no other loses
    np.testing.assert_allclose(table.intended.sel(dictionary="exact", k=1), 0.5, atol=0.02)
    np.testing.assert_allclose(table.unintended.sel(dictionary="exact", k=1), 0, atol=0.02)
    assert float(table.tpp.sel(dictionary="mixed", k=1)) < 0.4 < float(table.tpp.sel(dictionary="exact", k=1))
    np.testing.assert_allclose(table.tpp, table.intended - table.unintended)


def test_a_score_lies_between_the_biased_and_the_unbiased_probe():
    eye = torch.eye(D, dtype=torch.float64)
    y, s = torch.arange(1600) % 2, torch.arange(1600) // 2 % 2
    x = noisy(y[:, None] * eye[0] + 4 * s[:, None] * eye[1], 0.15)
    both = {"exact": exact(eye), "nothing": exact(eye[5:])}
    table = spurious_correlation_removal(both, x, y.tolist(), s.tolist(), n_features=[1])
    assert table.attrs["biased"] < 0.8 and table.attrs["oracle"] > 0.98
    np.testing.assert_allclose(
        table.scr, (table.accuracy - table.attrs["biased"]) / (table.attrs["oracle"] - table.attrs["biased"])
    )
    np.testing.assert_allclose(table.scr.sel(dictionary="nothing"), 0, atol=0.05)  # it does not have the feature


def test_the_spurious_part_taken_out_of_a_centered_label():
    """Labels of either sign: the threshold stays at 0, and all of the accuracy comes back."""
    eye = torch.eye(D, dtype=torch.float64)
    y, s = torch.arange(1600) % 2, torch.arange(1600) // 2 % 2
    x = noisy((2.0 * y - 1)[:, None] * eye[0] + 3 * (2.0 * s - 1)[:, None] * eye[1], 0.2)
    one = exact(torch.cat([eye, -eye]))  # a feature for either sign
    table = spurious_correlation_removal({"exact": one}, x, y.tolist(), s.tolist(), n_features=[2])
    assert table.attrs["biased"] < 0.8
    np.testing.assert_allclose(table.scr, 1, atol=0.03)


def test_what_cannot_be_perturbed_is_refused():
    x = torch.randn(40, D, dtype=torch.float64)
    y = (torch.arange(40) % 2).tolist()
    one = exact(torch.eye(D, dtype=torch.float64))
    with pytest.raises(OutOfRange, match="from 1 to 12"):
        targeted_probe_perturbation(one, x, y, n_features=[13])
    with pytest.raises(CasebackError, match="a combination"):
        spurious_correlation_removal(one, x, y, y, n_features=[1])
    with pytest.raises(CasebackError, match="more than two"):
        spurious_correlation_removal(one, x, y, (torch.arange(40) % 3).tolist(), n_features=[1])
    with pytest.raises(CasebackError, match="expected a class"):
        targeted_probe_perturbation(one, x, [[1]] * 40, n_features=[1])
