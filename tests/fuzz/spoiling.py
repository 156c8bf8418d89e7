"""Spoils what was valid: it gets further into a parser than what never was."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import strategies as st

Spoil = tuple[str, int, int, bytes]


def spoiled(valid: st.SearchStrategy[bytes], tokens: Sequence[bytes], most: int = 5) -> st.SearchStrategy[bytes]:
    """Something valid with up to `most` changes; `tokens` are what is put into it beside single bytes."""
    piece = st.sampled_from(list(tokens)) | st.binary(min_size=1, max_size=4)
    kinds = st.sampled_from(["set", "insert", "insert", "cut", "repeat", "swap", "end"])
    change = st.tuples(kinds, st.integers(0, 100_000), st.integers(1, 40), piece)
    return st.tuples(valid, st.lists(change, max_size=most)).map(lambda drawn: _changed(*drawn))


def _changed(valid: bytes, changes: Sequence[Spoil]) -> bytes:
    for change in changes:
        valid = _change(valid, *change)
    return valid


def _change(text: bytes, kind: str, position: int, size: int, piece: bytes) -> bytes:
    at = position % (len(text) + 1)
    before, here, after = text[:at], text[at : at + size], text[at + size :]
    match kind:
        case "set":
            return before + piece + text[at + len(piece) :]
        case "insert":
            return before + piece + here + after
        case "cut":
            return before + after
        case "repeat":
            return before + here * 3 + after
        case "swap":
            return before + after[:size] + here + after[size:]
    return before


def pieces(text: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The text, cut at these places."""
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 100_000), max_size=4)
