"""Rows of given numbers, for tests of what is done with rows; and a model that is logistic regression."""

import one_at_a_time as alone
import torch

import caseback as cb
from caseback.localize.inputs.training.examples import CorpusCounts
from caseback.localize.inputs.training.rows import Chunk
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM


class Plain:
    """A matrix as rows, handed out two at a time in a mixed order."""

    def __init__(self, rows, segments=None):
        self.rows, self.corpus_counts = rows, CorpusCounts()
        self.segments = segments or [slice(0, rows.shape[1])]
        self.examples = alone.examples([[1, 2]] * len(rows))

    def __iter__(self):
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(1)).tolist()
        for first in range(0, len(order), 2):
            at = order[first : first + 2]
            yield Chunk(at, ((s, self.rows[at][:, s]) for s in self.segments), {"value": self.rows[at].sum(1)})


def logistic(d_vocab=5, d_model=3, seed=0):
    """logits = (W_E[t] + W_pos[i]) W_U: blocks write nothing, so the unembedding is a multinomial regression."""
    torch.manual_seed(seed)
    config = CrystalConfig(
        vocab_size=d_vocab, hidden_size=d_model, num_hidden_layers=1, num_attention_heads=1, intermediate_size=2
    )
    hf = CrystalForCausalLM(config).double().eval()
    with torch.no_grad():
        for p in hf.parameters():
            p.normal_()
        for layer in hf.model.layers:
            for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
                module.weight.zero_()
                module.bias.zero_()
    return cb.load(hf)


def features(hf, prompt):
    """What the unembedding reads where something is predicted."""
    ids = torch.tensor(prompt)
    return (hf.model.embed_tokens.weight[ids] + hf.model.embed_positions.weight[: len(ids)])[:-1].detach()
