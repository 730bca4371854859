"""Reads a lexicon: words and their spellings in a model's symbols."""

from __future__ import annotations

from pathlib import Path

from fairseq_mtssl.data.manifest import read_lines
from fairseq_mtssl.data.tokenizers import WORD_END
from fairseq_mtssl.decoding.vocabulary import Vocabulary
from fairseq_mtssl.errors import ManifestError


def read_lexicon(path: str | Path, vocabulary: Vocabulary) -> dict[str, list[list[int]]]:
    """Read the spellings of each word from a file with `word<TAB>S P E L L I N G` on each line.

    Returns: symbol indices of every spelling of each word, in the order of the file.
    Raises: ManifestError listing every error: absent or empty file, no spelling, a symbol that the model
    lacks, letters without a final `|`.
    """
    lines = read_lines(Path(path))
    errors = []
    lexicon: dict[str, list[list[int]]] = {}
    for number, line in enumerate(lines, start=1):
        word, *spelling = line.split() or [""]
        unknown = [name for name in spelling if name not in vocabulary.index]
        if not spelling:
            errors.append(f"line {number}: got {line!r}, wanted a word, a tab and the word's symbols.")
        elif unknown:
            listed = ", ".join(map(repr, dict.fromkeys(unknown)))
            errors.append(f"line {number}: {word}: {listed} unknown to the model. Spell in its symbols.")
        elif not vocabulary.has_subwords and spelling[-1] != WORD_END:
            errors.append(f"line {number}: {word}: the spelling ends without {WORD_END!r}. Add it.")
        else:
            lexicon.setdefault(word, []).append([vocabulary.index[name] for name in spelling])
    if not lines:
        errors.append("is empty. Use the one that mtssl prepare-text writes.")
    if errors:
        raise ManifestError(path, errors)
    return lexicon
