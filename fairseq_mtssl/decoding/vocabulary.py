"""The symbols a CTC model tells apart, and how words are put together from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fairseq_mtssl.data.tokenizers import PIECE_WORD_START, SPECIALS, WORD_END, word_joining
from fairseq_mtssl.errors import ConfigError

BLANK = SPECIALS.index("<s>")
PAD = SPECIALS.index("<pad>")


class Vocabulary:
    """names: of a dictionary, in its order; pieces: whether they are SentencePiece's, else letters.

    Raises: ConfigError if neither `|` nor `▁` says where words begin or end.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.index = {name: index for index, name in enumerate(self.names)}
        self.pieces = word_joining(self.names) == "sentencepiece"
        if not self.pieces and WORD_END not in self.index:
            wanted = f"neither {WORD_END!r} nor any {PIECE_WORD_START!r}, so where do words end?"
            hint = "Fine-tune on what mtssl prepare-text writes"
            raise ConfigError("the dictionary", [f"has {wanted} {hint}"])

    def __len__(self) -> int:
        return len(self.names)

    @property
    def silence(self) -> int:
        """What may go on between words besides the blank; pieces have no such symbol, so one never said."""
        return PAD if self.pieces else self.index[WORD_END]

    def text(self, indices: Iterable[int]) -> str:
        """The words that symbols spell, single spaces between them; specials say nothing."""
        return self.join(self.names[index] for index in indices)

    def join(self, names: Iterable[str]) -> str:
        """As `text`, of the symbols' names: `H I | Y O U |` or `▁HI ▁YO U` -> `HI YOU`."""
        mark = PIECE_WORD_START if self.pieces else WORD_END
        spelled = "".join(name for name in names if name not in SPECIALS)
        return " ".join(spelled.replace(mark, " ").split())
