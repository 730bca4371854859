"""Makes the text files that fine-tuning reads: words, their spelling, the dictionary and the lexicon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fairseq_mtssl.data.dictionary import read_symbols
from fairseq_mtssl.data.manifest import read_lines
from fairseq_mtssl.data.text_source import SplitText, normalise_text
from fairseq_mtssl.data.tokenizers import (
    Letters,
    SentencePieces,
    Tokenizer,
    count_symbols,
    train_sentencepiece,
)
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.files import write_bytes

MODEL_FILE = "spm.model"


@dataclass
class Prepared:
    """The contents of the files to be written, by file name, and warnings about what could not be spelled."""

    files: dict[str, str | bytes] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def choose_units(
    data: Path, units: str, train: Sequence[str] | None, vocab_size: int, model: Path | None
) -> Tokenizer:
    """Return the tokenizer: letters or SentencePiece.

    A SentencePiece model is read from `model` if given, else trained on the texts `train` if given, else read
    from spm.model in the folder `data`.
    Raises: ConfigError if the model cannot be read or is not a SentencePiece model.
    """
    if units == "letters":
        return Letters()
    if model is None and train is not None:
        return SentencePieces(train_sentencepiece(train, vocab_size), data / MODEL_FILE)
    path = model or data / MODEL_FILE
    try:
        return SentencePieces(path.read_bytes(), path)
    except OSError as error:
        hint = "give --model, or prepare the training split too"
        raise ConfigError(str(path), [f"cannot be read ({error.strerror}); {hint}"]) from error


def prepare(
    splits: Mapping[str, SplitText],
    units: Tokenizer,
    *,
    train: str,
    dictionary: Path,
    given: bool,
    words: Iterable[str] = (),
) -> Prepared:
    """Make the contents of all files of these splits.

    train: name of the split from whose symbols the dictionary is prepared and from whose words the lexicon is
        prepared. If it is not among the splits, neither is prepared.
    dictionary: file of an existing dictionary, used if `given` or if train is not among the splits.
    words: further lines of words for the lexicon.
    Raises: ManifestError if the dictionary cannot be read, or lacks symbols of train.
    """
    prepared = Prepared()
    ext = units.extension
    encoded = {name: [units.encode(text) for text in split.texts] for name, split in splits.items()}
    if given or train not in splits:
        symbols = set(read_symbols(dictionary, "symbol", "Prepare the training split too."))
        if given:
            prepared.files[f"dict.{ext}.txt"] = "\n".join(read_lines(dictionary)) + "\n"
    else:
        counts = count_symbols(encoded[train], units.inventory)
        unknown = sorted(set(counts) - set(units.inventory)) if units.inventory else []
        symbols = set(counts).difference(unknown)
        prepared.files[f"dict.{ext}.txt"] = "".join(
            f"{symbol} {count}\n" for symbol, count in counts.items() if symbol in symbols
        )
    for name, split in splits.items():
        prepared.files[f"{name}.wrd"] = "".join(f"{text}\n" for text in split.texts)
        prepared.files[f"{name}.{ext}"] = "".join(f"{' '.join(row)}\n" for row in encoded[name])
        _check_symbols(name, encoded[name], symbols, train, prepared)
    if isinstance(units, SentencePieces):
        prepared.files[MODEL_FILE] = units.model
    if train in splits:
        _add_lexicon(prepared, units, splits[train].texts, words, symbols)
    return prepared


def _check_symbols(
    name: str, encoded: Sequence[Sequence[str]], symbols: set[str], train: str, prepared: Prepared
) -> None:
    """Report symbols that the dictionary lacks: an error in the training split, a remark in others."""
    missing = Counter(symbol for row in encoded for symbol in row if symbol not in symbols)
    if not missing:
        return
    rows = [number for number, row in enumerate(encoded, start=1) if not symbols.issuperset(row)]
    listed = ", ".join(f"{symbol!r} ({count})" for symbol, count in missing.most_common(10))
    more = f" … and {len(missing) - 10} more" if len(missing) > 10 else ""
    got = (
        f"{len(rows)} of {len(encoded)} rows, the first on line {rows[0]}, hold symbols that the dictionary "
        f"lacks: {listed}{more}"
    )
    if name == train:
        raise ManifestError(f"{name}.wrd", [f"{got}. Take another --dictionary or --model, or none."])
    prepared.remarks.append(f"{name}: {got}; fine-tuning refuses them, scoring by words does not mind")


def _add_lexicon(
    prepared: Prepared, units: Tokenizer, texts: Sequence[str], words: Iterable[str], symbols: set[str]
) -> None:
    """Add the lexicon, in alphabetical order; a remark counts the words that the symbols cannot spell."""
    wanted = {word for text in texts for word in text.split()}
    wanted.update(word for line in words for word in normalise_text(line).split())
    spelled = {word: units.encode(word) for word in sorted(wanted)}
    kept = {word: spelling for word, spelling in spelled.items() if symbols.issuperset(spelling)}
    dropped = [word for word in spelled if word not in kept]
    if dropped:
        prepared.remarks.append(
            f"lexicon: left out {len(dropped)} of {len(spelled)} words with symbols that the dictionary "
            + "lacks: "
            + ", ".join(dropped[:5])
            + (" …" if len(dropped) > 5 else "")
        )
    prepared.files[f"lexicon.{units.extension}.lst"] = "".join(
        f"{word}\t{' '.join(spelling)}\n" for word, spelling in kept.items()
    )


def write(data: Path, prepared: Prepared) -> None:
    """Write the files, each atomically. Raises: ConfigError if the folder cannot be written."""
    try:
        for name, content in prepared.files.items():
            write_bytes(data / name, content if isinstance(content, bytes) else content.encode("utf-8"))
    except OSError as error:
        raise ConfigError(str(data), [f"cannot be written ({error.strerror}); give a copy"]) from error
