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
from fairseq_mtssl.models.encoder import EncoderConfig, build_speech_encoder, clip_lengths, encoder_errors
from fairseq_mtssl.models.ssl_model import SslConfig, SslModel, branch_options, ssl_errors
from fairseq_mtssl.modules.masking import Masking, ids_of_clips
from fairseq_mtssl.modules.speech_encoder import ExtractedFeatures
from fairseq_mtssl.ssl.base import SslBatch, SslResult


@dataclass
class FineTuningMaskConfig(FairseqDataclass):
    """The fields, besides mask_prob and mask_length, that fairseq's `wav2vec_ctc` sets in fine-tuning.

    It sets only the fields that the configuration of the checkpoint has, and silently skips the others.
    """

    mask_channel_prob: Optional[float] = field(
        default=None,
        metadata={"help": "share of channels set to 0 in fine-tuning; fairseq's wav2vec_ctc sets this field"},
    )
    mask_channel_length: int = field(default=10, metadata={"help": "channels of a span of such channels"})
    mask_selection: str = field(default="static", metadata={"help": "only static is supported"})
    mask_other: float = field(default=0.0, metadata={"help": "only 0 is supported"})
    no_mask_overlap: bool = field(default=False, metadata={"help": "only false is supported"})
    mask_channel_selection: str = field(default="static", metadata={"help": "only static is supported"})
    mask_channel_other: float = field(default=0.0, metadata={"help": "only 0 is supported"})
    no_mask_channel_overlap: bool = field(default=False, metadata={"help": "only false is supported"})
    mask_channel_before: bool = field(default=False, metadata={"help": "only false is supported"})


ONLY_CHOICES = (
    *("mask_selection", "mask_other", "no_mask_overlap"),
    *("mask_channel_selection", "mask_channel_other", "no_mask_channel_overlap", "mask_channel_before"),
)
"""Fields of FineTuningMaskConfig of whose values in fairseq only the default is supported."""


@dataclass
class Mt4sslConfig(FineTuningMaskConfig, SslConfig, EncoderConfig):
    ssl: str = field(
        default="mt4ssl",
        metadata={
            "help": "the self-supervised branch: mt4ssl (a teacher and task.labels; model.online=false or "
            "task.labels=[] turns one of them off), hubert, data2vec, wav2vec2, best_rq, or one of a plugin"
        },
    )
    init_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint to start from: one of this package (every part that fits), or of fairseq's "
            "wav2vec2, hubert or data2vec_audio; not needed to resume, evaluate or fine-tune"
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
    encoder_layerdrop: float = field(
        default=0.05, metadata={"help": "probability of skipping a layer, [0, 1)"}
    )
    padding_exact: bool = field(
        default=True,
        metadata={"help": "the output for a clip does not depend on its padding; needs layer_norm"},
    )
    # masking
    mask_min_spans: int = field(default=1, metadata={"help": "smallest number of spans per clip"})
    same_mask_count: bool = field(
        default=True,
        metadata={"help": "mask as many frames in every clip as in the clip of the batch with the fewest"},
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
        """Called by fairseq; task.label_classes: sizes of the dictionaries, including special symbols.

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
        """Run the branch on a batch.

        source: (B, S) waveforms, zero past their end; lengths: (B,) samples; ids: (B,) ints from which the
        masks are drawn; labels: per label set (B, T) dictionary indices, padded with 1; mask: (V·B, T) bool,
        for V masked copies, instead of drawn masks; unmasked: also classify the frames that are not masked.
        Raises: ConfigError after remove_pretraining_modules.
        """
        extracted = self.speech_encoder.forward_features(source, lengths)
        if mask is None:
            mask = self.draw_masks(extracted, ids)
        return self.self_supervise(SslBatch(source, lengths, extracted, mask, labels, None, unmasked))

    def _draw_channels(self, extracted: ExtractedFeatures, ids: Tensor) -> Optional[Tensor]:
        """Draw the channels that fine-tuning sets to 0: (B, D) bool, or None."""
        cfg, dim = self.cfg, self.speech_encoder.dim
        if cfg.mask_channel_prob is None:
            got = "is null where masks are drawn: the checkpoint is of a version whose configuration lacks"
            lost = "it, so that the values of fairseq's wav2vec_ctc (this, and task.normalize) are lost"
            hint = "fine-tune with the ctc_ recipes, or write both into the checkpoint's cfg.model"
            raise ConfigError("model.mask_channel_prob", [f"{got} {lost}; {hint}"])
        if cfg.mask_channel_prob <= 0:
            return None
        seed = int(cfg.seed) + 1  # so that channels are drawn independently of frames
        spans = Masking(cfg.mask_channel_prob, cfg.mask_channel_length, seed, min_spans=0)
        return spans.draw(torch.full_like(extracted.lengths, dim), dim, ids, self.draw_update)

    # -- use after pre-training

    def extract_features(
        self, source: Tensor, padding_mask: Optional[Tensor], mask: bool = False, layer: Optional[int] = None
    ) -> dict[str, Any]:
        """Extract features as the models do that fairseq's task `audio_finetuning` fine-tunes.

        padding_mask: (B, S) bool or None; layer: the last layer to run, counted from 0; None: all layers.
        mask: whether to mask frames and channels, which are drawn from the update and the samples of a clip.
        Returns: x (B, T, D); padding_mask (B, T) bool or None; layer_results, a list of (T, B, D) outputs.
        Raises: ConfigError with mask if mask_channel_prob has not been set.
        """
        lengths = clip_lengths(source, padding_mask)
        extracted = self.speech_encoder.forward_features(source, lengths)
        frame_mask = channel_mask = None
        if mask:
            ids = ids_of_clips(source, lengths)
            frame_mask, channel_mask = self.draw_mask(extracted, ids), self._draw_channels(extracted, ids)
        hidden = self.speech_encoder.embed(extracted, frame_mask, channel_mask)
        outputs: list[Tensor] = []
        stop = self.speech_encoder.num_layers if layer is None else layer + 1
        hidden = self.speech_encoder.forward_layers(hidden, 0, stop, collect=outputs)
        return {
            "x": self.speech_encoder.frames(hidden),
            "padding_mask": hidden.padding,
            "layer_results": [output.transpose(0, 1) for output in outputs],
        }

    def remove_pretraining_modules(self, last_layer: Optional[int] = None) -> None:
        """Remove the branch and the layers above last_layer, counted from 0, for fine-tuning."""
        self.ssl_head = None
        if last_layer is not None:
            self.speech_encoder.encoder.layers = self.speech_encoder.encoder.layers[: last_layer + 1]


def check_config(cfg: Any, label_sets: int) -> None:
    """Check a model configuration. Raises: ConfigError naming every error at once."""
    errors = encoder_errors(cfg, str(cfg.extractor_mode), cfg.padding_exact)
    # mt4ssl can do without labels if model.online is true
    is_mt4ssl = str(cfg.ssl) == "mt4ssl"
    errors += ssl_errors(cfg, branch_options(cfg), label_sets, labels_optional=is_mt4ssl)
    if is_mt4ssl and not cfg.online and not label_sets:
        errors.append("nothing to predict: model.online is false and task.labels is empty; give either")
    supported = FineTuningMaskConfig()
    for name in ONLY_CHOICES:
        got, wanted = getattr(cfg, name), getattr(supported, name)
        if got != wanted:
            errors.append(f"{name} {got}: wanted {wanted}, the only value that is supported")
    if errors:
        raise ConfigError("model", errors)
