"""MT4SSL: one student that predicts cluster labels and a slow teacher's layers at the masked frames.

Source: Ma et al. 2023, Interspeech, arXiv 2211.07321.
"""

from dataclasses import dataclass, field
from typing import Any, List, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import II
from torch import Tensor

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.models.encoder import EncoderConfig, build_speech_encoder, front_end_faults
from fairseq_mtssl.models.masked_prediction import (
    MaskedPrediction,
    MaskedPredictionConfig,
    drop_unused,
    target_faults,
)
from fairseq_mtssl.modules.masking import ids_of_clips, span_mask
from fairseq_mtssl.modules.speech_encoder import FrontEnd


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
class Mt4sslConfig(FineTuningMaskConfig, MaskedPredictionConfig, EncoderConfig):
    init_from: Optional[str] = field(
        default=None,
        metadata={
            "help": "checkpoint to start from: one of ours (every part that fits), or fairseq's wav2vec2, "
            "hubert or data2vec_audio; not needed again to resume, evaluate or fine-tune"
        },
    )
    # what is predicted; the label sets are task.labels
    online: bool = field(
        default=True, metadata={"help": "predict the layers of a slow teacher; false is HuBERT-like"}
    )
    final_dim: int = field(default=256, metadata={"help": "width of the embeddings of label_head=cosine"})
    logit_temp: float = field(default=0.1, metadata={"help": "divides the cosines of label_head=cosine"})
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
    mask_prob: float = field(default=0.65, metadata={"help": "share of frames covered before overlaps"})
    mask_length: int = field(default=10, metadata={"help": "frames of a span"})
    mask_min_spans: int = field(default=1, metadata={"help": "spans of a clip at least"})
    same_mask_count: bool = field(
        default=True, metadata={"help": "cut every clip's masked frames to the fewest of the batch"}
    )
    seed: int = II("common.seed")


