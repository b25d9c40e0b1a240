"""A draft: a model written by hand, head by head and neuron by neuron, whose sizes follow from what is written.

The stream is cut into named parts, and a head is given by its formula,

    score_ij = sum_terms strength (x_i Q) . (x_j K),     write_i = sum_moves sum_j a_ij x_j V O,

with Q, K, V (d_model, width) reading parts and O (width, d_model) writing them; a query may also be ``ALWAYS``, the
same whatever the stream holds. Terms lie side by side in the head's query and key, moves in its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.model.circuit import Node
from caseback.model.crystal import CrystalConfig, CrystalForCausalLM
from caseback.model.running.model import Model
from caseback.organisms.compiled.organism import BOS, legible, silent

ALWAYS = None
SHARP = 40.0
"""A difference of scores that leaves what is not attended to a weight of 4e-18, too little to change a float near 1."""
Reads = Float[Tensor, "d_model width"]
Writes = Float[Tensor, "width d_model"]
Term = tuple[Reads | None, Reads, float]
Move = tuple[Reads, Writes]


class Draft:
    """A model in the making.

    Parameters
    ----------
    words
        The vocabulary without ``BOS``, which is token 0.
    max_length
        The longest prompt in words.
    parts
        The widths of the stream's named parts, in order.

    Examples
    --------
    Every word is copied from the first position:

    >>> draft = Draft("ab", 4, {"word": 2, "first": 1, "answer": 2})
    >>> draft.embed("word", "ab")
    >>> draft.place("first", [1])
    >>> str(draft.head(0, [(ALWAYS, draft["first"], 40.0)], [(draft["word"], draft.into("answer"))]))
    'L0H0'
    >>> draft.unembed("answer", "ab")
    >>> model = draft.model()
    >>> model.run(model.tokens("b a a")).logits[0, 1:].argmax(-1).tolist()
    [2, 2, 2]
    """

    def __init__(self, words: Sequence[str], max_length: int, parts: Mapping[str, int]):
        self.words, self.max_length = list(words), max_length
        starts = torch.tensor([0, *parts.values()]).cumsum(0).tolist()
        self.d_model = starts[-1]
        self._at = {name: slice(start, start + parts[name]) for name, start in zip(parts, starts, strict=False)}
        self._embed = torch.zeros(1 + len(self.words), self.d_model)
        self._place = torch.zeros(1 + max_length, self.d_model)
        self._unembed = torch.zeros(self.d_model, 1 + len(self.words))
        self._heads: list[list[tuple[Sequence[Term], Sequence[Move]]]] = []
        self._neurons: list[list[tuple[Tensor, Tensor, Tensor]]] = []
        self._constants: list[Tensor] = []

    def __getitem__(self, part: str) -> Reads:
        """The matrix that reads a part's coordinates, (d_model, width)."""
        return torch.eye(self.d_model)[:, self._at[part]]

    def into(self, part: str, by: float = 1.0) -> Writes:
        """The matrix that writes a part, scaled by ``by``: (width, d_model)."""
        return by * self[part].T

    def basis(self, part: str) -> Float[Tensor, "width d_model"]:
        """A part's coordinates as rows, for a ``Variable``."""
        return self.into(part)

    def id(self, word: str) -> int:
        """A word's token."""
        return 0 if word == BOS else 1 + self.words.index(word)

    def embed(self, part: str, words: Sequence[str], values: Float[Tensor, "word width"] | None = None) -> None:
        """Set what these words write into a part: one direction per word, in order, or the rows of ``values``."""
        self._embed[[self.id(word) for word in words], self._at[part]] += _each(words) if values is None else values

    def place(self, part: str, positions: Sequence[int], values: Float[Tensor, "position width"] | None = None) -> None:
        """Set what these positions write into a part; ``BOS`` stands at position 0."""
        self._place[list(positions), self._at[part]] += _each(positions) if values is None else values

    def unembed(self, part: str, words: Sequence[str], values: Float[Tensor, "word width"] | float = 1.0) -> None:
        """Set what a part adds to these words' logits: one direction per word, in order, or the rows of ``values``."""
        rows = values if isinstance(values, Tensor) else values * _each(words)
        self._unembed[self._at[part], [self.id(word) for word in words]] += rows.T

    def head(self, layer: int, terms: Sequence[Term], moves: Sequence[Move]) -> Node:
        """Write one more head into a layer and return its node."""
        self._grow(layer)
        self._heads[layer].append((terms, moves))
        return Node("head", layer, len(self._heads[layer]) - 1)

    def neurons(
        self,
        layer: int,
        reads: Float[Tensor, "d_model neuron"],
        bias: Float[Tensor, " neuron"],
        writes: Float[Tensor, "neuron d_model"],
    ) -> list[Node]:
        """Write more neurons into a layer's MLP and return their nodes."""
        self._grow(layer)
        first = sum(len(b) for _, b, _ in self._neurons[layer])
        self._neurons[layer].append((reads, bias, writes))
        return [Node("neuron", layer, first + u) for u in range(len(bias))]

    def constant(self, layer: int, write: Float[Tensor, " d_model"]) -> None:
        """Let a layer's MLP add this at every position."""
        self._grow(layer)
        self._constants[layer] += write

    def _grow(self, layer: int) -> None:
        while len(self._heads) <= layer:
            self._heads.append([])
            self._neurons.append([])
            self._constants.append(torch.zeros(self.d_model))

    def model(self, *, layers: int = 1, act: str = "relu", norm: str = "none") -> Model:
        """Build the model, verified.

        Parameters
        ----------
        layers
            How many layers at least; those in which nothing is written do nothing.
        act, norm
            As in ``CrystalConfig``.
        """
        self._grow(layers - 1)
        all_heads = [head for heads in self._heads for head in heads]
        scores = [sum(key.shape[1] for _, key, _ in terms) for terms, _ in all_heads]
        values = [sum(read.shape[1] for read, _ in moves) for _, moves in all_heads]
        config = CrystalConfig(
            vocab_size=1 + len(self.words),
            max_position_embeddings=1 + self.max_length,
            hidden_size=self.d_model,
            num_hidden_layers=len(self._heads),
            num_attention_heads=max(1, *map(len, self._heads)),
            head_dim=max([1, *scores, *values]),
            intermediate_size=max(1, *(sum(len(b) for _, b, _ in layer) for layer in self._neurons)),
            hidden_act=act,
            norm=norm,
            attention_scale=1.0,
            bos_token_id=0,
            pad_token_id=0,
        )
        hf = silent(config)
        with torch.no_grad():
            hf.model.embed_tokens.weight.copy_(self._embed)
            hf.model.embed_positions.weight.copy_(self._place)
            hf.lm_head.weight.copy_(self._unembed.T)
            _set_norms(hf)
            for layer, heads in enumerate(self._heads):
                for h, (terms, moves) in enumerate(heads):
                    _write_head(hf, layer, h, terms, moves)
                self._write_neurons(hf, layer)
        return legible(hf, self.words)

    def _write_neurons(self, hf: CrystalForCausalLM, layer: int) -> None:
        mlp: Any = hf.model.layers[layer].mlp
        mlp.down_proj.bias.copy_(self._constants[layer])
        for start, (reads, bias, writes) in zip(_starts(self._neurons[layer]), self._neurons[layer], strict=True):
            rows = slice(start, start + len(bias))
            mlp.up_proj.weight[rows] = reads.T
            mlp.up_proj.bias[rows] = bias
            mlp.down_proj.weight[:, rows] = writes.T


def _each(of: Sequence) -> Tensor:
    return torch.eye(len(of))


def _starts(blocks: Sequence[tuple[Tensor, Tensor, Tensor]]) -> list[int]:
    return torch.tensor([0, *(len(bias) for _, bias, _ in blocks)]).cumsum(0).tolist()[:-1]


def _set_norms(hf: CrystalForCausalLM) -> None:
    """A norm's gain is 1 where there is a norm; ``silent`` made it 0."""
    for name, parameter in hf.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.fill_(1.0)


def _write_head(hf: CrystalForCausalLM, layer: int, head: int, terms: Sequence[Term], moves: Sequence[Move]) -> None:
    attn: Any = hf.model.layers[layer].self_attn
    start = head * attn.head_dim
    for query, key, strength in terms:
        rows = slice(start, start + key.shape[1])
        if query is None:
            attn.q_proj.bias[rows] = strength
        else:
            attn.q_proj.weight[rows] = strength * query.T
        attn.k_proj.weight[rows] = key.T
        start = rows.stop
    start = head * attn.head_dim
    for read, write in moves:
        rows = slice(start, start + read.shape[1])
        attn.v_proj.weight[rows] = read.T
        attn.o_proj.weight[:, rows] = write.T
        start = rows.stop
