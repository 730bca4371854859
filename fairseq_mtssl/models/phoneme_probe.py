"""The phone probe: linear layers on the frozen features of a speech encoder, which predict phones.

`mtssl probe-layers` trains probes of all layers at once. This model standardises features in the same way,
but is trained with fairseq's optimizers, schedules and checkpoints.
head=frame predicts the phone of each frame; head=ctc the sequence of phones, with two linear layers as
SUPERB.
Source: Yang et al. 2021, arXiv 2105.01051, section 3.1; Pasad et al. 2021, arXiv 2107.04734.
"""

from dataclasses import dataclass, field
from typing import Any, List, Optional

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.probing import standardise
from fairseq_mtssl.features.frozen import WEIGHTED, FrozenFeatures

HEADS = ("frame", "ctc")
MFCC = "mfcc"


@dataclass
class PhonemeProbeConfig(FairseqDataclass):
    checkpoint: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint whose layers are probed: one of this package, or of fairseq's wav2vec2, "
            "hubert or data2vec_audio; or mfcc; not needed to evaluate"
        },
    )
    random_weights: bool = field(
        default=False,
        metadata={"help": "take only the sizes from `checkpoint`, and random weights"},
    )
    layer: str = field(
        default=WEIGHTED, metadata={"help": "layer from 1, or weighted: a learned softmax over all layers"}
    )
    head: str = field(
        default="frame",
        metadata={"help": "frame: the phone of each frame; ctc: the sequence of phones, two linear layers"},
    )
    projection_dim: int = field(default=256, metadata={"help": "width between the two linear layers of ctc"})
    encoder: Any = field(
        default=None, metadata={"help": "sizes of the encoder; filled in from `checkpoint` and saved"}
    )
    normalised: Optional[bool] = field(
        default=None,
        metadata={
            "help": "give the encoder waveforms of zero mean and unit variance; null: as in the training of "
            "`checkpoint`, with mfcc true. The value is filled in and saved, like `encoder`"
        },
    )


@register_model("phoneme_probe", dataclass=PhonemeProbeConfig)
class PhonemeProbeModel(BaseFairseqModel):
    """Frozen features, with layer=weighted a learned softmax over layers (layer_logits, (L,)), and a head."""

    def __init__(self, cfg: PhonemeProbeConfig, phones: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.frozen = FrozenFeatures(None if cfg.checkpoint == MFCC else dict(cfg.encoder), str(cfg.layer))
        layers, dim = len(self.frozen.layers), self.frozen.dim
        self.layer_logits = nn.Parameter(torch.zeros(layers)) if cfg.layer == WEIGHTED else None
        self.head: nn.Module = nn.Linear(dim, phones)
        if self.is_ctc:
            self.head = nn.Sequential(
                nn.Linear(dim, cfg.projection_dim), nn.Linear(cfg.projection_dim, 1 + phones)
            )

    @classmethod
    def build_model(cls, cfg: PhonemeProbeConfig, task: Any = None) -> "PhonemeProbeModel":
        """Called by fairseq; task.phones: the phones. Raises: ConfigError naming every error."""
        errors: List[str] = []
        if cfg.checkpoint is None:
            errors.append("checkpoint is null; give the one to probe, or mfcc")
        if cfg.head not in HEADS:
            errors.append(f"head {cfg.head!r}: wanted {' or '.join(HEADS)}")
        if cfg.projection_dim < 1:
            errors.append(f"projection_dim {cfg.projection_dim}: wanted 1 or more")
        if cfg.random_weights and cfg.checkpoint == MFCC:
            errors.append("random_weights with mfcc, which have none")
        if errors:
            raise ConfigError("model", errors)
        return cls(cfg, len(task.phones))

    @property
    def is_ctc(self) -> bool:
        return self.cfg.head == "ctc"

    @property
    def layer_weights(self) -> List[float]:
        """The weight of each layer; the weights sum to 1."""
        if self.layer_logits is None:
            return [1.0]
        return self.layer_logits.detach().float().softmax(0).tolist()

    def forward(
        self,
        features: Optional[Tensor] = None,
        lengths: Optional[Tensor] = None,
        clips: Optional[List[Tensor]] = None,
    ) -> dict[str, Tensor]:
        """Compute logits from features or from clips, whose features are then computed.

        features: (B, T, L, D), with lengths (B,) frames; clips: waveforms (S,).
        Returns: logits (B, T, phones), or with ctc (B, T, 1 + phones) with the blank first; lengths (B,).
        """
        if features is None:
            arrays = self.frozen.extract([clip.float().cpu().numpy() for clip in clips or []])
            device = self.frozen.mean.device
            lengths = torch.tensor([len(array) for array in arrays], device=device)
            frames = [torch.from_numpy(array).to(device) for array in arrays]
            features = nn.utils.rnn.pad_sequence(frames, batch_first=True)
        x = standardise(features, self.frozen.mean, self.frozen.scale)
        if self.layer_logits is None:
            x = x[:, :, 0]
        else:
            # (B, T, L, D) -> (B, T, D)
            x = torch.einsum("btld,l->btd", x, self.layer_logits.float().softmax(0))
        dtype = next(self.head.parameters()).dtype
        return {"logits": self.head(x.to(dtype)), "lengths": lengths}