@register_model("mt4ssl", dataclass=Mt4sslConfig)
class Mt4sslModel(BaseFairseqModel):
    """A speech encoder, the student, and what it predicts."""

    def __init__(self, cfg: Mt4sslConfig, label_classes: List[int]) -> None:
        super().__init__()
        self.cfg = cfg
        self.num_updates = 0
        self.speech_encoder = build_speech_encoder(
            cfg,
            layers=cfg.encoder_layers,
            use_cls=False,
            extractor_mode=str(cfg.extractor_mode),
            padding_exact=cfg.padding_exact,
        )
        self.ssl_head: Optional[MaskedPrediction] = MaskedPrediction(
            cfg, self.speech_encoder, label_classes, online=cfg.online
        )

    @classmethod
    def build_model(cls, cfg: Mt4sslConfig, task: Any = None) -> "Mt4sslModel":
        """Called by fairseq; task.label_classes are the sizes of its dictionaries, special symbols included.

        Raises: ConfigError naming every fault.
        """
        classes = list(getattr(task, "label_classes", []))
        check_config(cfg, len(classes))
        return cls(cfg, classes)

    # -- the teacher

    def set_num_updates(self, num_updates: int) -> None:
        """The update that is under way. The teacher does not move here: see `update_teacher`."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

    def update_teacher(self, updates: int) -> None:
        """Move the teacher, once after each update that the optimizer has made; updates: those so far."""
        if self.ssl_head is not None:
            self.ssl_head.step_teacher(self.speech_encoder, updates)

    def reset_teacher(self) -> None:
        """Start the teacher anew from the student."""
        if self.ssl_head is not None:
            self.ssl_head.reset_teacher(self.speech_encoder)

    # -- losses

    def forward(
        self,
        source: Tensor,
        lengths: Tensor,
        ids: Optional[Tensor] = None,
        labels: Optional[List[Tensor]] = None,
        mask: Optional[Tensor] = None,
        unmasked: bool = False,
    ) -> dict[str, Any]:
        """The losses of a batch, each a sum over masked frames.

        source: (B, S) waveforms, zero past their end; lengths: (B,) samples; ids: (B,) ints from which
        the masks are drawn; labels: (B, T) dictionary indices, one tensor a label set, padded with 1;
        mask: (V·B, T) bool, of V views, instead of drawn ones; unmasked: classify the other frames, too.
        Returns: what MaskedPrediction.forward does. Raises: ConfigError after remove_pretraining_modules.
        """
        if self.ssl_head is None:
            raise ConfigError("model", ["its heads have been removed for fine-tuning; it has no loss"])
        front = self.speech_encoder.front_end(source, lengths)
        if mask is None:
            views = self.cfg.masked_views if self.training else 1
            # (B, T) each -> (V·B, T)
            mask = torch.cat([self.draw_mask(front, ids, view) for view in range(views)])
        return self.ssl_head(self.speech_encoder, front, mask, labels, unmasked=unmasked)[0]

    def draw_mask(self, front: FrontEnd, ids: Any, view: int = 0) -> Tensor:
        """(B, T) bool: the frames to be predicted in a view; in evaluation the same ones every time."""
        cfg = self.cfg
        return span_mask(
            front.lengths,
            front.features.size(1),
            prob=cfg.mask_prob,
            length=cfg.mask_length,
            min_spans=cfg.mask_min_spans,
            same_count=cfg.same_mask_count,
            seed=int(cfg.seed),
            update=self.num_updates if self.training else -1,
            ids=ids,
            view=view,
        )

    def _draw_channels(self, front: FrontEnd, ids: Tensor) -> Optional[Tensor]:
        """(B, D) bool: the channels that fine-tuning sets to 0; None for none."""
        cfg, dim = self.cfg, self.speech_encoder.dim
        if cfg.mask_channel_prob is None:
            got = "is null where masks are drawn: the checkpoint is of a version whose configuration lacks"
            lost = "it, so that what fairseq's wav2vec_ctc sets (this, and task.normalize) does not arrive"
            cure = "fine-tune with the ctc_ recipes, or write both into the checkpoint's cfg.model"
            raise ConfigError("model.mask_channel_prob", [f"{got} {lost}; {cure}"])
        if cfg.mask_channel_prob <= 0:
            return None
        return span_mask(
            torch.full_like(front.lengths, dim),
            dim,
            prob=cfg.mask_channel_prob,
            length=cfg.mask_channel_length,
            min_spans=0,
            same_count=True,
            seed=int(cfg.seed) + 1,  # draws of their own
            update=self.num_updates if self.training else -1,
            ids=ids,
        )

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
        front = self.speech_encoder.front_end(source, lengths)
        drawn = channels = None
        if mask:
            ids = ids_of_clips(source, lengths)
            drawn, channels = self.draw_mask(front, ids), self._draw_channels(front, ids)
        hidden = self.speech_encoder.embed(front, drawn, channels)
        outputs: list[Tensor] = []
        stop = self.speech_encoder.num_layers if layer is None else layer + 1
        hidden = self.speech_encoder.run(hidden, 0, stop, collect=outputs)
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

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Leave out of a checkpoint what this model was built without (model.online=false, no labels)."""
        super().upgrade_state_dict_named(state_dict, name)
        if self.ssl_head is not None:
            drop_unused(self.ssl_head, f"{name}.ssl_head." if name else "ssl_head.", state_dict)

    def max_positions(self) -> None:
        return None


def check_config(cfg: Any, label_sets: int) -> None:
    """Raises: ConfigError naming every fault of a model configuration at once."""
    faults = front_end_faults(cfg, str(cfg.extractor_mode), cfg.padding_exact)
    faults += target_faults(cfg, cfg.encoder_layers, label_sets, cfg.online)
    if not cfg.online and not label_sets:
        faults.append("nothing to predict: model.online is false and task.labels is empty; give either")
    known = FineTuningMaskConfig()
    for name in ONLY_CHOICES:
        if getattr(cfg, name) != getattr(known, name):
            faults.append(f"{name} {getattr(cfg, name)}: wanted {getattr(known, name)}, the only one here")
    if cfg.encoder_embed_dim % cfg.encoder_attention_heads:
        faults.append(
            f"encoder_embed_dim {cfg.encoder_embed_dim} is no multiple of the "
            f"{cfg.encoder_attention_heads} encoder_attention_heads; change either"
        )
    if faults:
        raise ConfigError("model", faults)
