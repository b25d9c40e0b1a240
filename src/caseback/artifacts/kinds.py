"""The kinds of fitted things, each with the version of its layout and the function that reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of fitted thing.

    Attributes
    ----------
    name
        As files and refusals call it.
    version
        Of its layout: what tensors and facts there are.
    reader, writer
        The public functions, for people who hold a file of another kind.
    """

    name: str
    version: int
    reader: str
    writer: str

    @property
    def format(self) -> str:
        """What stands in the file: the kind and its version."""
        return f"caseback {self.name} {self.version}"

    @property
    def with_article(self) -> str:
        """The name with its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


LENS = Kind("lens", 1, "load_lens", "save_lens")
ATTENTION_LENS = Kind("attention lens", 1, "load_attention_lens", "save_lens")
FUTURE_PROMPT = Kind("future prompt", 1, "load_future_prompt", "save_lens")
MAPPING = Kind("mapping", 1, "load_mapping", "save_mapping")
SUBSPACE = Kind("subspace", 1, "load_subspace", "save_subspace")
EDITS = Kind("list of edits", 1, "load_edits", "save_edits")
DIRECTIONS = Kind("set of directions", 1, "load_directions", "save_directions")
ERASER = Kind("eraser", 1, "load_eraser", "save_eraser")
ORACLE_ERASER = Kind("oracle eraser", 1, "load_oracle_eraser", "save_eraser")
PROBE = Kind("probe", 1, "load_probe", "save_probe")
REFT = Kind("fine-tuned representation", 1, "load_reft", "save_reft")
DICTIONARY = Kind("dictionary", 1, "load_dictionary", "save_dictionary")
CIRCUIT = Kind("circuit", 1, "Circuit.load", "Circuit.save")
KEY_MOMENTS = Kind("second moment of keys", 1, "load_key_moments", "save_key_moments")
KNOWLEDGE_EDIT = Kind("edit of facts", 1, "load_knowledge_edit", "save_knowledge_edit")
MEND_NETWORK = Kind("network for edits", 1, "load_mend", "save_mend")
NOTES = Kind("set of notes", 1, "Notes.load", "Notes.save")
ATLAS = Kind("atlas", 1, "load_atlas", "save_atlas")
EMERGENCE = Kind("emergence", 1, "load_emergence", "save_emergence")

_ALL = (
    LENS,
    ATTENTION_LENS,
    FUTURE_PROMPT,
    MAPPING,
    SUBSPACE,
    EDITS,
    DIRECTIONS,
    ERASER,
    ORACLE_ERASER,
    PROBE,
    REFT,
    DICTIONARY,
    CIRCUIT,
    KEY_MOMENTS,
    KNOWLEDGE_EDIT,
    MEND_NETWORK,
    NOTES,
    ATLAS,
    EMERGENCE,
)
KINDS = {kind.name: kind for kind in _ALL}


def refusal(path: object, file_format: str, wanted: Kind) -> str:
    """Why a file that names another format, or none, is not read as this kind.

    Examples
    --------
    >>> refusal("a", "caseback mapping 1", LENS)
    "a holds no lens but 'caseback mapping 1': load_mapping reads it"
    """
    other = next((kind for kind in KINDS.values() if kind.format == file_format), None)
    if other is not None:
        return f"{path} holds no {wanted.name} but {file_format!r}: {other.reader} reads it"
    if file_format.startswith(f"caseback {wanted.name} "):
        return f"{path} is of the format {file_format!r}, and this version of caseback reads {wanted.format!r}"
    return f"{path} holds no {wanted.name}: expected a file that {wanted.writer} wrote"
