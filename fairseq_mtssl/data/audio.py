"""Reads audio files as mono float waveforms at one sample rate, and writes them as wav."""

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
_DROP_HINT = "Drop the file from the manifest."


def read_audio(
    path: str | Path,
    *,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    max_samples: int | None = None,
    resample: bool = False,
) -> np.ndarray:
    """Read an audio file as mono.

    path: a file that libsndfile reads, or `archive.zip:offset:bytes` for an uncompressed member of a zip.
    max_samples: keeps this many samples from the start; without resampling, no more are read.
    resample: resamples a file of another rate to sample_rate_hz (soxr, high quality) instead of refusing it.
    Returns: (T,) float32, the mean of the channels, in [-1, 1] for integer formats. T is the number of
    samples in the file, even if its header claims another number.
    Raises: AudioError if the file is absent, unreadable, empty, not finite or at another rate.
    """
    if max_samples is not None and max_samples < 1:
        raise AudioError(path, f"max_samples is {max_samples}", "Give a positive number of samples.")
    wav, rate_hz = read_native(path, None if resample else sample_rate_hz, max_samples)
    if rate_hz != sample_rate_hz:
        if wav.size == max_samples:  # the file was cut, but the resampling filter needs samples past the cut
            wav, _ = read_native(path)
        wav = resample_wav(wav, rate_hz, sample_rate_hz)[:max_samples]
        if wav.size == 0:
            raise AudioError(path, f"too short to resample from {rate_hz} Hz", _DROP_HINT)
    return wav


def read_native(
    path: str | Path, wanted_rate_hz: int | None = None, max_samples: int | None = None
) -> tuple[np.ndarray, int]:
    """Read an audio file as mono at its own sample rate.

    wanted_rate_hz: if given, any other rate is refused before reading.
    max_samples: if given, no more samples than this are read.
    Returns: (T,) float32 and the rate in Hz. Raises: AudioError as `read_audio` does.
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
            repaired = _unfinished_wav(path, file)
            if repaired is None:
                wav = _read_blocks(file, max_samples)
        if repaired is not None:
            with soundfile.SoundFile(repaired) as file:
                wav = _read_blocks(file, max_samples)
    except (OSError, RuntimeError, TypeError) as error:  # libsndfile's errors are RuntimeErrors
        raise AudioError(path, f"cannot be read as audio: {error}", _unreadable_hint(path)) from error
    if wav.size == 0:
        raise AudioError(path, "holds no samples", _DROP_HINT)
    if not np.isfinite(wav).all():
        raise AudioError(path, "holds samples that are not finite", f"Convert it again. {_DROP_HINT}")
    return wav, rate_hz


def read_header(path: str | Path) -> tuple[int, int]:
    """Return the number of samples and the rate in Hz that the file's header claims, without decoding.

    Raises: AudioError if the file is absent, is not audio or claims no samples.
    """
    try:
        info = soundfile.info(_open_source(path))
    except (OSError, RuntimeError, TypeError) as error:
        raise AudioError(path, f"cannot be read as audio: {error}", _unreadable_hint(path)) from error
    if info.frames < 1:
        raise AudioError(path, "holds no samples", _DROP_HINT)
    return int(info.frames), int(info.samplerate)


def _open_source(path: str | Path) -> str | io.BytesIO:
    """Return what libsndfile opens: the path, or the bytes of a member of a zip archive."""
    match = _ZIP_SLICE.match(str(path))
    if match is None:
        return str(path)
    with open(match["archive"], "rb") as archive:
        archive.seek(int(match["offset"]))
        data = archive.read(int(match["bytes"]))
    if len(data) < int(match["bytes"]):
        raise OSError(f"the archive ends {int(match['bytes']) - len(data)} bytes before the member does")
    return io.BytesIO(data)


def _unreadable_hint(path: str | Path) -> str:
    if _ZIP_SLICE.match(str(path)):
        return "Check that the archive is stored uncompressed, and make the manifest again."
    if not Path(path).is_file():
        return "Check the path, and the audio root on the first line of a manifest."
    return "Convert it to wav or flac, or drop it from the manifest."


def _unfinished_wav(path: str | Path, file: soundfile.SoundFile) -> io.BytesIO | None:
    """Correct the header of a wav that claims fewer samples than it has, as after an interrupted recording.

    libsndfile reads to the end of a file whose header claims too many samples, but stops early if the header
    claims too few.
    Returns: the whole file with a corrected header, or None if the header shows no such error.
    """
    width = _PCM_BYTES.get(file.subtype)
    if not file.format.startswith("WAV") or width is None or not os.path.isfile(path):
        return None
    claimed = file.frames * file.channels * width
    if os.path.getsize(path) - claimed <= 128:  # no more than the header itself
        return None
    raw = Path(path).read_bytes()
    at = 12
    while raw[:4] == b"RIFF" and at + 8 <= len(raw):
        size = int.from_bytes(raw[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        if raw[at : at + 4] == b"data":
            tail = raw[end:]
            # what follows may be another chunk, which begins with four characters, or padding
            if len(tail) < 8 or re.match(rb"[A-Za-z0-9_ ]{4}", tail) or not any(tail):
                return None
            return io.BytesIO(raw[: at + 4] + (len(raw) - at - 8).to_bytes(4, "little") + raw[at + 8 :])
        at = end
    return None


def _read_blocks(file: soundfile.SoundFile, max_samples: int | None) -> np.ndarray:
    """Return (T,) float32, the mean of the channels; reads in blocks, since a header may claim any length."""
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
    """Resample (T,) float32 at from_hz to (round(T * to_hz / from_hz),) float32 at to_hz with soxr."""
    if from_hz == to_hz:
        return wav
    import soxr

    return np.asarray(soxr.resample(wav, from_hz, to_hz, quality="HQ"), dtype=np.float32)


def write_wav(path: str | Path, wav: np.ndarray, sample_rate_hz: int = SAMPLE_RATE_HZ) -> None:
    """Write (T,) float in [-1, 1] as mono 16-bit wav; values beyond that range are clipped."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), to_pcm16(wav), sample_rate_hz, subtype="PCM_16", format="WAV")


def to_pcm16(wav: np.ndarray) -> np.ndarray:
    """Convert (T,) float in [-1, 1] to (T,) int16, rounded to the nearest integer and clipped."""
    return np.clip(np.rint(wav.astype(np.float64) * 32768.0), -32768, 32767).astype(np.int16)


def normalise(wav: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Normalise a waveform to zero mean and unit variance, as fairseq's `normalize: true` does.

    wav: (T,) float. Returns: (T,) float32; a constant waveform, such as silence, becomes zeros.
    """
    if wav.size == 0:
        return wav.astype(np.float32)
    centred = wav.astype(np.float64)
    centred -= centred.mean()
    return np.asarray(centred / np.sqrt(np.square(centred).mean() + eps), dtype=np.float32)
