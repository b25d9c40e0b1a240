"""PRIMER 3.1.8 and 3.1.9 against captum and shap on one model, under equal masks, coalitions, orders and trees."""

import numpy as np
import pytest
import torch
from linear_models import close

import caseback as cb
import shelf
from caseback.localize.inputs.perturbation.kernel_shap import kernel_shap
from caseback.localize.inputs.perturbation.lime import lime
from caseback.localize.inputs.perturbation.partition_shap import partition_shap
from caseback.localize.inputs.perturbation.shapley import exact_shapley, shapley_sampling
from exact import exact

pytestmark = pytest.mark.peers
METRIC = cb.logit_diff(3, 5)
N = 5


@pytest.fixture(scope="module")
def captum():
    return pytest.importorskip("captum.attr", reason="captum is not installed")


@pytest.fixture
def shared():
    """A model, its prompt, and for captum a function of its embeddings, which features are the tokens of."""
    model, prompt = shelf.model("llama"), shelf.ids((N,))
    embeds = model.hf.get_input_embeddings()(torch.tensor(prompt)).detach()

    def forward(x):
        with exact(), torch.no_grad():
            logits = model.hf(inputs_embeds=x).logits[:, -1]
        return logits[:, 3] - logits[:, 5]

    where = {
        "baselines": torch.zeros_like(embeds),
        "feature_mask": torch.arange(N)[None, :, None].expand_as(embeds).contiguous(),
    }
    return model, prompt, embeds, forward, where


def ours(technique, model, prompt, **how):
    with exact():
        return technique(model, prompt, METRIC, baseline="zero", **how).values[0]


def test_3_1_9_captum_all_orders_and_equal_orders(captum, shared):
    model, prompt, embeds, forward, where = shared
    theirs = captum.ShapleyValues(forward).attribute(embeds, **where)[0, :, 0]
    assert close(ours(exact_shapley, model, prompt), theirs, atol=1e-5)  # captum adds up in float32
    orders = [torch.randperm(N).tolist() for _ in range(5)]
    sampling = captum.ShapleyValueSampling(forward)
    sampling.permutation_generator = lambda n_features, n_samples: iter(orders)
    theirs = sampling.attribute(embeds, n_samples=5, **where)[0, :, 0]
    assert close(
        ours(shapley_sampling, model, prompt, orders=np.array(orders)), theirs, atol=1e-5
    )  # captum adds up in float32


def test_3_1_8_captum_lime_under_equal_masks(captum, shared):
    """Captum's kernel is exp(-D^2 / 2 width^2): its width is ours over the square root of 2."""
    from captum._utils.models.linear_model import SkLearnRidge

    model, prompt, embeds, forward, where = shared
    masks = np.random.default_rng(0).random((40, N)) < 0.6
    left = iter(torch.from_numpy(masks))

    def similarity(original, perturbed, mask, **_):
        distance = 1 - (mask.double().mean().item()) ** 0.5
        return float(np.exp(-(distance**2) / (2 * 0.4**2)))

    method = captum.LimeBase(
        forward,
        SkLearnRidge(alpha=0.7),
        similarity_func=similarity,
        perturb_func=lambda *_, **__: next(left)[None].double(),
        perturb_interpretable_space=True,
        from_interp_rep_transform=lambda mask, x, **_: x * mask[0][:, None],
        to_interp_rep_transform=None,
    )
    theirs = method.attribute(embeds, n_samples=len(masks))[0]
    made = ours(lime, model, prompt, masks=masks, ridge=0.7, width=0.4 * 2**0.5)
    assert close(made, theirs, atol=1e-5)  # captum fits in float32


def test_3_1_9_captum_kernel_shap_under_equal_coalitions(captum, shared):
    """Captum holds the ends by a weight of a million, so it meets them to about a millionth, and adds up in float32."""
    model, prompt, embeds, forward, where = shared
    seen = []

    def recorded(x):
        seen.extend((x != 0).any(-1).numpy())
        return forward(x)

    theirs = captum.KernelShap(recorded).attribute(embeds, n_samples=60, **where)[0, :, 0]
    assert close(ours(kernel_shap, model, prompt, masks=np.array(seen)), theirs, atol=1e-5)


@pytest.mark.slow
def test_3_1_9_shap_exact_and_partition(shared):
    shap = pytest.importorskip("shap", reason="shap is not installed")
    model, prompt, embeds, forward, _ = shared

    def value(masks):
        return forward(embeds * torch.from_numpy(np.asarray(masks, dtype=float))[..., None]).numpy()

    zero = np.zeros((1, N))
    theirs = shap.explainers.Exact(value, shap.maskers.Independent(zero)).explain_row(
        np.ones(N), max_evals=1000, main_effects=False, error_bounds=False, batch_size="auto", outputs=None,
        interactions=False, silent=True,
    )  # fmt: skip
    assert close(ours(exact_shapley, model, prompt), theirs["values"], atol=1e-9)
    # as scipy's linkage: 5 is (3, 4), 6 is (2, 5), 7 is (0, 1)
    linkage = np.array([[3, 4, 1, 2], [2, 5, 2, 3], [0, 1, 3, 2], [7, 6, 4, 5]], dtype=float)
    masker = shap.maskers.Partition(zero, clustering=linkage)
    theirs = shap.explainers.Partition(value, masker)(np.ones((1, N)), max_evals=2000)
    made = ours(partition_shap, model, prompt, tree=((0, 1), (2, (3, 4))))
    assert close(made, theirs.values[0], atol=1e-9)
