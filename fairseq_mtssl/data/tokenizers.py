"""Units that words are spelled in for CTC: letters, or the pieces of a SentencePiece model."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from fairseq_mtssl.errors import ConfigError, MissingExtraError

WORD_END = "|"
PIECE_WORD_START = "▁"
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""What every dictionary of fairseq's begins with, none of it text; the first is the blank of CTC."""


def word_joining(symbols: Iterable[str]) -> str:
    """How fairseq's `data_utils.post_process` puts words together from the symbols of a dictionary.

    Returns: `sentencepiece` if a symbol begins with `▁`; else `letter` if `|` is one; else `none`, where
    nothing marks a word, such as phones, and every symbol counts as one.
    """
    names = list(symbols)
    if any(name.startswith(PIECE_WORD_START) for name in names):
        return "sentencepiece"
    return "letter" if WORD_END in names else "none"


class Tokenizer(Protocol):
    """extension: of the files in these units; inventory: symbols known without any text."""

    extension: str
    inventory: Sequence[str]

    def encode(self, text: str) -> list[str]:
        """The symbols of some words in normal form."""
        ...


class Letters:
    """`HELLO WORLD` -> `H E L L O | W O R L D |`."""

    extension = "ltr"
    inventory: Sequence[str] = ()

    def encode(self, text: str) -> list[str]:
        return [symbol for word in text.split() for symbol in (*word, WORD_END)]


class SentencePieces:
    """`HELLO WORLD` -> `▁HE LLO ▁WORLD`, as the model says.

    model: the bytes of a SentencePiece model; place: the file it is from, for messages.
    Raises: ConfigError if it is none, MissingExtraError without the package.
    """

    extension = "spm"

    def __init__(self, model: bytes, place: str | Path) -> None:
        try:
            self._processor = _sentencepiece().SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ConfigError(str(place), [f"is no SentencePiece model ({error}); give another"]) from error
        self.model = model
        known, processor = range(self._processor.get_piece_size()), self._processor
        self.inventory: Sequence[str] = [
            processor.id_to_piece(i)
            for i in known
            if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i))
        ]

    def encode(self, text: str) -> list[str]:
        return list(self._processor.encode(text, out_type=str))


def train_sentencepiece(texts: Sequence[str], vocab_size: int) -> bytes:
    """A unigram model of so many pieces, `<unk>` among them; the same bytes for the same texts.

    Raises: ConfigError if the texts cannot give so many or need more, MissingExtraError without the package.
    """
    written = io.BytesIO()
    try:
        _sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=1.0,
            normalization_rule_name="identity",  # the texts are in normal form
            max_sentence_length=max((len(text.encode()) for text in texts), default=0) + 1,  # drop none
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,  # sums of several threads depend on their number
            minloglevel=2,
        )
    except RuntimeError as error:
        why = str(error).rpartition("] ")[2]  # its source line and condition stand in front
        raise ConfigError("--vocab-size", [f"{vocab_size} does not fit these texts: {why}"]) from error
    return written.getvalue()


def _sentencepiece() -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise MissingExtraError("SentencePiece units", "sentencepiece", "text") from error
    return sentencepiece


def count_symbols(encoded: Iterable[Sequence[str]], inventory: Sequence[str] = ()) -> dict[str, int]:
    """Symbol -> how often it occurs, most frequent first, then by code point; inventory: counted from 0."""
    counts = dict.fromkeys(inventory, 0)
    for symbols in encoded:
        for symbol in symbols:
            counts[symbol] = counts.get(symbol, 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
