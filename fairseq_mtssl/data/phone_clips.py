"""The dataset of the phone probe: utterances with their phones, as waveforms or as cached features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_mtssl.data.audio import read_audio
from fairseq_mtssl.data.clips import ClipDataset, ClipOptions
from fairseq_mtssl.data.manifest import AudioManifest
from fairseq_mtssl.data.phones import phones_of_frames
from fairseq_mtssl.frames import UNLABELLED, frame_count


class PhoneDataset(ClipDataset):
    """Whole utterances with their phones. Samples hold waveforms until `keep` is called, and then features.

    targets: per utterance (T,) one phone per 20 ms or, if `sequences`, (L,) the phones in spoken order.
    hop_samples, window_samples: of a frame of the features.
    """

    def __init__(
        self,
        manifest: AudioManifest,
        targets: Sequence[np.ndarray],
        options: ClipOptions,
        *,
        sequences: bool,
        hop_samples: int,
        window_samples: int,
    ) -> None:
        super().__init__(manifest, options)
        self.targets = list(targets)
        self.sequences = sequences
        self.hop_samples = hop_samples
        self.window_samples = window_samples
        self.features: list[np.ndarray] | None = None

    def frames_of(self, samples: Any) -> Any:
        """Return the number of frames of `samples` samples, an int or a tensor."""
        return frame_count(samples, self.hop_samples, self.window_samples)

    @property
    def total_frames(self) -> int:
        return int(self.frames_of(torch.from_numpy(self.audio.sizes)).sum())

    def caption(self, index: int) -> Tensor:
        """Return (T,) float: the row's waveform, normalised as in the encoder's training."""
        wav = read_audio(self.audio.audio_path(index), resample=self.options.resample)
        return torch.from_numpy(self._as_trained(wav))

    def waveform(self, index: int) -> np.ndarray:
        """Return `caption` as an array; in training, an unreadable file is logged, counted and gives (0,)."""
        clip = self._or_skip(lambda: self.caption(index))
        return np.zeros(0, dtype=np.float32) if clip is None else clip.numpy()

    def keep(self, features: Iterable[np.ndarray]) -> None:
        """Keep the features of all rows, (T, L, D) per row, in memory; from now on no audio is read."""
        self.features = list(features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return {"id", "target", and "features" (T, L, D) or "clip" (S,)}; no "target" if it is skipped."""
        index = int(index)
        if self.features is not None:
            frames = torch.from_numpy(self.features[index])
            sample, count = {"id": index, "features": frames}, len(frames)
        else:
            clip = torch.from_numpy(self.waveform(index))
            sample, count = {"id": index, "clip": clip}, int(self.frames_of(len(clip)))
        if count:
            phones = self.targets[index]
            phones = phones if self.sequences else phones_of_frames(phones, count, self.hop_samples)
            sample["target"] = torch.from_numpy(phones)
        return sample

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return {"id": (B,), "target": (B, T) or (B, L) long padded with UNLABELLED, "target_lengths" (B,),
        "net_input": features (B, T, L, D) and lengths (B,), or clips}, or {} if every file failed.
        """
        samples = [sample for sample in samples if "target" in sample]
        if not samples:
            return {}
        targets = [sample["target"] for sample in samples]
        if self.features is not None:
            frames = [sample["features"] for sample in samples]
            lengths = torch.tensor([len(row) for row in frames])
            inputs: dict[str, Any] = {"features": pad_sequence(frames, batch_first=True), "lengths": lengths}
        else:
            inputs = {"clips": [sample["clip"] for sample in samples]}
        return {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "net_input": inputs,
            "target": pad_sequence(targets, batch_first=True, padding_value=UNLABELLED),
            "target_lengths": torch.tensor([len(target) for target in targets]),
            "ntokens": sum(int((target != UNLABELLED).sum()) for target in targets),
            "nsentences": len(samples),
        }
