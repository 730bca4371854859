"""A pre-trained speech encoder with a linear layer, fine-tuned with CTC to transcribe speech.

Source: Baevski et al. 2020, arXiv 2006.11477, section 4.3. The loss (Graves et al. 2006) is fairseq's `ctc`.
"""

import contextlib
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import II
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.models.encoder import (
    ComputeConfig,
    WaveformConfig,
    clip_lengths,
    compute_of,
    regularisation_of,
)
from fairseq_mtssl.modules.encoder_options import EncoderSizes
from fairseq_mtssl.modules.masking import Masking
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder

BLANK = 0
"""Index of the CTC blank, the symbol `<s>` as in fairseq's criterion ctc."""


@dataclass
class SpeechCtcConfig(WaveformConfig, ComputeConfig):
    pretrained: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint whose speech encoder is fine-tuned: one of this package, or of fairseq's "
            "wav2vec2, hubert or data2vec_audio; not needed to evaluate"
        },
    )
    no_pretrained_weights: bool = field(
        default=False, metadata={"help": "take only the sizes from `pretrained`, and random weights"}
    )
    encoder: Any = field(
        default=None, metadata={"help": "sizes of the encoder; filled in from `pretrained` and saved"}
    )
    layers: Optional[int] = field(
        default=None, metadata={"help": "number of transformer layers to keep, from below; null: all"}
    )
    # regularisation
    dropout: float = field(default=0.0, metadata={"help": "dropout in the transformer, [0, 1)"})
    attention_dropout: float = field(default=0.0, metadata={"help": "dropout of attention weights, [0, 1)"})
    activation_dropout: float = field(default=0.1, metadata={"help": "dropout inside the FFN, [0, 1)"})
    dropout_input: float = field(default=0.0, metadata={"help": "dropout of the projected conv features"})
    final_dropout: float = field(default=0.0, metadata={"help": "dropout before the linear layer"})
    layerdrop: float = field(default=0.1, metadata={"help": "probability of skipping a layer, [0, 1)"})
    feature_grad_mult: float = field(
        default=0.0, metadata={"help": "multiplies the gradient into the convolutions; 0 freezes them"}
    )
    freeze_finetune_updates: int = field(
        default=0, metadata={"help": "number of first updates in which only the linear layer is trained"}
    )
    mask_prob: float = field(
        default=0.65, metadata={"help": "share of frames that spans would mask without overlaps"}
    )
    mask_length: int = field(default=10, metadata={"help": "frames of a span"})
    mask_channel_prob: float = field(
        default=0.5, metadata={"help": "share of channels that spans would set to 0 without overlaps"}
    )
    mask_channel_length: int = field(default=64, metadata={"help": "channels of a span"})
    seed: int = II("common.seed")


@register_model("speech_ctc", dataclass=SpeechCtcConfig)
class SpeechCtcModel(BaseFairseqModel):
    """A speech encoder and a linear layer, `proj`, from its frames to the symbols of the dictionary."""

    def __init__(self, cfg: SpeechCtcConfig, symbols: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.num_updates = 0
        self.speech_encoder = SpeechEncoder(
            EncoderSizes.of_plain(cfg.encoder), regularisation_of(cfg, cfg.layerdrop), compute_of(cfg)
        )
        self.final_dropout = nn.Dropout(cfg.final_dropout)
        self.proj = nn.Linear(self.speech_encoder.dim, symbols)
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    @classmethod
    def build_model(cls, cfg: SpeechCtcConfig, task: Any = None) -> "SpeechCtcModel":
        """Called by fairseq; task.target_dictionary: the symbols. Raises: ConfigError without sizes."""
        if cfg.encoder is None:
            raise ConfigError("model.pretrained", ["is null; give the checkpoint to fine-tune"])
        return cls(cfg, len(task.target_dictionary))

    def set_num_updates(self, num_updates: int) -> None:
        """Set the number of the present update, on which masks and freezing depend."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        ids: Optional[Tensor] = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Compute the logits of all symbols.

        source: (B, S) waveforms, normalised as cfg.normalize says, zero past their end; padding_mask: (B, S)
        bool or None; ids: (B,) ints from which masks are drawn; None: the numbers of the rows.
        Returns: encoder_out (T, B, symbols) logits; padding_mask (B, T) bool or None.
        """
        lengths = clip_lengths(source, padding_mask)
        is_frozen = self.training and self.num_updates < self.cfg.freeze_finetune_updates
        with torch.no_grad() if is_frozen else contextlib.nullcontext():
            x, padding = self._encode(source, lengths, torch.arange(len(source)) if ids is None else ids)
        # (B, T, symbols) -> (T, B, symbols)
        return {"encoder_out": self.proj(self.final_dropout(x)).transpose(0, 1), "padding_mask": padding}

    def _encode(self, source: Tensor, lengths: Tensor, ids: Tensor) -> tuple[Tensor, Optional[Tensor]]:
        """Compute frames, (B, T, D), and their padding, (B, T) bool or None."""
        encoder, cfg = self.speech_encoder, self.cfg
        extracted = encoder.forward_features(source, lengths)
        mask = channels = None
        if self.training and cfg.mask_prob > 0:
            masking = Masking(cfg.mask_prob, cfg.mask_length, int(cfg.seed))
            mask = masking.draw(extracted.lengths, extracted.features.size(1), ids, self.num_updates)
        if self.training and cfg.mask_channel_prob > 0:
            # another seed, so that channels are drawn independently of frames
            masking = Masking(cfg.mask_channel_prob, cfg.mask_channel_length, int(cfg.seed) + 1)
            widths = torch.full_like(extracted.lengths, encoder.dim)
            channels = masking.draw(widths, encoder.dim, ids, self.num_updates)
        hidden = encoder.forward_layers(encoder.embed(extracted, mask, channels), 0, encoder.num_layers)
        padding = None if hidden.padding is None else hidden.padding[:, -extracted.features.size(1) :]
        return encoder.frames(hidden), padding

    def get_logits(self, net_output: dict[str, Any]) -> Tensor:
        """Return logits (T, B, symbols), with which padded frames certainly predict the blank."""
        logits: Tensor = net_output["encoder_out"]
        padding = net_output["padding_mask"]
        if padding is None:
            return logits
        blank = torch.full_like(logits[0, 0], float("-inf"))
        blank[BLANK] = 0
        return torch.where(padding.T.unsqueeze(-1), blank, logits)

    def get_normalized_probs(self, net_output: dict[str, Any], log_probs: bool, sample: Any = None) -> Tensor:
        """Return (log) probabilities of the symbols, (T, B, symbols) float32."""
        logits = self.get_logits(net_output).float()
        return logits.log_softmax(-1) if log_probs else logits.softmax(-1)
