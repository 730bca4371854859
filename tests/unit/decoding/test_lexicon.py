"""Reading a lexicon, and reporting all of its errors at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq_mtssl.decoding.lexicon import read_lexicon
from fairseq_mtssl.decoding.vocabulary import Vocabulary
from fairseq_mtssl.errors import ManifestError

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
LETTERS = Vocabulary([*SPECIALS, "|", "A", "B"])


def test_words_keep_their_order_and_all_their_spellings(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.lst"
    path.write_text("BA\tB A |\nA\tA |\nBA B B |\n")
    assert read_lexicon(path, LETTERS) == {"BA": [[6, 5, 4], [6, 6, 4]], "A": [[5, 4]]}
    pieces = Vocabulary([*SPECIALS, "▁A", "B"])
    path.write_text("AB\t▁A B\n")
    assert read_lexicon(path, pieces) == {"AB": [[4, 5]]}


def test_errors_come_with_lines_and_together(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.lst"
    path.write_text("A\tA |\nB\n\nC\tC C |\nAB\tA B\n")
    with pytest.raises(ManifestError) as caught:
        read_lexicon(path, LETTERS)
    assert len(caught.value.errors) == 4
    text = str(caught.value)
    for part in (
        "line 2: got 'B'",
        "line 3: got ''",
        "line 4: C: 'C' unknown",
        "line 5: AB: the spelling ends",
    ):
        assert part in text
    path.write_text("")
    with pytest.raises(ManifestError, match="is empty"):
        read_lexicon(path, LETTERS)
    with pytest.raises(ManifestError, match="cannot be read"):
        read_lexicon(tmp_path / "none.lst", LETTERS)
