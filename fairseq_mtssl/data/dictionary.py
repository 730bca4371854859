"""Reads dictionaries of labels, phones and letters in fairseq's format: `<symbol> <count>` on each line."""

from __future__ import annotations

from pathlib import Path

from fairseq_mtssl.data.manifest import read_lines
from fairseq_mtssl.errors import ManifestError

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""The special symbols with which fairseq begins every dictionary; files do not hold them."""


def read_symbols(path: str | Path, noun: str, hint: str) -> list[str]:
    """Read the symbols of a dictionary, in the order of its lines, without the special symbols.

    noun: what a symbol is, for errors. hint: how to make the file again.
    Raises: ManifestError listing every error: an absent or empty file, a malformed line, a symbol that is
    repeated or special.
    """
    line_of: dict[str, int] = {}
    errors = []
    for number, line in enumerate(read_lines(Path(path)), start=1):
        symbol, _, count = line.rstrip().rpartition(" ")
        symbol = symbol.rstrip()
        if not symbol or " " in symbol or not count.isdecimal():
            errors.append(f"line {number}: got {line!r}, wanted <{noun}> <count>.")
        elif symbol in SPECIALS:
            errors.append(f"line {number}: got {line!r}; {symbol} is a special symbol. Leave it out.")
        elif symbol in line_of:
            errors.append(f"line {number}: {noun} {symbol!r} is on line {line_of[symbol]} already.")
        else:
            line_of[symbol] = number
    if not line_of and not errors:
        errors.append(f"holds no {noun}. {hint}")
    if errors:
        raise ManifestError(path, errors)
    return list(line_of)
