"""An organism: a model whose insides are known because they were written, with its answer book.

The answer book says what the model computes (``function``), through which components (``circuit``) and where each
variable lies (``variables``): a direction or a subspace of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from caseback.errors import CasebackError, TokensError, did_you_mean
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit
from caseback.model.crystal import CrystalForCausalLM
from caseback.model.loading.load import load
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

BOS, UNKNOWN = "<bos>", "<unknown>"


@dataclass(frozen=True, eq=False)
class Variable:
    """A labeled place: which subspace of which site carries what.

    Attributes
    ----------
    name
        What it carries, in words: ``"previous token"``.
    site
        Where: ``Site("resid_post", 0)``, ``Site("z", 1)``, ``Site("mlp_post", 0)`` …
    basis
        (k, width of the site), rows of unit length. A number lies along one row; a value out of k has a row of its own.
    values
        For a variable with one row per value, which value each row stands for; empty for numbers.
    head
        Which head, where the site has heads.
    """

    name: str
    site: Site
    basis: Float[Tensor, "k width"]
    values: tuple[Hashable, ...] = ()
    head: int | None = None


@dataclass(frozen=True, eq=False)
class Organism:
    """A written model with its answer book.

    Attributes
    ----------
    name
        The name by which it is built.
    model
        The verified model, with a tokenizer of whole words separated by spaces.
    function
        What the model computes: from a list of words, without ``BOS``, to the word predicted at each of them; ``None``
        where no word is specified.
    circuit
        The nodes and edges that matter; all others can be ablated without effect.
    variables
        Where the variables lie.
    inputs
        The words that a prompt may consist of.
    max_length
        The longest prompt in words, not counting ``BOS``.
    about
        What it is, in a sentence or two.
    sources
        A function of a prompt and a position in it (words counted from 0): the positions of the words that the answer
        there is made from, empty where there is no answer. None where they are not known.
    """

    name: str
    model: Model
    function: Callable[[Sequence[str]], list[str | None]]
    circuit: Circuit
    variables: tuple[Variable, ...]
    inputs: tuple[str, ...]
    max_length: int
    about: str = field(default="", repr=False)
    sources: Callable[[Sequence[str], int], set[int]] | None = field(default=None, repr=False)

    def ids(self, prompts: Sequence[Sequence[str]]) -> Int[Tensor, "batch pos"]:
        """Token ids of prompts of equal length, each given as a list of words, with ``BOS`` put before them.

        Raises
        ------
        CasebackError
            For no prompt, prompts of different lengths, a word that the organism does not know, or a prompt longer
            than it was written for.
        """
        vocab = self.model.tokenizer.get_vocab()
        lengths = sorted({len(prompt) for prompt in prompts})
        if len(lengths) != 1:
            raise CasebackError(
                f"prompts of {' and '.join(map(str, lengths)) or 'no'} words: expected prompts of one length; "
                "sort them by length"
            )
        for prompt in prompts:
            unknown = [word for word in prompt if word not in self.inputs]
            if unknown:
                known = " ".join(self.inputs[:20])
                raise CasebackError(f"{self.name} does not know the word {unknown[0]!r}: expected some of {known}")
            if not 0 < len(prompt) <= self.max_length:
                raise CasebackError(
                    f"a prompt of {len(prompt)} words: {self.name} was written for 1 to {self.max_length}; build it "
                    "with a larger max_length"
                )
        return torch.tensor([[vocab[BOS], *(vocab[word] for word in prompt)] for prompt in prompts])

    def tokens(self, prompts: Sequence[Sequence[str]]) -> Tokens:
        """The same as ``Tokens``, without going through text."""
        ids = self.ids(prompts)
        return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), [[BOS, *prompt] for prompt in prompts])

    def predict(self, prompts: Sequence[Sequence[str]]) -> list[list[str]]:
        """The word that the model predicts at each word of each prompt; the prompts must be of equal length."""
        best = self.model.run(self.tokens(prompts)).logits[:, 1:].argmax(-1)
        words = self.model.tokenizer.convert_ids_to_tokens(list(range(self.model.d_vocab)))
        return [[words[i] for i in row] for row in best.tolist()]


class WordTokenizer(PreTrainedTokenizerFast):
    """A tokenizer of whole words that refuses a word it does not know.

    A lone unknown word, tokenized without special tokens, is a look-up: it gets no token, and ``Model.token_id`` says
    so. Saved and loaded again it is a plain tokenizer, for which an unknown word is ``UNKNOWN``: an id past the
    model's vocabulary, so that no prompt can contain it.
    """

    def __call__(self, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Encode, as every tokenizer of transformers does.

        Raises
        ------
        TokensError
            For a word that is not in the vocabulary.
        """
        known = [word for word in self.convert_ids_to_tokens(list(range(len(self)))) if word != UNKNOWN]
        for prompt in [text] if isinstance(text, str) else text or ():
            words = prompt.split() if isinstance(prompt, str) else list(prompt)
            unknown = [word for word in words if word not in known]
            if not unknown:
                continue
            if words == [text] and not kwargs.get("add_special_tokens", True):
                return super().__call__("", *args, **kwargs)
            raise TokensError(f"{unknown[0]!r} is not a word of this model. {did_you_mean(unknown[0], known)}")
        return super().__call__(text, *args, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """Save as the plain tokenizer that ``AutoTokenizer`` loads."""
        plain = PreTrainedTokenizerFast(tokenizer_object=self.backend_tokenizer, bos_token=BOS, pad_token=BOS)
        return plain.save_pretrained(*args, **kwargs)


def word_tokenizer(words: Sequence[str]) -> WordTokenizer:
    """A tokenizer whose tokens are these words, separated by spaces, and ``BOS`` before every text.

    Raises
    ------
    CasebackError
        For a word that is empty, repeated or has a space in it.

    Examples
    --------
    >>> word_tokenizer(["a", "b"])("b a")["input_ids"]
    [0, 2, 1]
    """
    listed = [BOS, *words, UNKNOWN]
    wrong = [word for word in listed if word.split() != [word] or listed.count(word) > 1]
    if wrong:
        raise CasebackError(f"{wrong[0]!r} cannot be a word: words are distinct, not empty and without spaces")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(listed)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return WordTokenizer(tokenizer_object=tokenizer, bos_token=BOS, pad_token=BOS)


def legible(hf: CrystalForCausalLM, words: Sequence[str]) -> Model:
    """The verified model of written weights, with these words as its vocabulary."""
    return load(hf.eval().requires_grad_(False), tokenizer=word_tokenizer(words))


def silent(config: Any) -> CrystalForCausalLM:
    """A model of this shape with all parameters zero, to be written into."""
    with torch.random.fork_rng(devices=[]):  # torch draws every new parameter, which is nobody else's chance
        hf = CrystalForCausalLM(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.zero_()
    return hf
