"""Beam search over the words of a lexicon with flashlight-text, with or without an n-gram language model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_mtssl.decoding.vocabulary import BLANK, PAD, Vocabulary
from fairseq_mtssl.errors import ConfigError, import_extra

UNKNOWN = "<unk>"
IMPOSSIBLE = -1e9  # log-probability; finite, so that sums can still be compared


@dataclass(frozen=True)
class BeamOptions:
    """Options of the search; the weights have the scale of fairseq and of the wav2vec 2.0 paper.

    beam: number of hypotheses kept per frame; beam_threshold: hypotheses this much worse than the best, in
    nats, are dropped; lm_weight: multiplies the language model's log10 probability; word_score: added to the
    score for every word.
    """

    beam: int = 50
    beam_threshold: float = 50.0
    lm_weight: float = 2.0
    word_score: float = -1.0


class LexiconBeamDecoder:
    """Turns log-probabilities (T, V) into the best-scoring words of the lexicon.

    lexicon: the spellings of each word, from `read_lexicon`.
    lm: an ARPA file or a KenLM binary; None makes all words equally likely.
    about: a description of the decoder for result files.
    Raises: ConfigError for a language model that cannot be read or knows none of the words,
    MissingExtraError without flashlight-text.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        lexicon: Mapping[str, Sequence[Sequence[int]]],
        lm: str | Path | None = None,
        options: BeamOptions | None = None,
    ) -> None:
        package = ("decoding with a lexicon", "flashlight-text", "decode")
        decoder = import_extra("flashlight.lib.text.decoder", *package)
        options = options or BeamOptions()
        self._vocabulary = vocabulary
        self._words = list(lexicon)
        self.about: dict[str, Any] = {
            "name": "lexicon_beam",
            **asdict(options),
            "lm": None if lm is None else str(lm),
            "lexicon_words": len(self._words),
        }
        self._lm = decoder.ZeroLM() if lm is None else _open_lm(Path(lm), self._words)
        self._trie = self._build_trie(decoder, lexicon)
        self._decoder = decoder.LexiconDecoder(
            decoder.LexiconDecoderOptions(
                beam_size=options.beam,
                beam_size_token=len(vocabulary),
                beam_threshold=options.beam_threshold,
                lm_weight=options.lm_weight,
                word_score=options.word_score,
                unk_score=-math.inf,
                sil_score=0.0,
                log_add=False,
                criterion_type=decoder.CriterionType.CTC,
            ),
            self._trie,
            self._lm,
            vocabulary.silence,
            BLANK,
            len(self._words),
            [],
            False,
        )

    def _build_trie(self, decoder: Any, lexicon: Mapping[str, Sequence[Sequence[int]]]) -> Any:
        trie = decoder.Trie(len(self._vocabulary), self._vocabulary.silence)
        start = self._lm.start(False)
        for label, word in enumerate(self._words):
            _, score = self._lm.score(start, label)
            for spelling in lexicon[word]:
                trie.insert(list(spelling), label, score)
                # flashlight ends a word at the first frame of its last symbol. So that a final subword may
                # last for several frames, a spelling that repeats it is added; not if the word is that
                # subword alone, since the repetition would be two words.
                if self._vocabulary.has_subwords and len(spelling) > 1:
                    trie.insert([*spelling, spelling[-1]], label, score)
        trie.smear(decoder.SmearingMode.MAX)
        return trie

    def __call__(self, log_probs: np.ndarray) -> str:
        emissions = np.array(log_probs, dtype=np.float32, order="C")
        if self._vocabulary.has_subwords:
            emissions[:, PAD] = IMPOSSIBLE  # it stands in for a silence symbol, which subwords lack
        # flashlight reads the (T, V) array through its pointer
        hypotheses = self._decoder.decode(emissions.ctypes.data, *emissions.shape)
        return " ".join(self._words[word] for word in hypotheses[0].words if word >= 0) if hypotheses else ""


def _open_lm(path: Path, words: Sequence[str]) -> Any:
    """Open a language model with KenLM; it numbers the words as `words` does, the unknown word comes last."""
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    known = arpa_words(path)
    if known is not None and known.isdisjoint(words):
        examples = ", ".join(sorted(known - {"<s>", "</s>", UNKNOWN})[:3])
        got = f"{path} knows none of the lexicon's {len(words)} words; it has words such as {examples}"
        raise ConfigError("--lm", [f"{got}. Do upper and lower case differ?"])
    try:
        return KenLM(str(path), Dictionary([*words, UNKNOWN]))
    except RuntimeError as error:
        why = str(error).strip().split("\n")[-1]
        raise ConfigError(
            "--lm", [f"{path} cannot be read ({why}); give an ARPA file or a KenLM binary"]
        ) from error


def arpa_words(path: Path) -> set[str] | None:
    """Return the words of an ARPA file's 1-grams; None if the file is not ARPA text, as a KenLM binary."""
    words: set[str] = set()
    inside = False
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file):
                if line.startswith("\\"):
                    if inside:
                        return words
                    inside = line.strip() == "\\1-grams:"
                elif inside and len(fields := line.split()) > 1:
                    words.add(fields[1])
                elif number > 100 and not inside:
                    return None
    except (OSError, UnicodeDecodeError):
        return None
    return words or None
