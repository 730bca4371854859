"""Greedy decoding against its definition, and how symbols join into words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.ctc_oracle import collapse_slowly

from fairseq_mtssl.decoding.greedy import GreedyDecoder, collapse
from fairseq_mtssl.decoding.vocabulary import Vocabulary
from fairseq_mtssl.errors import ConfigError

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
LETTERS = Vocabulary([*SPECIALS, "|", "A", "B"])
PIECES = Vocabulary([*SPECIALS, "▁A", "B", "▁"])


def certain(frames: list[int], symbols: int = 7) -> np.ndarray:
    """Log-probabilities (T, V) with one symbol nearly certain per frame."""
    return np.log(np.full((len(frames), symbols), 1e-3) + np.eye(symbols)[frames])


@given(st.lists(st.integers(0, 3), max_size=12))
def test_runs_and_blanks_collapse_as_defined(frames: list[int]) -> None:
    assert collapse(np.array(frames, dtype=np.int64)).tolist() == collapse_slowly(frames)


def test_a_blank_keeps_a_double_letter_and_the_bar_ends_words() -> None:
    # A A _ A | | B _ |
    assert GreedyDecoder(LETTERS)(certain([5, 5, 0, 5, 4, 4, 6, 0, 4])) == "AA B"


def test_special_symbols_give_no_text() -> None:
    assert GreedyDecoder(LETTERS)(certain([1, 5, 2, 3, 5, 4])) == "AA"


def test_silence_gives_no_text() -> None:
    assert GreedyDecoder(LETTERS)(certain([0, 0])) == ""
    assert GreedyDecoder(LETTERS)(certain([4])) == ""


def test_subwords_mark_the_beginning_of_words() -> None:
    assert PIECES.has_subwords and not LETTERS.has_subwords
    assert GreedyDecoder(PIECES)(certain([4, 0, 5, 4, 6, 5])) == "AB A B"
    assert PIECES.join(["▁A", "B", "▁A"]) == "AB A"
    assert LETTERS.join(["A", "|", "B", "A", "|"]) == "A BA"


def test_a_dictionary_without_word_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match="where do words end"):
        Vocabulary([*SPECIALS, "12", "7"])
