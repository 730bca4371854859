"""Audio files to mono float waveforms at one rate."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import numpy as np
import soundfile

from fairseq_mtssl.errors import AudioError
from fairseq_mtssl.frames import SAMPLE_RATE_HZ

_ZIP_SLICE = re.compile(r"^(?P<archive>.+\.zip):(?P<offset>\d+):(?P<bytes>\d+)$")
_BLOCK_SAMPLES = 1 << 18
_PCM_BYTES = {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_DROP = "Drop the file from the manifest."


def read_audio(
    path: str | Path,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    max_samples: int | None = None,
    resample: bool = False,
) -> np.ndarray:
    """Read an audio file as mono.

    path: a file that libsndfile reads, or `archive.zip:offset:bytes`, a stored member of a zip archive.
    max_samples: keep this many samples from the start; without resampling, no more are read.
    resample: bring another rate to sample_rate_hz (soxr, high quality) instead of refusing it.
    Returns: (T,) float32 in [-1, 1] for integer formats, the mean of the channels. What the file holds
    counts, not what its header claims.
    Raises: AudioError if the file is absent, unreadable, empty, not finite or at another rate.
    """
    if max_samples is not None and max_samples < 1:
        raise AudioError(path, f"max_samples is {max_samples}", "Give a positive number of samples.")
    wav, rate_hz = read_native(path, None if resample else sample_rate_hz, max_samples)
    if rate_hz != sample_rate_hz:
        if wav.size == max_samples:  # cut: the filter of the resampler looks past the cut
            wav, _ = read_native(path)
        wav = resample_wav(wav, rate_hz, sample_rate_hz)[:max_samples]
        if wav.size == 0:
            raise AudioError(path, f"too short to resample from {rate_hz} Hz", _DROP)
    return wav


def read_native(
    path: str | Path, wanted_rate_hz: int | None = None, max_samples: int | None = None
) -> tuple[np.ndarray, int]:
    """Read an audio file as mono at its own rate.

    wanted_rate_hz: refuse any other rate before reading. max_samples: read no more than these.
    Returns: (T,) float32 and the rate in Hz. Raises: AudioError as `read_audio`.
    """
    try:
        with soundfile.SoundFile(_open_source(path)) as file:
            rate_hz = int(file.samplerate)
            if wanted_rate_hz not in (None, rate_hz):
                raise AudioError(
                    path,
                    f"sampled at {rate_hz} Hz, wanted {wanted_rate_hz} Hz",
                    "Resample the file, or ask for it with resample=True (mtssl prepare pairs: --resample).",
                )
            whole = _unfinished_wav(path, file)
            if whole is None:
                wav = _read_blocks(file, max_samples)
        if whole is not None:
            with soundfile.SoundFile(whole) as file:
                wav = _read_blocks(file, max_samples)
    except (OSError, RuntimeError, TypeError) as error:  # libsndfile's errors are RuntimeErrors
        raise AudioError(path, f"cannot be read as audio: {error}", _unreadable_cure(path)) from error
    if wav.size == 0:
        raise AudioError(path, "holds no samples", _DROP)
    if not np.isfinite(wav).all():
        raise AudioError(path, "holds samples that are not finite", f"Convert it again. {_DROP}")
    return wav, rate_hz


def read_header(path: str | Path) -> tuple[int, int]:
    """Samples and rate in Hz as the file's header claims them, without decoding.

    Raises: AudioError if there is no such file, it is no audio or claims no samples.
    """
    try:
        info = soundfile.info(_open_source(path))
    except (OSError, RuntimeError, TypeError) as error:
        raise AudioError(path, f"cannot be read as audio: {error}", _unreadable_cure(path)) from error
    if info.frames < 1:
        raise AudioError(path, "holds no samples", _DROP)
    return int(info.frames), int(info.samplerate)


def _open_source(path: str | Path) -> str | io.BytesIO:
    """A path for libsndfile, or the bytes of a zip slice."""
    match = _ZIP_SLICE.match(str(path))
    if match is None:
        return str(path)
    with open(match["archive"], "rb") as archive:
        archive.seek(int(match["offset"]))
        data = archive.read(int(match["bytes"]))
    if len(data) < int(match["bytes"]):
        raise OSError(f"the archive ends {int(match['bytes']) - len(data)} bytes before the slice does")
    return io.BytesIO(data)


def _unreadable_cure(path: str | Path) -> str:
    match = _ZIP_SLICE.match(str(path))
    if match is not None:
        return "Check that the archive is stored uncompressed, and make the manifest again."
    if not Path(path).is_file():
        return "Check the path, and the audio root on the first line of a manifest."
    return "Convert it to wav or flac, or drop it from the manifest."


def _unfinished_wav(path: str | Path, file: soundfile.SoundFile) -> io.BytesIO | None:
    """A wav whose header claims fewer samples than follow (a recording cut off), with the header put right.

    libsndfile reads to the end if the header claims too many, but stops early if it claims too few.
    Returns: None if the header is right as far as can be told.
    """
    width = _PCM_BYTES.get(file.subtype)
    if not file.format.startswith("WAV") or width is None or not os.path.isfile(path):
        return None
    claimed = file.frames * file.channels * width
    if os.path.getsize(path) - claimed <= 128:  # the header, and no room for lost samples
        return None
    raw = Path(path).read_bytes()
    at = 12
    while raw[:4] == b"RIFF" and at + 8 <= len(raw):
        size = int.from_bytes(raw[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        if raw[at : at + 4] == b"data":
            tail = raw[end:]
            if len(tail) < 8 or re.match(rb"[A-Za-z0-9_ ]{4}", tail) or not any(tail):  # a chunk, or padding
                return None
            return io.BytesIO(raw[: at + 4] + (len(raw) - at - 8).to_bytes(4, "little") + raw[at + 8 :])
        at = end
    return None


def _read_blocks(file: soundfile.SoundFile, max_samples: int | None) -> np.ndarray:
    """(T,) float32, the mean of the channels; in blocks, since a header may claim any length."""
    blocks: list[np.ndarray] = []
    wanted = max_samples if max_samples is not None else -1
    while wanted != 0:
        length = _BLOCK_SAMPLES if wanted < 0 else min(wanted, _BLOCK_SAMPLES)
        block = file.read(length, dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        # (t, channels) -> (t,)
        blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32))
        wanted -= len(block) if wanted > 0 else 0
    if not blocks:
        return np.zeros(0, dtype=np.float32)
    return np.ascontiguousarray(blocks[0]) if len(blocks) == 1 else np.concatenate(blocks)


def resample_wav(wav: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """(T,) float32 at from_hz -> (round(T * to_hz / from_hz),) float32 at to_hz, by soxr."""
    if from_hz == to_hz:
        return wav
    import soxr

    return np.asarray(soxr.resample(wav, from_hz, to_hz, quality="HQ"), dtype=np.float32)


def write_wav(path: str | Path, wav: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write (T,) float in [-1, 1] as mono 16-bit wav; louder samples are clipped."""
    pcm = to_pcm16(wav)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), pcm, sample_rate_hz, subtype="PCM_16", format="WAV")


def to_pcm16(wav: np.ndarray) -> np.ndarray:
    """(T,) float in [-1, 1] -> (T,) int16, rounded to the nearest and clipped."""
    return np.clip(np.rint(wav.astype(np.float64) * 32768.0), -32768, 32767).astype(np.int16)


def normalise(wav: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Zero mean and unit variance over the samples given, as fairseq's `normalize: true` does.

    wav: (T,) float. Returns: (T,) float32; silence, or any constant, becomes zeros.
    """
    if wav.size == 0:
        return wav.astype(np.float32)
    centred = wav.astype(np.float64)
    centred -= centred.mean()
    return np.asarray(centred / np.sqrt(np.square(centred).mean() + eps), dtype=np.float32)
