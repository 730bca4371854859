"""Beam search with flashlight-text, against a search of all paths of small inputs."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from oracles.ctc_oracle import best_sentence

from fairseq_mtssl.decoding.greedy import GreedyDecoder
from fairseq_mtssl.decoding.lexicon_beam import BeamOptions, LexiconBeamDecoder, arpa_words
from fairseq_mtssl.decoding.vocabulary import Vocabulary
from fairseq_mtssl.errors import ConfigError, MissingExtraError

pytest.importorskip("flashlight.lib.text.decoder")

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
LETTERS = Vocabulary([*SPECIALS, "|", "A", "B"])
LEXICON = {"A": [[5, 4]], "B": [[6, 4]], "AB": [[5, 6, 4]]}
ARPA = """\\data\\
ngram 1=6
ngram 2=4

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.3
-0.9\t</s>
-0.9\tA\t-0.2
-0.6\tB\t-0.1
-0.7\tAB\t-0.4

\\2-grams:
-0.2\t<s> B
-0.3\tA B
-0.4\tB </s>
-0.5\tB B

\\end\\
"""
UNIGRAM = {"</s>": -0.9, "A": -0.9, "B": -0.6, "AB": -0.7}
BACKOFF = {"<s>": -0.3, "A": -0.2, "B": -0.1, "AB": -0.4}
BIGRAM = {("<s>", "B"): -0.2, ("A", "B"): -0.3, ("B", "</s>"): -0.4, ("B", "B"): -0.5}


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    return path


def log10_of(sentence: tuple[str, ...]) -> float:
    """The language model's score by hand, including the end of the sentence."""
    pairs = itertools.pairwise(("<s>", *sentence, "</s>"))
    return sum(BIGRAM.get(pair, BACKOFF[pair[0]] + UNIGRAM[pair[1]]) for pair in pairs)


def probabilities(frames: list[dict[int, float]], symbols: int = 7) -> np.ndarray:
    """Log-probabilities (T, V) of frames given as symbol -> probability; other symbols get nearly 0."""
    table = np.full((len(frames), symbols), 1e-6)
    for row, frame in zip(table, frames, strict=True):
        for symbol, probability in frame.items():
            row[symbol] = probability
    return np.log(table)


def test_the_language_model_decides_what_the_audio_leaves_open(arpa: Path) -> None:
    # the audio slightly favours A over B, the language model has B after <s> and before </s>
    emissions = probabilities([{5: 0.52, 6: 0.48}, {4: 0.99}])
    assert GreedyDecoder(LETTERS)(emissions) == "A"
    assert LexiconBeamDecoder(LETTERS, LEXICON)(emissions) == "A"
    assert LexiconBeamDecoder(LETTERS, LEXICON, arpa)(emissions) == "B"
    assert LexiconBeamDecoder(LETTERS, LEXICON, arpa, BeamOptions(lm_weight=0.0))(emissions) == "A"
    # with clear audio A wins against the language model
    assert LexiconBeamDecoder(LETTERS, LEXICON, arpa)(probabilities([{5: 0.999}, {4: 0.99}])) == "A"


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("lm_weight", [0.0, 1.5])
def test_the_best_of_all_paths_is_found(arpa: Path, seed: int, lm_weight: float) -> None:
    used = [0, 4, 5, 6]
    logits = 2 * np.random.default_rng(seed).normal(size=(5, 4))
    few = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    whole = np.full((5, 7), -50.0)
    whole[:, used] = few
    word_score = -0.5
    sentences = [words for count in range(3) for words in itertools.product(LEXICON, repeat=count)]
    score = {words: lm_weight * log10_of(words) + word_score * len(words) for words in sentences}

    def read(said: list[int]) -> tuple[str, ...] | None:
        names = "".join(LETTERS.names[used[symbol]] for symbol in said)
        return tuple(names.split("|")[:-1]) if not names or names.endswith("|") else None

    def words_of(said: list[int]) -> tuple[str, ...] | None:
        words = read(said)  # word ends may repeat or come first
        return None if words is None else tuple(word for word in words if word)

    expected = best_sentence(few, words_of, score)
    options = BeamOptions(beam=500, lm_weight=lm_weight, word_score=word_score)
    assert LexiconBeamDecoder(LETTERS, LEXICON, arpa, options)(whole) == " ".join(expected)


def test_only_words_of_the_lexicon_are_returned() -> None:
    emissions = probabilities([{6: 0.9}, {5: 0.9, 6: 0.05}, {4: 0.9}])  # "BA" is not in the lexicon
    assert GreedyDecoder(LETTERS)(emissions) == "BA"
    assert LexiconBeamDecoder(LETTERS, LEXICON)(emissions) in ("B", "A", "AB")


def test_every_word_costs_its_score() -> None:
    # "AB |", or "A | B |" if the uncertain frame is a word end
    emissions = probabilities([{5: 0.99}, {4: 0.6, 0: 0.4}, {6: 0.99}, {4: 0.99}])
    assert LexiconBeamDecoder(LETTERS, LEXICON, None, BeamOptions(word_score=0.0))(emissions) == "A B"
    assert LexiconBeamDecoder(LETTERS, LEXICON, None, BeamOptions(word_score=-1.0))(emissions) == "AB"


def test_a_subword_at_the_end_of_a_word_may_last_several_frames() -> None:
    pieces = Vocabulary([*SPECIALS, "▁A", "B", "▁C"])
    decoder = LexiconBeamDecoder(pieces, {"AB": [[4, 5]], "C": [[6]]})
    assert decoder(probabilities([{4: 0.99}, {5: 0.99}, {5: 0.99}, {5: 0.99}, {6: 0.99}])) == "AB C"
    assert decoder(probabilities([{6: 0.99}, {0: 0.99}, {6: 0.99}])) == "C C"
    # the pad column stands in for a silence symbol, which subwords lack, and is never decoded
    assert decoder(probabilities([{6: 0.9}, {1: 0.9, 6: 0.04, 0: 0.05}])) == "C"


def test_about_describes_the_decoder(arpa: Path) -> None:
    about = LexiconBeamDecoder(LETTERS, LEXICON, arpa, BeamOptions(beam=7)).about
    assert about == {
        "name": "lexicon_beam",
        "beam": 7,
        "beam_threshold": 50.0,
        "lm_weight": 2.0,
        "word_score": -1.0,
        "lm": str(arpa),
        "lexicon_words": 3,
    }


def test_a_language_model_of_other_words_is_refused(tmp_path: Path, arpa: Path) -> None:
    assert arpa_words(arpa) == {"<unk>", "<s>", "</s>", "A", "B", "AB"}
    arpa.write_text(ARPA.replace("A", "a").replace("B", "b"))
    with pytest.raises(ConfigError, match="knows none of the lexicon's 3 words.*upper and lower case"):
        LexiconBeamDecoder(LETTERS, LEXICON, arpa)


def test_a_file_that_is_no_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lm.bin").write_bytes(b"\x00\xff no model")
    for name in ("lm.bin", "none.arpa"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read"):
            LexiconBeamDecoder(LETTERS, LEXICON, tmp_path / name)
    assert arpa_words(tmp_path / "lm.bin") is None


def test_without_flashlight_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flashlight.lib.text.decoder", None)  # importing it fails
    with pytest.raises(MissingExtraError, match=r"fairseq-mtssl\[decode\]"):
        LexiconBeamDecoder(LETTERS, LEXICON)
