"""PRIMER 3.2.36: cause and isolation of subspaces that are known to be right, useless or too large."""

import planted_truth
import pytest
import torch
from planted_truth import said

from caseback.errors import CasebackError
from caseback.localize.abstraction import At, CausalModel, Interchanges, das, ravel

HERE = At("resid_post", layer=0, pos=-1)


@pytest.fixture(scope="module")
def planted():
    """One token with three signs: the answers tell a and b apart, so another answer is another attribute."""
    model, truth, cause = planted_truth.directly(2, 120, gain=2.0)
    n = 8
    own = CausalModel(
        {"token": range(planted_truth.COPIES * n)},
        {
            "a": (["token"], lambda t: t % n // 2),
            "noise": (["token"], lambda t: t // n),
            "said": (["token"], lambda t: t % n),
        },
    )
    stay = Interchanges.sample(model, own, lambda v: [v["token"]], "noise", 60, answer=int)
    return model, truth, cause, Interchanges(stay.base, {"a": stay.sources["noise"]}, stay.target, stay.base_target)


def test_3_2_36_a_perfect_and_a_useless_subspace(planted):
    """Noise of the same signs is a source from which the attribute is the same: nothing may change."""
    model, truth, cause, _ = planted
    same = _of_equal_a(model)
    right = ravel(model, cause, {"b": same}, {"a": HERE.holding(truth["a"])})
    assert right.variant.values.tolist() == ["cause", "b"] and right.attrs["disentangle"] == 1.0
    assert right.attrs["cause"] == right.attrs["isolation"] == 1.0 and right["count"].values.tolist() == [120, 60]
    useless = torch.linalg.qr(torch.cat([truth["a"], truth["b"], torch.randn(8, model.d_model).double()]).T)[0].T[3:]
    none = ravel(model, cause, same, {"a": HERE.holding(useless)})
    assert none.attrs["isolation"] == 1.0 and none.attrs["cause"] == float((~cause.changes).double().mean())
    whole = ravel(model, cause, same, {"a": HERE})
    assert whole.attrs["isolation"] < 0.7 and whole.attrs["cause"] < 0.7
    assert right.attrs["disentangle"] > max(whole.attrs["disentangle"], none.attrs["disentangle"])
    told = (none.attrs["cause"] + none.attrs["isolation"]) / 2
    assert none.attrs["disentangle"] == pytest.approx(told)


def _of_equal_a(model):
    """Sources with the base's own a but any b: the base's answer must stay."""
    n, generator = 8, torch.Generator().manual_seed(0)
    base = torch.randint(n * planted_truth.COPIES, (60,), generator=generator)
    source = base // n * n + base % n // 2 * 2 + torch.randint(2, (60,), generator=generator)
    return Interchanges.of(
        model, base[:, None], source[:, None], (base % n).tolist(), (base % n).tolist(), variable="a"
    )


def test_3_2_36_multi_task_das_is_das_on_the_sum_of_both(planted):
    model, truth, cause, _ = planted
    both = cause + _of_equal_a(model)
    found = das(model, both, HERE, k=2, lr=0.03, epochs=8, batch_size=16)
    assert ravel(model, cause, _of_equal_a(model), {"a": HERE.holding(found)}).attrs["disentangle"] >= 0.98


def test_3_2_36_only_what_the_model_knows_counts(planted):
    model, truth, cause, _ = planted
    same = _of_equal_a(model)
    wrong = Interchanges(same.base, same.sources, (same.target + 1) % 8, (same.base_target + 1) % 8)
    mixed = same + wrong
    place = {"a": HERE.holding(truth["a"])}
    assert ravel(model, cause, mixed, place).attrs["isolation"] == 0.5
    known = ravel(model, cause, mixed, place, known=True)
    assert known.attrs["isolation"] == 1.0 and known["count"].values.tolist() == [120, 60]
    with pytest.raises(CasebackError, match="answers no base of 'isolation' right"):
        ravel(model, cause, wrong, place, known=True)


def test_bad_examples_are_refused(planted):
    model, truth, cause, _ = planted
    same, place = _of_equal_a(model), {"a": HERE.holding(truth["a"])}
    with pytest.raises(CasebackError, match="has another target than its base's answer"):
        ravel(model, cause, cause, place)
    with pytest.raises(CasebackError, match="no cause example changes the answer"):
        ravel(model, same, same, place)
    with pytest.raises(CasebackError, match="none of them called 'cause'"):
        ravel(model, cause, {"cause": same}, place)
    assert said({"a": 1, "b": 2}) == "1 2 ="
