"""Bad values by the kind of thing that is asked for: numbers, texts, lists of numbers, files, tensors, functions."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from hostile import HOSTILE

BIG = (10**9, 2**31, 2**63 - 1, 2**63, 10**30, -(2**31), -(2**63), -(10**30))
WHOLE = (-1, -2, -7, *BIG)
NOT_FINITE = (math.nan, math.inf, -math.inf)
REAL = (*NOT_FINITE, -1.0, -1e-300, 1e-300, 1e308, -1e308, 0.0, -0.0, 1e30)
NO_NUMBERS = (None, "", "x", "1", "nan", b"1", [], [1], {}, {"a": 1}, 1j, 1.5, True, print, object)


def whole_numbers():
    """No count, layer or seed: too large, negative, a fraction, text, a container."""
    arrays = [
        np.array(1.5),
        np.array([1, 2]),
        torch.tensor(2.5),
        torch.tensor([1, 2]),
        torch.tensor(True),
        np.float32(3),
    ]
    return st.one_of(
        st.sampled_from([*WHOLE, *NOT_FINITE, *NO_NUMBERS, *arrays]),
        st.integers(max_value=-1),
        st.integers(min_value=2**31),
        st.floats(),
        st.text(max_size=5),
    )


def real_numbers():
    """No rate, share or threshold: not finite, out of any range, text, a container."""
    return st.one_of(
        st.sampled_from([*REAL, *BIG, *(v for v in NO_NUMBERS if v != 1.5), np.array([1.0, 2.0]), torch.ones(2)]),
        st.floats(allow_nan=True, allow_infinity=True),
        st.text(max_size=5),
    )


def texts():
    """Texts that name nothing, and what is no text."""
    return st.one_of(
        st.sampled_from([*HOSTILE, "nan", "-1", "0", "../..", "a" * 5000, *(v for v in NO_NUMBERS if v is not None)]),
        st.text(max_size=8),
    )


def flags():
    """What is neither true nor false."""
    return st.sampled_from(
        [2, -1, "yes", "", [], [0], math.nan, b"", {}, print, np.array([True, False]), torch.ones(2)]
    )


def lists_of_numbers():
    """What names no layers, heads, positions or units."""
    return st.one_of(
        whole_numbers(),
        st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=2), st.none()), max_size=4),
        st.sampled_from(
            [
                [[0]],
                [0, 0],
                [0, 10**9],
                (),
                {0: 1},
                {0},
                slice(None),
                slice(5, 1),
                slice(None, None, 0),
                slice(0.5, 2),
                range(0),
                torch.zeros(0, dtype=torch.long),
                torch.tensor([[0]]),
                torch.tensor([0.5]),
                torch.tensor([True, False]),
                np.array([], dtype=int),
                np.array(["a"]),
                iter([0]),
                [None],
                [math.nan],
                ["0"],
                "0-2",
            ]
        ),
    )


def lists_of_texts():
    """What is no list of texts."""
    return st.one_of(
        st.lists(texts(), max_size=3),
        st.sampled_from([None, "", [], (), {}, 3, [[]], [[""]], [3], [None], iter(["a"]), {"a": "b"}, math.nan, print]),
    )


def prompts():
    """What is no prompt: empty, past the context, out of the vocabulary, of another type."""
    return st.one_of(
        st.sampled_from(
            [
                "",
                " ",
                "\ud83d",
                "a " * 5000,
                [],
                [[]],
                [[], [5]],
                [""],
                ["a", ""],
                ["a", 5],
                [5, "a"],
                [5, None],
                [5.5],
                [math.nan],
                [-1],
                [10**9],
                [10**30],
                [[5], 6],
                [[[5]]],
                [True, False],
                {"input_ids": [[5]]},
                {"text": "a"},
                {5, 6},
                None,
                5,
                5.0,
                b"bytes",
                print,
                object(),
                torch.tensor(5),
                torch.tensor([]),
                torch.zeros(0, 3, dtype=torch.long),
                torch.zeros(2, 0, dtype=torch.long),
                torch.tensor([5.5, 6]),
                torch.tensor([True, False]),
                torch.zeros(1, 2, 3, dtype=torch.long),
                torch.full((1, 3), -5),
                torch.full((1, 3), 2**40),
                np.array(["a", "b"]),
                np.array([5.5]),
                np.array([[5, 6]], dtype=np.uint64),
                np.array([None]),
                iter([5, 6]),
                range(5, 5),
                [{"role": "user"}],
                [{"role": "user", "content": None}],
                [{"content": 3}],
            ]
        ),
        st.lists(st.integers(), max_size=4),
        st.text(max_size=6),
    )


def tokens_of_vocabulary():
    """What is no token: no text of one, no id, none for each prompt."""
    return st.one_of(
        st.sampled_from(
            [*HOSTILE, "several words here", 10**9, -1, 2**63, 1.5, math.nan, None, [], [[]], [None], {}, b"a"]
        ),
        st.sampled_from(
            [["a", "b", "c"], [3, 4, 5, 6], True, torch.tensor([1.5]), torch.zeros(0), np.array([[1]]), print]
        ),
        st.text(max_size=6),
        st.integers(),
    )


def things():
    """What is none of the package's own things: metrics, edits, lenses, circuits, documents."""
    return st.sampled_from(
        [
            *(None, 0, -1, 1.5, math.nan, "", "x", "L0H0", b"x", True, print, len, object, object(), [], [None], [[]]),
            *((), {}, {"a": 1}, [1, 2], ["x"], {1, 2}, lambda *a: None, lambda *a, **k: math.nan, lambda: 0),
            *(torch.zeros(2), torch.tensor(math.nan), np.zeros(2), iter([]), range(3), slice(None), type, Path("x")),
        ]
    )


