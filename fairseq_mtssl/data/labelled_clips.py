"""The dataset of crops of utterances with the cluster labels of the same frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, read_audio
from fairseq_mtssl.data.clip_labels import FrameLabels, RowLabels
from fairseq_mtssl.data.clips import ClipDataset, ClipOptions
from fairseq_mtssl.data.manifest import AudioManifest
from fairseq_mtssl.errors import AudioError
from fairseq_mtssl.frames import ConvLayer, hop_samples, min_samples

LENGTH_BIN_SAMPLES = SAMPLE_RATE_HZ // 4


class LabelledClipDataset(ClipDataset):
    """Crops of up to max_samples with one label per frame and label set.

    In training a crop begins at a random multiple of the encoder's hop, drawn from (seed, epoch, row), and
    its labels begin at the same frame; otherwise both begin at 0. The waveform is normalised over the crop,
    unless `normalised` is False.
    In training, utterances of similar length (within 0.25 s) follow one another, in an order drawn anew for
    each epoch, so that batches hold little padding. With buckets (see ClipDataset), utterances of a bucket
    follow one another, so that all but its last batch of max_tokens have the same number of rows.

    rows: the rows of the manifest to use. labels: the label sets of the whole manifest, possibly none.
    conv_layers: of the encoder. options: speed_perturb, noise_snr_db and length_pool have no effect here.
    """

    def __init__(
        self,
        manifest: AudioManifest,
        rows: np.ndarray,
        labels: Sequence[FrameLabels],
        conv_layers: Sequence[ConvLayer],
        options: ClipOptions,
    ) -> None:
        row_labels = RowLabels(rows, labels, conv_layers) if labels else None
        super().__init__(manifest.take(rows), options, row_labels)
        self.conv_layers = list(conv_layers)
        self._hop = hop_samples(conv_layers)

    def first_frame(self, index: int) -> int:
        """Return the frame at which this epoch's crop of an utterance begins."""
        spare_frames = (int(self.audio.sizes[index]) - self.max_samples) // self._hop
        if not self.training or spare_frames < 1:
            return 0
        return int(self.rng(index, purpose=2).integers(spare_frames + 1))

    def caption(self, index: int) -> Tensor:
        """Return (T,) float: this epoch's crop. Raises: AudioError if it is shorter than one frame."""
        path, start = self.audio.audio_path(index), self.first_frame(index) * self._hop
        wav = read_audio(path, max_samples=start + self.max_samples, resample=self.options.resample)[start:]
        if len(wav) < min_samples(self.conv_layers):
            raise AudioError(
                path,
                f"gives {len(wav)} samples from sample {start} on, of {self.audio.sizes[index]} listed",
                "Make the manifest again from the present files.",
            )
        return torch.from_numpy(self._as_trained(wav))

    def ordered_indices(self) -> np.ndarray:
        """Return all rows: in training longest first, similar lengths shuffled; else in manifest order."""
        shuffled = super().ordered_indices()
        if not self.training:
            return shuffled
        bins = self._sizes[shuffled] // LENGTH_BIN_SAMPLES
        buckets = np.searchsorted(self.widths, self._sizes[shuffled])
        return shuffled[np.lexsort((-bins, -buckets))]
