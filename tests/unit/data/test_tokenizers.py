"""The tokenizers: letters and SentencePiece."""

from __future__ import annotations

import pytest

from fairseq_mtssl.data.tokenizers import Letters, SentencePieces, count_symbols, train_sentencepiece
from fairseq_mtssl.errors import ConfigError

TEXTS = ["WE CALL IT BEAR", "ZERO THREE FIVE ONE", "DON'T GO THERE NOW"] * 3


def test_letters_end_every_word_with_a_bar() -> None:
    assert " ".join(Letters().encode("HELLO WORLD")) == "H E L L O | W O R L D |"
    assert Letters().encode("") == []


def test_symbols_are_counted_most_frequent_first_ties_by_code_point() -> None:
    assert list(count_symbols([["B", "A", "|"], ["|"]], ["C"]).items()) == [
        ("|", 2),
        ("A", 1),
        ("B", 1),
        ("C", 0),
    ]


def test_training_is_reproducible_and_subwords_join_to_words() -> None:
    pytest.importorskip("sentencepiece")
    model = train_sentencepiece(TEXTS, 24)
    assert train_sentencepiece(TEXTS, 24) == model
    units = SentencePieces(model, "spm.model")
    assert len(units.inventory) == 23 and "<unk>" not in units.inventory
    for text in TEXTS:
        pieces = units.encode(text)
        assert "".join(pieces).replace("▁", " ").strip() == text
        assert set(pieces) <= set(units.inventory)
        # a word alone is spelled as in a sentence, which the lexicon relies on
        assert pieces == [piece for word in text.split() for piece in units.encode(word)]


def test_long_texts_are_not_dropped() -> None:
    pytest.importorskip("sentencepiece")
    model = train_sentencepiece([" ".join(["AB"] * 3000), "QX"], 7)
    assert {"Q", "X"} <= set("".join(SentencePieces(model, "m").inventory))


def test_sizes_and_files_that_do_not_fit_are_refused() -> None:
    pytest.importorskip("sentencepiece")
    with pytest.raises(
        ConfigError, match="--vocab-size: 500 does not fit these texts: Vocabulary size too high"
    ):
        train_sentencepiece(TEXTS, 500)
    with pytest.raises(
        ConfigError,
        match="--vocab-size: 5 does not fit these texts: Vocabulary size is smaller than required",
    ):
        train_sentencepiece(TEXTS, 5)
    with pytest.raises(ConfigError, match="x.model: is no SentencePiece model"):
        SentencePieces(b"no model", "x.model")
