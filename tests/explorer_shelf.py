"""A dictionary and a direction for an explorer of ``meadow``, of which it is known what they write."""

import torch

from caseback.decode.dictionaries import Facts, JumpReLU
from caseback.decode.steering import contrastive_addition
from caseback.server.shelf import Shelf

NAMES = [" Mary", " John", " store", " park"]


def shelf_of(model):
    """Features 0 to 3 write ``NAMES``; ``she`` is the way from John to Mary at layer 2."""
    torch.manual_seed(0)
    one = JumpReLU(model.d_model, 320, facts=Facts(site="resid_post.2"))
    write = torch.linalg.pinv(model.weights.folded().W_U.float())[[model.token_id(name) for name in NAMES]]
    write = write / write.norm(dim=1, keepdim=True)
    with torch.no_grad():
        one.W_dec[: len(NAMES)] = write
        one.W_enc[: len(NAMES)] = write
    she = contrastive_addition(model, "She is Mary", "He is John", sites=["resid_post.1", "resid_post.2"])
    return Shelf({"words": one}, {"she": she})
