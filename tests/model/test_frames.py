"""Which token stands in which row: against a loop over all tokens, for any prompts, padding and address."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caseback.errors import OutOfRange
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Frame, Span, batch_frame, positions, step_frame
from caseback.model.running.tokens import _pad

lengths = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def batch(sizes, side):
    rows = [torch.arange(1, n + 1) for n in sizes]
    return _pad(rows, [[""] * n for n in sizes], side, 0)


def rows_of(frame, owner, pos):
    return frame.rows([(owner, Edit("resid_post", pos=pos))])


@st.composite
def addresses(draw, sizes):
    """Any way to name positions that every prompt has."""
    n = min(sizes)
    one = st.integers(-n, n - 1)
    kind = draw(st.sampled_from("none int list slice tensor scalar".split()))
    if kind == "none":
        return None
    if kind == "int":
        return draw(one)
    if kind == "list":
        return draw(st.lists(one, min_size=1, max_size=4))
    if kind == "slice":
        bound = st.none() | st.integers(-9, 9)
        return slice(draw(bound), draw(bound), draw(st.none() | st.integers(1, 3)))
    if kind == "scalar":
        return torch.tensor(draw(one))
    return torch.tensor([draw(st.integers(-m, m - 1)) for m in sizes])


def naive(pos, example, length):
    """The positions that an address names, as Python's own indexing has it."""
    everything = list(range(length))
    if pos is None:
        return everything
    if isinstance(pos, slice):
        return everything[pos]
    if isinstance(pos, torch.Tensor):
        pos = int(pos[example]) if pos.ndim else int(pos)
    return [everything[p] for p in ([pos] if isinstance(pos, int) else pos)]


@given(st.data())
def test_positions_are_pythons_own_indexing(data):
    sizes = data.draw(lengths)
    pos = data.draw(addresses(sizes))
    for example, length in enumerate(sizes):
        assert list(positions(pos, example, length)) == naive(pos, example, length)


@given(st.integers(1, 6), st.integers(-12, 12))
def test_a_position_that_a_prompt_lacks_is_refused(length, pos):
    if -length <= pos < length:
        assert list(positions(pos, 0, length)) == [pos % length]
        return
    with pytest.raises(OutOfRange) as caught:
        positions([0, pos], 2, length)
    assert str(caught.value) == (
        f"position {pos} is out of range: prompt 2 has {length} tokens, so positions go from {-length} to {length - 1}"
    )
    if pos >= length:
        assert list(positions(pos, 0, length, open_end=True)) == [pos]


@given(st.data())
def test_rows_of_a_padded_batch_are_those_of_the_tokens(data):
    sizes, side = data.draw(lengths), data.draw(st.sampled_from(["left", "right"]))
    pos = data.draw(addresses(sizes))
    tokens = batch(sizes, side)
    rows = rows_of(batch_frame(tokens), 0, pos)
    width = tokens.ids.shape[1]
    expected = [
        (b * width + (width - n if side == "left" else 0) + p, b, p, i)
        for b, n in enumerate(sizes)
        for i, p in enumerate(naive(pos, b, n))
    ]
    if rows is None:
        assert expected == []
        return
    found = list(zip(rows.row.tolist(), rows.example.tolist(), rows.token.tolist(), rows.order.tolist(), strict=True))
    assert sorted(found) == sorted(expected)
    # The row really holds that token: ids were numbered from 1.
    assert tokens.ids.flatten()[rows.row].tolist() == (rows.token + 1).tolist()


@given(st.data())
def test_rows_of_packed_suffixes_are_those_of_the_tokens(data):
    """Segments of several owners and prompts one after another, each from a first token on."""
    sizes = data.draw(lengths)
    pos = data.draw(addresses(sizes))
    spans, row, holds = [], 0, {}
    for owner in range(data.draw(st.integers(1, 3))):
        for example, n in enumerate(sizes):
            first = data.draw(st.integers(0, n - 1))
            count = data.draw(st.integers(1, n - first))
            spans.append(Span(owner, example, first, count, row))
            for i in range(count):
                holds[row + i] = (owner, example, first + i)
            row += count
    frame = Frame(spans, sizes)
    for owner in range(3):
        expected = sorted(r for r, (who, b, p) in holds.items() if who == owner and p in naive(pos, b, sizes[b]))
        rows = rows_of(frame, owner, pos)
        assert sorted(set(rows.row.tolist()) if rows else []) == expected
        if rows is not None:
            assert [holds[r][1:] for r in rows.row.tolist()] == list(
                zip(rows.example.tolist(), rows.token.tolist(), strict=True)
            )


def test_rows_of_several_edits_say_which_edit_each_is_of():
    spans = [Span(owner, 0, 2, 3, 3 * owner) for owner in range(3)]
    rows = Frame(spans, [5]).rows([(2, Edit("resid_post", pos=-1)), (0, Edit("resid_post")), (1, Edit("z", pos=1))])
    assert rows.row.tolist() == [8, 0, 1, 2] and rows.token.tolist() == [4, 2, 3, 4]
    assert rows.edit.tolist() == [0, 1, 1, 1]


@given(st.data())
def test_columns_of_a_tokens_batch_are_the_positions(data):
    sizes, side = data.draw(lengths), data.draw(st.sampled_from(["left", "right"]))
    tokens = batch(sizes, side)
    pos = data.draw(st.integers(-min(sizes), min(sizes) - 1))
    at = tokens.column(pos)
    for b, n in enumerate(sizes):
        assert int(tokens.ids[b, at[b]]) == pos % n + 1
    moved = tokens.padded_on("left" if side == "right" else "right")
    assert [row[mask].tolist() for row, mask in zip(moved.ids, moved.mask, strict=True)] == [
        list(range(1, n + 1)) for n in sizes
    ]
    assert moved.lengths.tolist() == sizes


@given(st.data())
def test_steps_of_decoding_cover_every_position_once(data):
    """The prompt's pass and then one column a step: each token of each sequence stands in one row of one step."""
    sizes, beams, steps = data.draw(lengths), data.draw(st.integers(1, 2)), data.draw(st.integers(0, 4))
    tokens = batch(sizes, "left")
    width, rows = tokens.ids.shape[1], len(sizes) * beams
    seen = []
    for start, size in [(0, width), *((width + s, 1) for s in range(steps))]:
        found = rows_of(step_frame(tokens, rows, start, size), 0, None)
        assert found is not None
        assert found.row.max() < rows * size
        seen += list(zip(found.example.tolist(), found.token.tolist(), strict=True))
    expected = [(b, p) for b, n in enumerate(sizes) for p in range(n + steps) for _ in range(beams)]
    assert sorted(seen) == sorted(expected)
    late = rows_of(step_frame(tokens, rows, width, 1), 0, [n := max(sizes)])
    expected_late = [b for b, size in enumerate(sizes) for _ in range(beams) if size == n]
    assert (late.example.tolist() if late else []) == expected_late
