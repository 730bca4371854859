"""Tokenizers that spell words in the symbols of CTC: letters, or the subwords of a SentencePiece model."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from fairseq_mtssl.errors import ConfigError, import_extra

WORD_END = "|"
PIECE_WORD_START = "▁"


def word_joining(symbols: Iterable[str]) -> str:
    """Return the mode in which fairseq's `data_utils.post_process` joins these symbols into words.

    Returns: `sentencepiece` if a symbol begins with `▁`; else `letter` if `|` is a symbol; else `none`: with
    symbols that mark no word boundary, such as phones, each symbol counts as a word.
    """
    names = list(symbols)
    if any(name.startswith(PIECE_WORD_START) for name in names):
        return "sentencepiece"
    return "letter" if WORD_END in names else "none"


class Tokenizer(Protocol):
    """Splits text into symbols.

    extension: file name extension of texts in these symbols.
    inventory: symbols that belong to the dictionary even if no text contains them.
    """

    extension: str
    inventory: Sequence[str]

    def encode(self, text: str) -> list[str]:
        """Return the symbols of a text in normal form."""
        ...


class Letters:
    """Spells `HELLO WORLD` as `H E L L O | W O R L D |`."""

    extension = "ltr"
    inventory: Sequence[str] = ()

    def encode(self, text: str) -> list[str]:
        return [symbol for word in text.split() for symbol in (*word, WORD_END)]


class SentencePieces:
    """Spells `HELLO WORLD` in subwords, for example `▁HE LLO ▁WORLD`.

    model: the bytes of a SentencePiece model; place: the file it comes from, for error messages.
    Raises: ConfigError if it is not a SentencePiece model, MissingExtraError without the package.
    """

    extension = "spm"

    def __init__(self, model: bytes, place: str | Path) -> None:
        try:
            self._processor = _sentencepiece().SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ConfigError(str(place), [f"is no SentencePiece model ({error}); give another"]) from error
        self.model = model
        processor = self._processor
        self.inventory: Sequence[str] = [
            processor.id_to_piece(i)
            for i in range(processor.get_piece_size())
            if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i))
        ]

    def encode(self, text: str) -> list[str]:
        return list(self._processor.encode(text, out_type=str))


def train_sentencepiece(texts: Sequence[str], vocab_size: int) -> bytes:
    """Train a unigram model of vocab_size subwords, including `<unk>`, and return its bytes.

    The same texts give the same bytes.
    Raises: ConfigError if the texts do not allow this vocab_size, MissingExtraError without the package.
    """
    model = io.BytesIO()
    try:
        _sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=1.0,
            normalization_rule_name="identity",  # the texts are in normal form already
            max_sentence_length=max((len(text.encode()) for text in texts), default=0) + 1,  # drops no text
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,  # the result depends on the number of threads
            minloglevel=2,
        )
    except RuntimeError as error:
        why = str(error).rpartition("] ")[2]  # without SentencePiece's own source line and condition
        raise ConfigError("--vocab-size", [f"{vocab_size} does not fit these texts: {why}"]) from error
    return model.getvalue()


def _sentencepiece() -> Any:
    return import_extra("sentencepiece", "SentencePiece units", "sentencepiece", "text")


def count_symbols(encoded: Iterable[Sequence[str]], inventory: Sequence[str] = ()) -> dict[str, int]:
    """Count symbols; the most frequent come first, equal counts in the order of code points.

    inventory: symbols that are listed even if they occur 0 times.
    """
    counts = dict.fromkeys(inventory, 0)
    for symbols in encoded:
        for symbol in symbols:
            counts[symbol] = counts.get(symbol, 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
