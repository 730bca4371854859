"""BEST-RQ: the classification of labels that a frozen random quantizer assigns to filterbank frames.

The targets are not learned. Log-mel energies, normalised per bin over the clip, are stacked to the frames of
the encoder and multiplied by a random matrix; the label of a frame is the nearest entry of a random codebook.
Source: Chiu et al. 2022, arXiv 2202.01855, section 3. As in all branches of this package, masked frames are
replaced by the encoder's mask embedding; the paper replaces filterbanks by noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_mtssl.frames import IGNORED_LABEL, SPECIAL_SYMBOLS, frame_count, hop_samples, padding_mask
from fairseq_mtssl.modules.fbank_features import normalise
from fairseq_mtssl.modules.log_mel import HOP_SAMPLES, WINDOW_SAMPLES, log_mel
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder
from fairseq_mtssl.ssl.base import SslBatch, SslBranch, SslResult, register_branch
from fairseq_mtssl.ssl.masked_frames import predict_labels, predict_other_labels, run_masked


@dataclass
class BestRqOptions:
    codes: int = field(default=8192, metadata={"help": "entries of a codebook"})
    code_dim: int = field(default=16, metadata={"help": "dimensions of an entry"})
    code_books: int = field(default=1, metadata={"help": "number of codebooks, each with its own projection"})
    mel_bins: int = field(default=80, metadata={"help": "bins of the log-mel filterbank, at 100 Hz"})
    quantizer_seed: int = field(default=0, metadata={"help": "seed of the projections and codebooks"})


@register_branch("best_rq")
class BestRq(SslBranch):
    """Predicts the labels of its own random quantizer at the masked frames.

    projections (N, stack · bins, D) and code_books (N, K, D), of unit norm, are buffers: saved, not trained.
    """

    Options = BestRqOptions
    projections: Tensor
    code_books: Tensor

    def __init__(
        self, options: BestRqOptions, encoder: SpeechEncoder, label_classes: Sequence[int] = ()
    ) -> None:
        super().__init__(options, encoder, label_classes)
        # log-mel frames per frame of the encoder: 4 at 25 Hz, 2 at 50 Hz
        self.stack = max(1, round(hop_samples(encoder.conv_layers) / HOP_SAMPLES))
        generator = torch.Generator().manual_seed(options.quantizer_seed)
        size = self.stack * options.mel_bins
        projections = torch.empty(options.code_books, size, options.code_dim)
        bound = (6 / (size + options.code_dim)) ** 0.5  # Xavier initialisation, as in the paper
        codes = torch.randn(options.code_books, options.codes, options.code_dim, generator=generator)
        self.register_buffer("projections", projections.uniform_(-bound, bound, generator=generator))
        self.register_buffer("code_books", nn.functional.normalize(codes, dim=-1))
        classes = options.codes + SPECIAL_SYMBOLS
        self.label_heads = nn.ModuleList(nn.Linear(encoder.dim, classes) for _ in range(options.code_books))

    def forward(self, encoder: SpeechEncoder, batch: SslBatch) -> SslResult:
        """Compute the losses: classification, a sum over codebooks and the masked frames of all copies; and,
        if the batch asks for it, classification_unmasked, the mean over the other frames.
        """
        extracted, mask, top = batch.extracted, batch.mask, encoder.num_layers
        run = run_masked(encoder, batch, {top}, {top} if batch.is_unmasked_wanted else set())
        labels = self.labels_of(batch.source, batch.lengths, extracted.lengths, extracted.features.size(1))
        result = SslResult(frames=int(mask.sum()), losses={}, shared=run.shared)
        predict_labels(result, self.label_heads, [run.masked[top]] * len(labels), labels, mask)
        if batch.is_unmasked_wanted:
            everywhere = [encoder.frames(run.whole[top])] * len(labels)
            predict_other_labels(result, self.label_heads, everywhere, labels, mask)
        return result

    @torch.no_grad()
    def labels_of(self, source: Tensor, lengths: Tensor, frame_lengths: Tensor, frames: int) -> list[Tensor]:
        """Quantize waveforms: per codebook (B, frames) dictionary indices, 1 past the end of a clip.

        source: (B, S) waveforms of (B,) lengths in samples; frame_lengths: (B,) frames of the encoder.
        """
        energy_lengths = frame_count(lengths, HOP_SAMPLES, WINDOW_SAMPLES).clamp(min=1)
        energies = normalise(log_mel(source, self.options.mel_bins), energy_lengths)
        rows, steps, bins = energies.shape
        wanted = frames * self.stack
        # fewer log-mel frames than a stack may be left for the last frame of the encoder
        padded = nn.functional.pad(energies, (0, 0, 0, max(0, wanted - steps)))[:, :wanted]
        # (B, T·stack, bins) -> (B, T, stack·bins)
        stacked = padded.reshape(rows, frames, self.stack * bins)
        past = padding_mask(frame_lengths, frames)
        labels = []
        for projection, codes in zip(self.projections.float(), self.code_books.float(), strict=True):
            # both have unit norm, so the nearest entry is the one with the largest inner product
            label = (nn.functional.normalize(stacked @ projection, dim=-1) @ codes.t()).argmax(-1)
            labels.append((label + SPECIAL_SYMBOLS).masked_fill(past, IGNORED_LABEL))
        return labels

    @classmethod
    def config_errors(cls, options: Any, encoder_layers: int, label_sets: int) -> list[str]:
        return [
            f"ssl_options.{name} {getattr(options, name)}: wanted {least} or more"
            for name, least in (("codes", 2), ("code_dim", 1), ("code_books", 1), ("mel_bins", 1))
            if getattr(options, name) < least
        ]
