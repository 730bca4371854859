"""MT4SSL: one student that predicts cluster labels and a slow teacher's layers at the masked frames.

Source: Ma et al. 2023, Interspeech, arXiv 2211.07321.
"""

import logging
import math
from dataclasses import dataclass, field
from typing import Any, List, Optional

import torch
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model
from omegaconf import II
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import parse_conv_layers
from fairseq_mtssl.modules.ema import EmaLayers, ema_decay
from fairseq_mtssl.modules.heads import build_label_head, identified
from fairseq_mtssl.modules.masking import span_mask
from fairseq_mtssl.modules.speech_encoder import FrontEnd, SpeechEncoder
from fairseq_mtssl.targets.online import layer_average

logger = logging.getLogger(__name__)

IGNORED_LABEL = 1
"""Padding of fairseq's dictionaries: a frame without a label, left out of the loss."""


@dataclass
class Mt4sslConfig(FairseqDataclass):
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
    online_layer: Optional[int] = field(
        default=None, metadata={"help": "layer, counted from 1, that predicts the teacher; null: the last"}
    )
    label_layers: List[int] = field(
        default_factory=list,
        metadata={"help": "layer, counted from 1, that predicts each label set; empty: the last for all"},
    )
    label_head: ChoiceEnum(["linear", "cosine"]) = field(  # type: ignore[valid-type]
        default="linear", metadata={"help": "linear (MT4SSL), or cosine to learned embeddings (HuBERT)"}
    )
    final_dim: int = field(default=256, metadata={"help": "width of the embeddings of label_head=cosine"})
    logit_temp: float = field(default=0.1, metadata={"help": "divides the cosines of label_head=cosine"})
    # teacher
    average_top_k_layers: int = field(default=8, metadata={"help": "the teacher's layers that are averaged"})
    ema_decay: float = field(default=0.999, metadata={"help": "decay of the teacher at first, [0, 1]"})
    ema_end_decay: float = field(default=0.9999, metadata={"help": "decay of the teacher later, [0, 1]"})
    ema_anneal_updates: int = field(
        default=30_000, metadata={"help": "updates in which the decay goes linearly from first to later"}
    )
    # encoder
    extractor_mode: ChoiceEnum(["default", "layer_norm"]) = field(  # type: ignore[valid-type]
        default="layer_norm", metadata={"help": "group norm after the first convolution, or layer norms"}
    )
    conv_feature_layers: str = field(
        default="[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        metadata={"help": "convolutions of the waveform encoder as (channels, kernel, stride)"},
    )
    conv_bias: bool = field(default=False, metadata={"help": "give the convolutions a bias"})
    encoder_layers: int = field(default=12, metadata={"help": "transformer layers"})
    encoder_embed_dim: int = field(default=768, metadata={"help": "width of the transformer"})
    encoder_ffn_embed_dim: int = field(default=3072, metadata={"help": "width of its feed-forward layers"})
    encoder_attention_heads: int = field(default=12, metadata={"help": "its attention heads"})
    pos_conv_depth: int = field(default=5, metadata={"help": "layers of the positional convolution"})
    conv_pos: int = field(
        default=95, metadata={"help": "kernel of the positional convolution, frames, over all its layers"}
    )
    conv_pos_groups: int = field(default=16, metadata={"help": "its groups"})
    dropout: float = field(default=0.1, metadata={"help": "dropout in the transformer, [0, 1)"})
    attention_dropout: float = field(default=0.1, metadata={"help": "dropout of attention weights, [0, 1)"})
    activation_dropout: float = field(default=0.0, metadata={"help": "dropout inside the FFN, [0, 1)"})
    dropout_input: float = field(default=0.0, metadata={"help": "dropout of the projected conv features"})
    encoder_layerdrop: float = field(default=0.05, metadata={"help": "chance to skip a layer, [0, 1)"})
    feature_grad_mult: float = field(
        default=1.0, metadata={"help": "multiplies the gradient into the convolutions; 0 freezes them"}
    )
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
    """A speech encoder with a regression head towards its own slow copy and one head a label set.

    speech_encoder: the student; teacher, regression: None without online targets; label_heads: one a
    label set, possibly none.
    """

    def __init__(self, cfg: Mt4sslConfig, label_classes: List[int]) -> None:
        super().__init__()
        self.cfg = cfg
        self.num_updates = 0
        self.speech_encoder = SpeechEncoder(
            conv_layers=cfg.conv_feature_layers,
            extractor_mode=str(cfg.extractor_mode),
            conv_bias=cfg.conv_bias,
            dim=cfg.encoder_embed_dim,
            ffn_dim=cfg.encoder_ffn_embed_dim,
            heads=cfg.encoder_attention_heads,
            layers=cfg.encoder_layers,
            dropout=cfg.dropout,
            attention_dropout=cfg.attention_dropout,
            activation_dropout=cfg.activation_dropout,
            input_dropout=cfg.dropout_input,
            layerdrop=cfg.encoder_layerdrop,
            conv_pos=cfg.conv_pos,
            conv_pos_groups=cfg.conv_pos_groups,
            feature_grad_mult=cfg.feature_grad_mult,
            use_cls=False,
            padding_exact=cfg.padding_exact,
            pos_conv_depth=cfg.pos_conv_depth,
        )
        dim, encoder = cfg.encoder_embed_dim, self.speech_encoder.encoder
        self.online_layer = cfg.online_layer or cfg.encoder_layers
        self.label_layers = list(cfg.label_layers) or [cfg.encoder_layers] * len(label_classes)
        self.teacher = EmaLayers(encoder.layers, encoder.layer_norm) if cfg.online else None
        self.regression = nn.Linear(dim, dim) if cfg.online else None
        self.label_heads = nn.ModuleList(
            build_label_head(str(cfg.label_head), dim, classes, cfg.final_dim, cfg.logit_temp)
            for classes in label_classes
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
        if self.teacher is not None:
            encoder = self.speech_encoder.encoder
            self.teacher.step(encoder.layers, encoder.layer_norm, self.teacher_decay(updates))

    def teacher_decay(self, updates: int) -> float:
        """The decay of the step after so many updates."""
        cfg = self.cfg
        return ema_decay(updates, cfg.ema_decay, cfg.ema_end_decay, cfg.ema_anneal_updates)

    def reset_teacher(self) -> None:
        """Start the teacher anew from the student."""
        if self.teacher is not None:
            self.teacher.copy_from(self.speech_encoder.encoder.layers, self.speech_encoder.encoder.layer_norm)

    @torch.no_grad()
    def online_targets(self, front: FrontEnd) -> Tensor:
        """(B, T, D) float32: the average of the teacher's top layers on the unmasked input."""
        if self.teacher is None:
            raise ConfigError("model.online", ["is false: there is no teacher to take targets from"])
        placed = self.speech_encoder.place(front, dropout=False)
        results = self.teacher(placed, self.cfg.average_top_k_layers)
        # (T, B, D) -> (B, T, D)
        return layer_average([result.transpose(0, 1) for result in results], front.lengths)

    # -- losses

    def forward(
        self,
        source: Tensor,
        lengths: Tensor,
        ids: Optional[Tensor] = None,
        labels: Optional[List[Tensor]] = None,
        mask: Optional[Tensor] = None,
    ) -> dict[str, Any]:
        """The losses of a batch, each a sum over masked frames.

        source: (B, S) waveforms, zero past their end; lengths: (B,) samples; ids: (B,) ints from which
        the masks are drawn; labels: (B, T) dictionary indices, one tensor a label set, padded with 1;
        mask: (B, T) bool instead of a drawn one.
        Returns: frames (masked frames, int); feature_var; with online targets regression, target_var,
        prediction_var and, in evaluation, identified (frames whose own target is the nearest of their
        clip's); with labels one entry a set of classification, correct, labelled (frames with a label).
        """
        front = self.speech_encoder.front_end(source, lengths)
        if mask is None:
            mask = self.draw_mask(front, ids)
        states = self._masked_states(front, mask)
        frames = int(mask.sum())
        out: dict[str, Any] = {"frames": frames, "feature_var": variance(front.features.detach()[mask])}
        if self.regression is not None:
            predictions = self.regression(states[self.online_layer]).float()
            targets = self.online_targets(front)[mask]
            # Σ‖ŷ − y‖² / √D
            out["regression"] = (predictions - targets).square().sum() / math.sqrt(targets.size(-1))
            out["target_var"], out["prediction_var"] = variance(targets), variance(predictions.detach())
            if not self.training:
                out["identified"] = identified(predictions, targets, mask.nonzero()[:, 0])
        if labels is not None:
            scores = [
                self._classify(head(states[layer]), label[mask])
                for head, layer, label in zip(self.label_heads, self.label_layers, labels, strict=True)
            ]
            for index, name in enumerate(("classification", "correct", "labelled")):
                out[name] = [score[index] for score in scores]
        return out

    @staticmethod
    def _classify(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of the cross-entropies in nats, frames that are right, frames that have a label."""
        loss = nn.functional.cross_entropy(logits.float(), truth, ignore_index=IGNORED_LABEL, reduction="sum")
        known = truth != IGNORED_LABEL
        return loss, ((logits.argmax(-1) == truth) & known).sum(), known.sum()

    def draw_mask(self, front: FrontEnd, ids: Any) -> Tensor:
        """(B, T) bool: the frames to be predicted; in evaluation the same ones every time."""
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
        )

    def _masked_states(self, front: FrontEnd, mask: Tensor) -> dict[int, Tensor]:
        """The student's output at the masked frames, (M, D), after each layer that has a head."""
        encoder = self.speech_encoder
        heads = [self.online_layer] if self.regression is not None else []
        wanted = sorted({*heads, *self.label_layers[: len(self.label_heads)], encoder.num_layers})
        hidden, done, states = encoder.embed(front, mask), 0, {}
        for layer in wanted:
            # Piece by piece: a layer that layerdrop skips hands on the state below it.
            hidden, done = encoder.run(hidden, done, layer), layer
            # (T, B, D) -> (M, D): masked frames only
            states[layer] = encoder.frames(hidden)[mask]
        return states

    # -- use after pre-training

    def extract_features(
        self, source: Tensor, padding_mask: Optional[Tensor], mask: bool = False, layer: Optional[int] = None
    ) -> dict[str, Any]:
        """As fairseq's models that `audio_finetuning` builds on.

        padding_mask: (B, S) bool or None; layer: the last to run, counted from 0; null: all.
        Returns: x (B, T, D); padding_mask (B, T) bool or None; layer_results, a list of (T, B, D) outputs.
        """
        rows, samples = source.shape
        lengths = source.new_full((rows,), samples, dtype=torch.long)
        if padding_mask is not None:
            lengths = (~padding_mask).sum(1)
        front = self.speech_encoder.front_end(source, lengths)
        drawn = self.draw_mask(front, torch.arange(rows)) if mask else None
        hidden = self.speech_encoder.embed(front, drawn)
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
        self.teacher = self.regression = None
        self.label_heads = nn.ModuleList()
        if last_layer is not None:
            self.speech_encoder.encoder.layers = self.speech_encoder.encoder.layers[: last_layer + 1]

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Leave out of a checkpoint what this model was built without (model.online=false, no labels)."""
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        parts = {
            "teacher.": self.teacher,
            "regression.": self.regression,
            "label_heads.": len(self.label_heads),
        }
        unused = tuple(prefix + part for part, own in parts.items() if not own)
        for key in [key for key in state_dict if key.startswith(unused)]:
            del state_dict[key]

    def max_positions(self) -> None:
        return None


def variance(x: Tensor) -> Tensor:
    """(M, D) -> scalar: the variance of each channel over the frames, averaged; 0 below two frames."""
    return x.float().var(0).mean() if x.size(0) > 1 else x.new_zeros((), dtype=torch.float32)


def check_config(cfg: Any, label_sets: int) -> None:
    """Raises: ConfigError naming every fault of a model configuration at once."""
    parse_conv_layers(cfg.conv_feature_layers)
    layers, faults = cfg.encoder_layers, []
    if not cfg.online and not label_sets:
        faults.append("nothing to predict: model.online is false and task.labels is empty; give either")
    if cfg.padding_exact and str(cfg.extractor_mode) == "default":
        faults.append("padding_exact with extractor_mode=default: its group norm sees the padding")
    if cfg.encoder_embed_dim % cfg.encoder_attention_heads:
        faults.append(
            f"encoder_embed_dim {cfg.encoder_embed_dim} is no multiple of the "
            f"{cfg.encoder_attention_heads} encoder_attention_heads; change either"
        )
    if cfg.online and not 1 <= cfg.average_top_k_layers <= layers:
        faults.append(f"average_top_k_layers {cfg.average_top_k_layers}: wanted 1 to encoder_layers {layers}")
    if label_sets and cfg.label_layers and len(cfg.label_layers) != label_sets:
        faults.append(
            f"label_layers {list(cfg.label_layers)}: wanted one for each of {label_sets} label sets"
        )
    for layer in [*cfg.label_layers, *([cfg.online_layer] if cfg.online_layer is not None else [])]:
        if not 1 <= layer <= layers:
            faults.append(f"layer {layer} of online_layer or label_layers: wanted 1 to {layers}")
    if not 0 <= cfg.ema_decay <= cfg.ema_end_decay <= 1:
        faults.append(
            f"ema_decay {cfg.ema_decay} to ema_end_decay {cfg.ema_end_decay}: wanted 0 ≤ first ≤ later ≤ 1"
        )
    if faults:
        raise ConfigError("model", faults)
