"""Speech with phone timings from espeak-ng, through the shared library in the package `espeakng-loader`.

espeak-ng keeps state between utterances (the phase of its flutter), so that the same words spoken twice
differ. Therefore the library is loaded anew for each utterance, and its speech depends on the utterance
alone, not on earlier utterances or the number of processes.
"""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_mtssl.errors import ConfigError, MissingExtraError

ESPEAK_RATE_HZ = 22050

# constants of espeak-ng's speak_lib.h
_OUTPUT_SYNCHRONOUS = 2
_OPTION_PHONEME_EVENTS = 1
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_POSITION_CHARACTER = 1
_CHARS_UTF8 = 1
_EVENT_END_OF_LIST, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_STRESS_MARKS = "',%="


@dataclass(frozen=True)
class Utterance:
    """A text and how to say it: voice `language+variant`, words per minute, pitch and its range (0-100)."""

    text: str
    voice: str
    rate_wpm: int
    pitch: int
    pitch_range: int = 50


@dataclass(frozen=True)
class Phone:
    """One phone: its ASCII name in espeak without stress marks, or SIL for a pause."""

    start_s: float
    end_s: float
    phone: str
    word: str


@dataclass(frozen=True)
class Spoken:
    """wav: (T,) int16 at ESPEAK_RATE_HZ; phones: without gaps, in order."""

    wav: np.ndarray
    phones: list[Phone]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("message", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


_Seen = tuple[int, int, float, str]  # an event: type, text position, start in s, name of the phone

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@functools.cache
def library_and_data() -> tuple[str, str]:
    """The paths of libespeak-ng and of its data folder.

    Raises: MissingExtraError if espeakng-loader is not installed.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise MissingExtraError("speech synthesis", "espeakng-loader", "demo") from error
    return str(espeakng_loader.get_library_path()), str(espeakng_loader.get_data_path())


def synthesise(utterance: Utterance) -> Spoken:
    """Speak one utterance; the same utterance always gives the same samples.

    Raises: MissingExtraError without espeakng-loader; ConfigError if the voice is unknown or espeak-ng fails.
    """
    _warn_if_stateful()
    return _synthesise(utterance)


def _synthesise(utterance: Utterance) -> Spoken:
    library_path, data_path = library_and_data()
    library = ctypes.CDLL(library_path)
    try:
        rate_hz = library.espeak_Initialize(
            _OUTPUT_SYNCHRONOUS, 0, data_path.encode(), _OPTION_PHONEME_EVENTS
        )
        if rate_hz != ESPEAK_RATE_HZ:
            raise ConfigError("espeak-ng", [f"got a rate of {rate_hz} Hz, wanted {ESPEAK_RATE_HZ} Hz"])
        try:
            return _speak(library, utterance, data_path)
        finally:
            library.espeak_Terminate()
    finally:
        _unload(library._handle)


def _unload(handle: int) -> None:
    free: Any = getattr(_ctypes, "FreeLibrary", None) or _ctypes.dlclose
    free(handle)


@functools.cache
def _warn_if_stateful() -> None:
    """Warn if loading the library anew does not reset it, because another module holds it; once a process."""
    probe = Utterance("state", "en-us+m1", 175, 50)
    if not np.array_equal(_synthesise(probe).wav, _synthesise(probe).wav):
        print(
            "warning: espeak-ng cannot be unloaded in this process; the corpus may differ between machines",
            file=sys.stderr,
        )


def _speak(library: Any, utterance: Utterance, data_path: str) -> Spoken:
    """Synthesise with a freshly initialised library."""
    blocks: list[bytes] = []
    events: list[_Seen] = []

    def collect(wav: Any, samples: int, event: Any) -> int:
        if samples > 0:
            blocks.append(ctypes.string_at(wav, 2 * samples))
        index = 0
        while event[index].type != _EVENT_END_OF_LIST:
            this = event[index]
            name = this.name.decode("ascii", errors="replace") if this.type == _EVENT_PHONEME else ""
            start_s = this.sample / ESPEAK_RATE_HZ
            events.append((this.type, this.text_position, start_s, name))
            index += 1
        return 0

    callback = _Callback(collect)
    library.espeak_SetSynthCallback(callback)
    _set_voice(library, utterance.voice, data_path)
    for parameter, value in (
        (_PARAMETER_RATE, utterance.rate_wpm),
        (_PARAMETER_PITCH, utterance.pitch),
        (_PARAMETER_RANGE, utterance.pitch_range),
    ):
        library.espeak_SetParameter(parameter, value, 0)
    text = utterance.text.encode()
    failed = library.espeak_Synth(text, len(text) + 1, 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None)
    library.espeak_Synchronize()
    wav = np.frombuffer(b"".join(blocks), dtype=np.int16)
    if failed or wav.size == 0:
        raise ConfigError("espeak-ng", [f"code {failed} and {wav.size} samples for {utterance}"])
    return Spoken(wav, _phones(events, utterance.text, wav.size / ESPEAK_RATE_HZ))


def _set_voice(library: Any, voice: str, data_path: str) -> None:
    """Choose a voice. The variant is checked here because espeak-ng silently ignores an unknown one."""
    language, _, variant = voice.partition("+")
    known = not variant or (Path(data_path) / "voices" / "!v" / variant).is_file()
    if not known or library.espeak_SetVoiceByName(voice.encode()) != 0:
        error = f"no voice {voice!r}: wanted language+variant, a file of lang/ and one of voices/!v/"
        raise ConfigError("espeak-ng", [f"{error} in {data_path}"])


def _phones(events: list[_Seen], text: str, end_s: float) -> list[Phone]:
    """The phones of an utterance: each event of a phoneme starts one, which ends where the next starts."""
    words = _words(sorted({position for kind, position, _, _ in events if kind == _EVENT_WORD}), text)
    starts = [event for event in events if event[0] == _EVENT_PHONEME]
    ends = [start_s for _, _, start_s, _ in starts[1:]] + [end_s]
    phones: list[Phone] = []
    for (_, position, start_s, name), stop_s in zip(starts, ends, strict=True):
        if stop_s <= start_s:
            continue
        if name.startswith("_"):
            phones.append(Phone(start_s, stop_s, "SIL", "<sil>"))
            continue
        phones.append(Phone(start_s, stop_s, name.lstrip(_STRESS_MARKS), words.get(position, "")))
    return phones


def _words(positions: list[int], text: str) -> dict[int, str]:
    """The words from each position (from 1) to the next; espeak-ng takes "of a" for one word."""
    ends = [position - 1 for position in positions[1:]] + [len(text)]
    return {start: text[start - 1 : end].strip() for start, end in zip(positions, ends, strict=True)}
