"""The most probable symbol of each frame: no search, no language model."""

from __future__ import annotations

from typing import Any

import numpy as np

from fairseq_mtssl.decoding.vocabulary import BLANK, Vocabulary


def collapse(frames: np.ndarray) -> np.ndarray:
    """(T,) symbols of frames -> (L,): runs of one symbol become one, then blanks go.

    Source: Graves et al. 2006, the map B of section 3.1.
    """
    if not len(frames):
        return frames
    starts = np.concatenate([[True], frames[1:] != frames[:-1]])
    return frames[starts & (frames != BLANK)]


class GreedyDecoder:
    """(T, V) log-probabilities -> words. about: what it is, for records."""

    def __init__(self, symbols: Vocabulary) -> None:
        self._symbols = symbols
        self.about: dict[str, Any] = {"name": "greedy"}

    def __call__(self, log_probs: np.ndarray) -> str:
        return self._symbols.text(collapse(log_probs.argmax(axis=1)).tolist())
