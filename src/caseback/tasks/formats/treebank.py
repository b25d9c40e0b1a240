"""CoNLL-U: sentences with words, heads, relations and parts of speech, ten columns per word. (Universal Dependencies)

    1   Bush   Bush   PROPN   NNP   Number=Sing   2   nsubj   2:nsubj   _
    ID  FORM   LEMMA  UPOS    XPOS  FEATS         HEAD DEPREL DEPS      MISC

Blank lines separate sentences, ``#`` opens a comment. A range (``29-30 didn't``) says how words are written together;
an empty node (``8.1``) belongs to the enhanced graph alone and is left out. Every word gets its place in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from caseback.model.arguments import checked
from caseback.tasks.formats.reading import NOTHING, Examples, Malformed, Numbered, examples, lines

COLUMNS = 10
UNIVERSAL_POS = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ"),
    *("SYM", "VERB", "X"),
)
"""The parts of speech of Universal Dependencies, in the order of their numbers as labels."""
NUMBER = re.compile(r"(?P<first>\d+)(?:-(?P<last>\d+)|(?P<empty>\.\d+))?")
Block = list[tuple[int, str]]


@dataclass(frozen=True)
class Sentence:
    """A sentence and its basic dependency tree. All attributes but ``text`` and ``name`` have one item per word.

    Attributes
    ----------
    text
        As written.
    words
        Forms, as the treebank divides them.
    spans
        (first character, one past the last) of each word in the text. Words written together share characters where
        their forms do not spell what is written (French *du* for *de le*).
    heads
        The index of each word's head, counted from 0; -1 for the root.
    relations
        Dependency relations, as in ``nsubj`` or ``obl:tmod``.
    pos, xpos
        Universal and language-specific parts of speech.
    lemmas
        Base forms.
    features
        Morphological features, as in ``{"Number": "Sing"}``.
    name
        The treebank's ``sent_id``.
    """

    text: str
    words: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    pos: tuple[str, ...]
    xpos: tuple[str, ...]
    lemmas: tuple[str, ...]
    features: tuple[Mapping[str, str], ...]
    name: str = ""

    def __len__(self) -> int:
        return len(self.words)


@checked
def conllu(path: str | Path, *, skip_malformed: bool = False, limit: int | None = None) -> Examples[Sentence]:
    r"""Read a treebank in CoNLL-U.

    Parameters
    ----------
    path
        A ``.conllu`` file. It is read sentence by sentence; ``limit`` stops early.
    skip_malformed
        Count malformed sentences in ``dropped`` instead of raising.
    limit
        Stop after so many sentences.

    Returns
    -------
    Examples[Sentence]
        ``word_tokens`` tells which tokens cover each word.

    Raises
    ------
    LoadError
        For a malformed sentence, with its line: not ten columns, ids out of order, a head that is not a word, no single
        root, a cycle, words that do not spell the text.

    References
    ----------
    Universal Dependencies, CoNLL-U format, version 2.

    Examples
    --------
    >>> import tempfile
    >>> words = "1 Dogs dog NOUN _ _ 2 nsubj _ _", "2 ran run VERB _ _ 0 root _ _"
    >>> file = Path(tempfile.mkdtemp()) / "small.conllu"
    >>> _ = file.write_text("# text = Dogs ran\n" + "\n".join(words).replace(" ", "\t") + "\n\n")
    >>> sentence = conllu(file)[0]
    >>> sentence.words, sentence.heads, sentence.spans
    (('Dogs', 'ran'), (1, -1), ((0, 4), (5, 8)))
    """
    return examples(path, _blocks(lines(path)), _sentence, skip_malformed=skip_malformed, limit=limit)


def _blocks(numbered: Numbered[str]) -> Iterator[tuple[int, Block]]:
    """The lines between blank ones, one block per sentence, with the number of its first line."""
    block: Block = []
    for number, text in numbered:
        text = text.rstrip("\r\n")
        if text.strip():
            block.append((number, text))
        elif block:
            yield block[0][0], block
            block = []
    if block:
        yield block[0][0], block


def _sentence(block: Block) -> Sentence:
    comments, rows, written = {}, [], []
    for number, line in block:
        if line.startswith("#"):
            key, equals, value = line[1:].partition("=")
            if equals:
                comments[key.strip()] = value.strip()
            continue
        row = line.split("\t")
        if len(row) != COLUMNS:
            raise Malformed(f"{COLUMNS} columns between tabs", row if len(row) < 2 else len(row), number)
        kind = NUMBER.fullmatch(row[0])
        if not kind:
            raise Malformed("a word's number, a range or an empty node's number", row[0], number)
        if kind["empty"]:
            continue
        first = int(kind["first"])
        if kind["last"]:
            written.append((first, int(kind["last"]), row, number))
        elif first != len(rows) + 1:
            raise Malformed(f"word {len(rows) + 1}", row[0], number)
        else:
            rows.append((number, row))
    if not rows:
        raise Malformed("words", NOTHING)
    units = _units(rows, written)
    column: Callable[[int], tuple[str, ...]] = lambda number: tuple(row[number] for _, row in rows)  # noqa: E731
    text = comments.get("text", "".join(form + space for form, space, _, _ in units).rstrip())
    return Sentence(
        text,
        column(1),
        tuple(_spans(text, units, column(1))),
        _heads(rows),
        relations=column(7),
        pos=column(3),
        xpos=column(4),
        lemmas=column(2),
        features=tuple(_features(row[5], number) for number, row in rows),
        name=comments.get("sent_id", ""),
    )


Unit = tuple[str, str, range, int]


def _units(rows: Sequence[tuple[int, list[str]]], written: Iterable[tuple[int, int, list[str], int]]) -> list[Unit]:
    """Pieces written without a break: each one's form, the space after it, its words, its line."""
    space = lambda row: "" if "SpaceAfter=No" in row[9].split("|") else " "  # noqa: E731
    units, at = [], 0
    for first, last, row, number in written:
        if not at < first < last <= len(rows):
            raise Malformed(f"a range of words between {at + 1} and {len(rows)}", row[0], number)
        units += [(word[1], space(word), range(i, i + 1), n) for i, (n, word) in enumerate(rows[at : first - 1], at)]
        units.append((row[1], space(row), range(first - 1, last), number))
        at = last
    return units + [(word[1], space(word), range(i, i + 1), n) for i, (n, word) in enumerate(rows[at:], at)]


