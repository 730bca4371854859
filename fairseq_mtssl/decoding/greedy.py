"""Greedy CTC decoding: the most probable symbol of each frame, without search or language model."""

from __future__ import annotations

from typing import Any

import numpy as np

from fairseq_mtssl.decoding.vocabulary import BLANK, Vocabulary


def collapse(frames: np.ndarray) -> np.ndarray:
    """Collapse the symbols of frames, (T,), to (L,): merge runs of one symbol, then remove blanks.

    Source: Graves et al. 2006, section 3.1, the map B.
    """
    if not len(frames):
        return frames
    starts = np.concatenate([[True], frames[1:] != frames[:-1]])
    return frames[starts & (frames != BLANK)]


class GreedyDecoder:
    """Turns log-probabilities (T, V) into words. about: a description of the decoder for result files."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.about: dict[str, Any] = {"name": "greedy"}

    def __call__(self, log_probs: np.ndarray) -> str:
        return self._vocabulary.text(collapse(log_probs.argmax(axis=1)).tolist())
