"""Pre-training on speech alone: a speech encoder and a self-supervised branch, by default that of MT4SSL.

Source: Ma et al. 2023, Interspeech, arXiv 2211.07321.
"""

from dataclasses import dataclass, field
from typing import Any, List, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.models.encoder import EncoderConfig, build_speech_encoder, feature_extractor_errors
from fairseq_mtssl.models.ssl_model import SslConfig, SslModel, branch_options, ssl_errors
from fairseq_mtssl.modules.masking import Masking, ids_of_clips
from fairseq_mtssl.modules.speech_encoder import ExtractedFeatures
from fairseq_mtssl.ssl.base import SslBatch, SslResult


@dataclass
class FineTuningMaskConfig(FairseqDataclass):
    """What fairseq's `wav2vec_ctc` sets, beside mask_prob and mask_length, in the model that it fine-tunes.

    It sets the fields that the checkpoint's configuration has and passes over all others in silence.
    """

    mask_channel_prob: Optional[float] = field(
        default=None,
        metadata={"help": "share of channels set to 0 by fairseq's wav2vec_ctc, which gives it; else unused"},
    )
    mask_channel_length: int = field(default=10, metadata={"help": "channels of such a span"})
    mask_selection: str = field(default="static", metadata={"help": "of fairseq's choices, static alone"})
    mask_other: float = field(default=0.0, metadata={"help": "of fairseq's choices, 0 alone"})
    no_mask_overlap: bool = field(default=False, metadata={"help": "of fairseq's choices, false alone"})
    mask_channel_selection: str = field(
        default="static", metadata={"help": "of fairseq's choices, static alone"}
    )
    mask_channel_other: float = field(default=0.0, metadata={"help": "of fairseq's choices, 0 alone"})
    no_mask_channel_overlap: bool = field(
        default=False, metadata={"help": "of fairseq's choices, false alone"}
    )
    mask_channel_before: bool = field(default=False, metadata={"help": "of fairseq's choices, false alone"})


ONLY_CHOICES = (
    *("mask_selection", "mask_other", "no_mask_overlap"),
    *("mask_channel_selection", "mask_channel_other", "no_mask_channel_overlap", "mask_channel_before"),
)
"""Fields of FineTuningMaskConfig that have one value, which is their default; others are refused."""


@dataclass
class Mt4sslConfig(FineTuningMaskConfig, SslConfig, EncoderConfig):
    ssl: str = field(
        default="mt4ssl",
        metadata={
            "help": "the self-supervised branch: mt4ssl (a teacher and task.labels; model.online=false or "
            "task.labels=[] switches one of them off), hubert, data2vec, wav2vec2, best_rq, or your own"
        },
    )
    init_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint to start from: one of ours (every part that fits), or fairseq's wav2vec2, "
            "hubert or data2vec_audio; not needed again to resume, evaluate or fine-tune"
        },
    )
    # encoder
    extractor_mode: ChoiceEnum(["default", "layer_norm"]) = field(  # type: ignore[valid-type]
        default="layer_norm", metadata={"help": "group norm after the first convolution, or layer norms"}
    )
    encoder_layers: int = field(default=12, metadata={"help": "transformer layers"})
    pos_conv_depth: int = field(default=5, metadata={"help": "layers of the positional convolution"})
    conv_pos: int = field(
        default=95, metadata={"help": "kernel of the positional convolution, frames, over all its layers"}
    )
    dropout_input: float = field(default=0.0, metadata={"help": "dropout of the projected conv features"})
    encoder_layerdrop: float = field(default=0.05, metadata={"help": "chance to skip a layer, [0, 1)"})
    padding_exact: bool = field(
        default=True,
        metadata={"help": "what is computed for a clip never depends on its padding; needs layer_norm"},
    )
    # masking
    mask_min_spans: int = field(default=1, metadata={"help": "spans of a clip at least"})
    same_mask_count: bool = field(
        default=True, metadata={"help": "cut every clip's masked frames to the fewest of the batch"}
    )


