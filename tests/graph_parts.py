"""What stands in MLPs' places in tests of attribution graphs: transcoders of every kind, drawn at random."""

import torch

import shelf
from caseback.decode.dictionaries import CrossLayerTopK, Facts, Gated, JumpReLU, TopK

PROMPT = shelf.ids((7,))


def normed(model):
    return "mlp_in" if "mlp_norm" in model.anatomy.lacks else "mlp_norm"


def transcoders(model, kind="topk", site=None, width=24, **facts):
    d, ones, site = model.d_model, [], site or normed(model)
    for layer in range(model.n_layers):
        own = Facts(site=f"{site}.{layer}", target=f"mlp_out.{layer}", **facts)
        options = {"facts": own, "dtype": torch.float64, "seed": layer}
        if kind == "topk":
            one = TopK(d, width, k=4, **options)
        elif kind == "skip":
            one = TopK(d, width, k=4, skip=True, **options)
        elif kind == "gated":
            one = Gated(d, width, **options)
        else:
            one = JumpReLU(d, width, **options)
        draw = torch.Generator().manual_seed(layer)
        with torch.no_grad():
            for parameter in one.parameters():
                noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
                parameter.add_(0.1 * noise)
        ones.append(one)
    return ones


def across(model, **more):
    one = CrossLayerTopK(
        model.d_model, 12 * model.n_layers, n_layers=model.n_layers, k=6, dtype=torch.float64,
        facts=Facts(site=normed(model), target="mlp_out"), **more,
    )  # fmt: skip
    with torch.no_grad():
        one.b_dec.add_(0.1)
    return one


KINDS = {
    "neurons": lambda model: "neurons",
    "topk": transcoders,
    "skip": lambda model: transcoders(model, "skip"),
    "gated": lambda model: transcoders(model, "gated", site="mlp_in"),
    "jump_relu": lambda model: transcoders(model, "jump_relu", normalization="layer_norm"),
    "across": across,
    "across_shared": lambda model: across(model, shared=True),
}
