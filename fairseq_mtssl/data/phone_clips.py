"""Utterances with their phones, their frozen features kept in memory once they have been computed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairseq_mtssl.data.audio import read_audio
from fairseq_mtssl.data.clips import ClipDataset
from fairseq_mtssl.data.manifest import AudioManifest
from fairseq_mtssl.data.phones import phones_of_frames
from fairseq_mtssl.frames import UNLABELLED, frame_count


class PhoneDataset(ClipDataset):
    """Whole utterances; targets: (T,) the phone of every 20 ms or, with sequences, (L,) the phones said.

    hop_samples, window_samples: of the features' frames. options: of ClipDataset. Before `keep`, samples hold
    waveforms, afterwards features.
    """

    def __init__(
        self,
        manifest: AudioManifest,
        targets: Sequence[np.ndarray],
        *,
        sequences: bool,
        hop_samples: int,
        window_samples: int,
        **options: Any,
    ) -> None:
        super().__init__(manifest, max_samples=int(manifest.sizes.max()), **options)
        self.targets = list(targets)
        self.sequences = sequences
        self.hop_samples = hop_samples
        self.window_samples = window_samples
        self.features: list[np.ndarray] | None = None

    def frames_of(self, samples: Any) -> Any:
        """Frames of so many samples, an int or a tensor."""
        return frame_count(samples, self.hop_samples, self.window_samples)

    @property
    def total_frames(self) -> int:
        return int(self.frames_of(torch.from_numpy(self.audio.sizes)).sum())

    def caption(self, index: int) -> Tensor:
        """(T,) float: the row's waveform, as the encoder was trained on them."""
        wav = read_audio(self.audio.audio_path(index), resample=self.resample)
        return torch.from_numpy(self._as_trained(wav))

    def waveform(self, index: int) -> np.ndarray:
        """`caption` as an array; in training, of a file that cannot be read, nothing, named and counted."""
        clip = self._or_skip(lambda: self.caption(index))
        return np.zeros(0, dtype=np.float32) if clip is None else clip.numpy()

    def keep(self, features: Iterable[np.ndarray]) -> None:
        """Take the features of all rows, (T, L, D) each, in their order; no audio is read from now on."""
        self.features = list(features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"id", "target", and "features" (T, L, D) or "clip" (S,)}; no target for what was skipped."""
        index = int(index)
        if self.features is not None:
            frames = torch.from_numpy(self.features[index])
            sample, count = {"id": index, "features": frames}, len(frames)
        else:
            clip = torch.from_numpy(self.waveform(index))
            sample, count = {"id": index, "clip": clip}, int(self.frames_of(len(clip)))
        if count:
            found = self.targets[index]
            found = found if self.sequences else phones_of_frames(found, count, self.hop_samples)
            sample["target"] = torch.from_numpy(found)
        return sample

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """{"id": (B,), "target": (B, T) or (B, L) long padded with UNLABELLED, "target_lengths" (B,), and
        "net_input" with features (B, T, L, D) and lengths (B,), or clips}; empty if every file failed.
        """
        samples = [sample for sample in samples if "target" in sample]
        if not samples:
            return {}
        targets = [sample["target"] for sample in samples]
        if self.features is not None:
            frames = [sample["features"] for sample in samples]
            lengths = torch.tensor([len(each) for each in frames])
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