def _spans(text: str, units: Iterable[Unit], words: Sequence[str]) -> list[tuple[int, int]]:
    """The characters of each word, matched one after the other with nothing but space between."""
    spans, at = [], 0
    for form, _, covered, number in units:
        while text[at : at + 1].isspace():
            at += 1
        if not text.startswith(form, at):
            raise Malformed(f"the form {form!r} next in the text", text[at : at + len(form) + 10], number)
        spells = len(covered) > 1 and "".join(words[i] for i in covered) == form
        inside = at
        for i in covered:
            spans.append((inside, inside + len(words[i])) if spells else (at, at + len(form)))
            inside += len(words[i])
        at += len(form)
    return spans


def _heads(rows: Sequence[tuple[int, list[str]]]) -> tuple[int, ...]:
    """Heads counted from 0, -1 for the root; checked to form one tree."""
    heads = []
    for number, row in rows:
        if not row[6].isdigit() or int(row[6]) > len(rows):
            raise Malformed(f"a head from 0 to {len(rows)}", row[6], number)
        heads.append(int(row[6]) - 1)
    roots = heads.count(-1)
    if roots != 1:
        raise Malformed("one word with head 0", roots, rows[0][0])
    reach = {heads.index(-1)}
    for i, (number, row) in enumerate(rows):
        path = []
        while i not in reach:
            if i in path:
                raise Malformed("heads that lead to the root", f"a circle at word {row[0]}", number)
            path.append(i)
            i = heads[i]
        reach.update(path)
    return tuple(heads)


def _features(text: str, number: int) -> dict[str, str]:
    if text == "_":
        return {}
    parts = [part.partition("=") for part in text.split("|")]
    if not all(equals for _, equals, _ in parts):
        raise Malformed("features as Name=Value|Name=Value, or _", text, number)
    return {name: value for name, _, value in parts}
