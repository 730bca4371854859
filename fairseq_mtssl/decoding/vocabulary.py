"""The output symbols of a CTC model, and how they join into words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fairseq_mtssl.data.dictionary import SPECIALS
from fairseq_mtssl.data.tokenizers import PIECE_WORD_START, WORD_END, word_joining
from fairseq_mtssl.errors import ConfigError

BLANK = SPECIALS.index("<s>")
PAD = SPECIALS.index("<pad>")


class Vocabulary:
    """The symbols of a dictionary.

    names: the symbols in the dictionary's order; index: the index of each;
    has_subwords: whether they are SentencePiece subwords rather than letters.
    Raises: ConfigError if neither `|` nor `▁` marks where words begin or end.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.index = {name: index for index, name in enumerate(self.names)}
        self.has_subwords = word_joining(self.names) == "sentencepiece"
        if not self.has_subwords and WORD_END not in self.index:
            wanted = f"neither {WORD_END!r} nor any {PIECE_WORD_START!r}, so where do words end?"
            hint = "Fine-tune on what mtssl prepare-text writes"
            raise ConfigError("the dictionary", [f"has {wanted} {hint}"])

    def __len__(self) -> int:
        return len(self.names)

    @property
    def silence(self) -> int:
        """Index of the symbol that may repeat between words; subwords have none, so it is the unused pad."""
        return PAD if self.has_subwords else self.index[WORD_END]

    def text(self, indices: Iterable[int]) -> str:
        """Return the words that symbol indices spell, joined by single spaces; specials are skipped."""
        return self.join(self.names[index] for index in indices)

    def join(self, names: Iterable[str]) -> str:
        """Return the words that symbol names spell: `H I | Y O U |` or `▁HI ▁YO U` gives `HI YOU`."""
        mark = PIECE_WORD_START if self.has_subwords else WORD_END
        spelled = "".join(name for name in names if name not in SPECIALS)
        return " ".join(spelled.replace(mark, " ").split())
