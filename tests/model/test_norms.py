"""Norms as plain numbers: read off any family's module, linear with the denominator held."""

import pytest
import torch
from torch import nn

import caseback as cb
import shelf
from caseback.errors import AnatomyError
from caseback.model.anatomy.norms import Norm, read_norm
from exact import exact


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_every_norm_is_its_module(name):
    anatomy = shelf.model(name).anatomy
    x = torch.randn(5, 32, dtype=torch.float64) * torch.tensor([1e-3, 0.1, 1.0, 10.0, 1e3])[:, None] + 0.5
    assert anatomy.norms
    with exact(), torch.no_grad():
        for module, norm in anatomy.norms.items():
            torch.testing.assert_close(norm(x), module(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_2_2_the_linear_part_of_a_norm_is_additive_and_its_denominator_is_read(name):
    model = shelf.model(name)
    names = [n for n in ("resid_post", "final_norm", "final_norm.scale") if n not in model.anatomy.lacks]
    with exact(), torch.no_grad():
        run = model.run(shelf.ids(), read=names)
        norm = model.anatomy.norms[model.anatomy.final_norm]
        stream = run["resid_post", -1]
        scale = run["final_norm.scale"][..., None]
        torch.testing.assert_close(norm.scale(stream), scale, rtol=1e-12, atol=1e-12)
        a = torch.randn_like(stream)
        together = norm.frozen(a, scale) + norm.frozen(stream - a, scale)
        together = together if norm.beta is None else together + norm.beta
        torch.testing.assert_close(together, run["final_norm"], rtol=1e-10, atol=1e-10)
        d = torch.randn_like(stream)
        left, right = (norm.frozen(a, scale) * d).sum(-1), (a * norm.pull(d, scale)).sum(-1)
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_2_2_a_layer_norm_without_gain_has_length_root_d():
    norm = Norm(torch.ones(64, dtype=torch.float64), None, 0.0, centred=True)
    x = torch.randn(7, 64, dtype=torch.float64)
    torch.testing.assert_close(norm(x).norm(dim=-1), torch.full((7,), 8.0, dtype=torch.float64))
    torch.testing.assert_close(norm(x).mean(-1), torch.zeros(7, dtype=torch.float64))


def test_the_epsilon_that_a_class_writes_into_its_code_is_measured():
    norm = shelf.model("olmo").anatomy.norms[shelf.model("olmo").anatomy.final_norm]
    assert norm.eps == 1e-5 and norm.centred and norm.beta is None


def test_half_precision_is_widened():
    module = nn.LayerNorm(32).to(torch.bfloat16)
    norm = read_norm(module, 32)
    assert norm.gamma.dtype == torch.float32
    assert norm.scale(torch.ones(3, 32, dtype=torch.bfloat16)).dtype == torch.float32


def test_what_is_no_norm_is_refused():
    class Cube(nn.LayerNorm):
        def forward(self, x):
            return super().forward(x) ** 3

    with pytest.raises(AnatomyError, match="Cube is neither LayerNorm nor RMSNorm: nearest form is off by"):
        read_norm(Cube(32), 32)
    with pytest.raises(AnatomyError, match="Linear keeps no epsilon under any of eps, variance_epsilon"):
        read_norm(nn.Linear(32, 32), 32)
    assert cb.CasebackError in AnatomyError.__mro__
