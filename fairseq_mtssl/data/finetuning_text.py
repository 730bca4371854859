"""What fine-tuning reads beside the manifests: words, their spelling, the dictionary and the lexicon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fairseq_mtssl.data.manifest import read_lines
from fairseq_mtssl.data.text_source import SplitText, normalise_text
from fairseq_mtssl.data.tokenizers import (
    SPECIALS,
    Letters,
    SentencePieces,
    Tokenizer,
    count_symbols,
    train_sentencepiece,
)
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.files import write_bytes, write_text

MODEL_FILE = "spm.model"


@dataclass
class Prepared:
    """Files by name, to be written, and remarks on what does not fit but can be lived with."""

    files: dict[str, str | bytes] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def choose_units(
    data: Path, units: str, train: Sequence[str] | None, vocab_size: int, model: Path | None
) -> Tokenizer:
    """Letters, or pieces: of `model` if given, else trained on `train`, else of the spm.model in `data`.

    Raises: ConfigError if there is nothing to take pieces from, or it is no SentencePiece model.
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


def read_symbols(path: Path) -> list[str]:
    """The symbols of a fairseq dictionary, `symbol count` a line, without those every dictionary has.

    Raises: ManifestError if it is absent or malformed.
    """
    errors = []
    symbols = []
    for number, line in enumerate(read_lines(path), start=1):
        symbol, _, count = line.rstrip().rpartition(" ")
        if not symbol or not count.isdecimal() or symbol in SPECIALS:
            errors.append(f"line {number}: got {line!r}, wanted symbol and count. Write it again.")
        symbols.append(symbol)
    if errors or not symbols:
        raise ManifestError(path, errors or ["holds no symbol. Prepare the training split too."])
    return symbols


def prepare(
    splits: Mapping[str, SplitText],
    units: Tokenizer,
    *,
    train: str,
    dictionary: Path,
    given: bool,
    words: Iterable[str] = (),
) -> Prepared:
    """All files of these splits.

    train: the only split whose symbols make the dictionary and whose words make the lexicon; if it is not
    among the splits, both stay as they are. dictionary: a file of symbols, taken if `given` or if train is
    not there. words: further ones for the lexicon.
    Raises: ManifestError if the dictionary cannot be read, or lacks symbols of train.
    """
    made = Prepared()
    ext = units.extension
    encoded = {name: [units.encode(text) for text in split.texts] for name, split in splits.items()}
    if given or train not in splits:
        symbols = set(read_symbols(dictionary))
        if given:
            made.files[f"dict.{ext}.txt"] = "\n".join(read_lines(dictionary)) + "\n"
    else:
        counts = count_symbols(encoded[train], units.inventory)
        unknown = sorted(set(counts) - set(units.inventory)) if units.inventory else []
        symbols = set(counts).difference(unknown)
        made.files[f"dict.{ext}.txt"] = "".join(
            f"{symbol} {count}\n" for symbol, count in counts.items() if symbol in symbols
        )
    for name, split in splits.items():
        made.files[f"{name}.wrd"] = "".join(f"{text}\n" for text in split.texts)
        made.files[f"{name}.{ext}"] = "".join(f"{' '.join(row)}\n" for row in encoded[name])
        _check_symbols(name, encoded[name], symbols, train, made)
    if isinstance(units, SentencePieces):
        made.files[MODEL_FILE] = units.model
    if train in splits:
        _add_lexicon(made, units, splits[train].texts, words, symbols)
    return made


def _check_symbols(
    name: str, encoded: Sequence[Sequence[str]], symbols: set[str], train: str, made: Prepared
) -> None:
    """Vocabulary that the dictionary lacks: an error in what is trained on, a remark elsewhere."""
    missing = Counter(symbol for row in encoded for symbol in row if symbol not in symbols)
    if not missing:
        return
    rows = [number for number, row in enumerate(encoded, start=1) if not symbols.issuperset(row)]
    named = ", ".join(f"{symbol!r} ({count})" for symbol, count in missing.most_common(10))
    more = f" … and {len(missing) - 10} more" if len(missing) > 10 else ""
    got = (
        f"{len(rows)} of {len(encoded)} rows, the first on line {rows[0]}, hold symbols that the dictionary "
        f"lacks: {named}{more}"
    )
    if name == train:
        raise ManifestError(f"{name}.wrd", [f"{got}. Take another --dictionary or --model, or none."])
    made.remarks.append(f"{name}: {got}; fine-tuning refuses them, scoring by words does not mind")


def _add_lexicon(
    made: Prepared, units: Tokenizer, texts: Sequence[str], words: Iterable[str], symbols: set[str]
) -> None:
    """Words in alphabetical order with their spelling; those that cannot be spelled are counted."""
    wanted = {word for text in texts for word in text.split()}
    wanted.update(word for line in words for word in normalise_text(line).split())
    spelled = {word: units.encode(word) for word in sorted(wanted)}
    kept = {word: spelling for word, spelling in spelled.items() if symbols.issuperset(spelling)}
    left = [word for word in spelled if word not in kept]
    if left:
        made.remarks.append(
            f"lexicon: left out {len(left)} of {len(spelled)} words with symbols that the dictionary lacks: "
            + ", ".join(left[:5])
            + (" …" if len(left) > 5 else "")
        )
    made.files[f"lexicon.{units.extension}.lst"] = "".join(
        f"{word}\t{' '.join(spelling)}\n" for word, spelling in kept.items()
    )


def write(data: Path, made: Prepared) -> None:
    """Write the files, each whole or not at all. Raises: ConfigError if the folder cannot be written."""
    try:
        for name, content in made.files.items():
            if isinstance(content, bytes):
                write_bytes(data / name, content)
            else:
                write_text(data / name, content)
    except OSError as error:
        raise ConfigError(str(data), [f"cannot be written ({error.strerror}); give a copy"]) from error