def callables():
    """Functions that take or give something else than is asked for, and what is no function."""

    def raises(*_, **__):
        raise ValueError("the user's own error")

    return st.sampled_from(
        [
            *(None, 3, "", "len", [], {}, object(), print, len, raises),
            *(lambda: 0, lambda x: None, lambda x: "text", lambda x: math.nan, lambda x: [], lambda *a, **k: None),
            *(lambda *a, **k: torch.zeros(0), lambda *a, **k: torch.zeros(3, 3, 3), lambda *a, **k: object()),
        ]
    )


def tensors():
    """Tensors of another shape, type or content, and what is no tensor."""
    return st.sampled_from(
        [
            *(None, 3, math.nan, "", "x", [], [1.0], [[1.0], [1.0, 2.0]], {}, print, object(), b""),
            *(
                torch.zeros(()),
                torch.zeros(0),
                torch.zeros(1),
                torch.zeros(3),
                torch.zeros(2, 0),
                torch.zeros(1, 1, 1, 1),
            ),
            *(
                torch.full((2, 3), math.nan),
                torch.full((16,), math.inf),
                torch.zeros(16, 16),
                torch.ones(16, dtype=torch.bool),
            ),
            *(torch.ones(16, dtype=torch.cfloat), torch.ones(2, 16, dtype=torch.long), torch.empty(16, device="meta")),
            *(
                np.zeros(16),
                np.array(["a"]),
                np.array([None]),
                torch.ones(1, 16).to_sparse(),
                torch.full((1, 16), math.nan),
            ),
        ]
    )


def write_files(folder: Path) -> list[Path]:
    """Files that hold anything but what is looked for, folders, and paths of nothing; the same each time."""
    folder.mkdir(exist_ok=True)
    contents: dict[str, bytes] = {
        "empty": b"",
        "spaces.txt": b" \n\n ",
        "bytes.bin": bytes(range(256)) * 8,
        "zeros.safetensors": bytes(64),
        "huge_header.safetensors": (2**62).to_bytes(8, "little") + b"{}",
        "no_tensors.safetensors": (2).to_bytes(8, "little") + b"{}",
        "zip.npz": b"PK\x03\x04" + bytes(50),
        "pickle.pt": b"\x80\x04N.",
        "deep.json": b"[" * 100_000,
        "deep_object.json": b'{"a":' * 100_000,
        "deep_closed.json": b"[" * 50_000 + b"]" * 50_000,
        "null.json": b"null",
        "number.json": b"17",
        "nan.json": b'{"a": NaN, "format": Infinity}',
        "text.json": b'"a text"',
        "list.json": b'[1, "a", null, [[]], {}]',
        "object.json": b"{}",
        "long_number.json": b'{"version": ' + b"9" * 10_000 + b"}",
        "broken.json": b'{"format": "caseback circuit 1", "edges": [',
        "lines.jsonl": b'{"prompt": 1}\n[]\n"x"\n{"prompt": null, "subject": {}}\n' * 3,
        "utf16.txt": "text".encode("utf-16"),
        "latin1.txt": "caf\xe9\n".encode("latin-1"),
        "nul.txt": b"a\x00b\nc\n",
        "one_line.txt": b"w " * 20_000,
        "table.csv": b'a,b\n1\n"unclosed,2\n',
        "ragged.csv": b"clean,corrupted,correct_idx\na,b,c,d\n,,\n",
    }
    for kind in ("lens", "mapping", "subspace", "list of edits", "circuit", "attention lens", "future prompt"):
        schema = {
            "format": f"caseback {kind} 1",
            "edges": 3,
            "nodes": "x",
            "scores": [],
            "edits": {},
            "variables": None,
        }
        contents[f"wrong_{kind.replace(' ', '_')}.json"] = json.dumps(schema).encode()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir(exist_ok=True)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("[[]]")
    nothing = ["missing", "missing/deeper", "empty/below_a_file", "a" * 300, "folder/", ".", "new\nline"]
    return [*(folder / name for name in contents), folder / "folder", folder / "model", *(folder / n for n in nothing)]