@register_model("mt4ssl", dataclass=Mt4sslConfig)
class Mt4sslModel(SslModel, BaseFairseqModel):
    """A speech encoder and a self-supervised branch on it, for speech alone."""

    def __init__(self, cfg: Mt4sslConfig, label_classes: List[int]) -> None:
        super().__init__()
        self.cfg = cfg
        self.speech_encoder = build_speech_encoder(
            cfg,
            layers=cfg.encoder_layers,
            use_cls=False,
            extractor_mode=str(cfg.extractor_mode),
            padding_exact=cfg.padding_exact,
        )
        self.add_branch(cfg, branch_options(cfg), label_classes, cfg.same_mask_count)

    @classmethod
    def build_model(cls, cfg: Mt4sslConfig, task: Any = None) -> "Mt4sslModel":
        """Called by fairseq; task.label_classes are the sizes of its dictionaries, special symbols included.

        Raises: ConfigError naming every error.
        """
        classes = list(getattr(task, "label_classes", []))
        check_config(cfg, len(classes))
        return cls(cfg, classes)

    # -- losses

    def forward(
        self,
        source: Tensor,
        lengths: Tensor,
        ids: Optional[Tensor] = None,
        labels: Optional[List[Tensor]] = None,
        mask: Optional[Tensor] = None,
        unmasked: bool = False,
    ) -> SslResult:
        """What the branch gives for a batch.

        source: (B, S) waveforms, zero past their end; lengths: (B,) samples; ids: (B,) ints from which
        the masks are drawn; labels: (B, T) dictionary indices, one tensor a label set, padded with 1;
        mask: (V·B, T) bool, of V views, instead of drawn ones; unmasked: classify the other frames, too.
        Raises: ConfigError after remove_pretraining_modules.
        """
        extracted = self.speech_encoder.forward_features(source, lengths)
        if mask is None:
            mask = self.draw_masks(extracted, ids)
        return self.self_supervise(SslBatch(source, lengths, extracted, mask, labels, None, unmasked))

    def _draw_channels(self, extracted: ExtractedFeatures, ids: Tensor) -> Optional[Tensor]:
        """(B, D) bool: the channels that fine-tuning sets to 0; None for none."""
        cfg, dim = self.cfg, self.speech_encoder.dim
        if cfg.mask_channel_prob is None:
            got = "is null where masks are drawn: the checkpoint is of a version whose configuration lacks"
            lost = "it, so that what fairseq's wav2vec_ctc sets (this, and task.normalize) does not arrive"
            hint = "fine-tune with the ctc_ recipes, or write both into the checkpoint's cfg.model"
            raise ConfigError("model.mask_channel_prob", [f"{got} {lost}; {hint}"])
        if cfg.mask_channel_prob <= 0:
            return None
        seed = int(cfg.seed) + 1  # draws of their own
        spans = Masking(cfg.mask_channel_prob, cfg.mask_channel_length, seed, min_spans=0)
        return spans.draw(torch.full_like(extracted.lengths, dim), dim, ids, self.draw_update)

    # -- use after pre-training

    def extract_features(
        self, source: Tensor, padding_mask: Optional[Tensor], mask: bool = False, layer: Optional[int] = None
    ) -> dict[str, Any]:
        """As fairseq's models that `audio_finetuning` builds on.

        padding_mask: (B, S) bool or None; layer: the last to run, counted from 0; null: all. mask: mask
        frames and channels, by draws from the update and what is in a clip.
        Returns: x (B, T, D); padding_mask (B, T) bool or None; layer_results, a list of (T, B, D) outputs.
        Raises: ConfigError with mask if nobody has set mask_channel_prob.
        """
        rows, samples = source.shape
        lengths = source.new_full((rows,), samples, dtype=torch.long)
        if padding_mask is not None:
            lengths = (~padding_mask).sum(1)
        extracted = self.speech_encoder.forward_features(source, lengths)
        drawn = channels = None
        if mask:
            ids = ids_of_clips(source, lengths)
            drawn, channels = self.draw_mask(extracted, ids), self._draw_channels(extracted, ids)
        hidden = self.speech_encoder.embed(extracted, drawn, channels)
        outputs: list[Tensor] = []
        stop = self.speech_encoder.num_layers if layer is None else layer + 1
        hidden = self.speech_encoder.forward_layers(hidden, 0, stop, collect=outputs)
        return {
            "x": self.speech_encoder.frames(hidden),
            "padding_mask": hidden.padding,
            "layer_results": [output.transpose(0, 1) for output in outputs],
        }

    def remove_pretraining_modules(self, last_layer: Optional[int] = None) -> None:
        """Drop teacher and heads, and the layers above last_layer (counted from 0), for fine-tuning."""
        self.ssl_head = None
        if last_layer is not None:
            self.speech_encoder.encoder.layers = self.speech_encoder.encoder.layers[: last_layer + 1]

    def max_positions(self) -> None:
        return None


def check_config(cfg: Any, label_sets: int) -> None:
    """Raises: ConfigError naming every error of a model configuration at once."""
    errors = feature_extractor_errors(cfg, str(cfg.extractor_mode), cfg.padding_exact)
    # which of its targets mt4ssl has is chosen here by model.online and task.labels
    is_mt4ssl = str(cfg.ssl) == "mt4ssl"
    errors += ssl_errors(cfg, branch_options(cfg), label_sets, labels_optional=is_mt4ssl)
    if is_mt4ssl and not cfg.online and not label_sets:
        errors.append("nothing to predict: model.online is false and task.labels is empty; give either")
    known = FineTuningMaskConfig()
    for name in ONLY_CHOICES:
        if getattr(cfg, name) != getattr(known, name):
            errors.append(f"{name} {getattr(cfg, name)}: wanted {getattr(known, name)}, the only one here")
    if cfg.encoder_embed_dim % cfg.encoder_attention_heads:
        errors.append(
            f"encoder_embed_dim {cfg.encoder_embed_dim} is no multiple of the "
            f"{cfg.encoder_attention_heads} encoder_attention_heads; change either"
        )
    if errors:
        raise ConfigError("model", errors)
