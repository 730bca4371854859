"""MT4SSL: regression of an EMA teacher's layers together with classification of cluster labels.

HuBERT (`hubert.py`) has the classification alone, data2vec (`data2vec.py`) the regression alone.
Source: Ma et al. 2023, Interspeech, arXiv 2211.07321, section 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, List, Optional

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.modules.ema import EmaLayers, ema_decay
from fairseq_mtssl.modules.heads import build_label_head, identified
from fairseq_mtssl.modules.hidden import Hidden
from fairseq_mtssl.modules.speech_encoder import ExtractedFeatures, SpeechEncoder
from fairseq_mtssl.ssl.base import Loss, Measure, Reduction, SslBatch, SslBranch, SslResult, register_branch
from fairseq_mtssl.ssl.masked_frames import (
    at_frames,
    predict_labels,
    predict_other_labels,
    run_masked,
    to_width,
    variance,
)
from fairseq_mtssl.ssl.teacher_targets import layer_average

LABEL_HEADS = ("linear", "cosine")


@dataclass
class MaskedPredictionOptions:
    online_layer: Optional[int] = field(
        default=None,
        metadata={"help": "layer, counted from 1, that predicts the teacher's layers; null: the last"},
    )
    label_layers: List[int] = field(
        default_factory=list,
        metadata={"help": "per label set the layer, counted from 1, that predicts it; empty: the last"},
    )
    label_head: Optional[str] = field(
        default=None,
        metadata={
            "help": "linear (MT4SSL), or cosine to learned embeddings (HuBERT); null: cosine with "
            "model.ssl=hubert, else linear"
        },
    )
    final_dim: int = field(default=256, metadata={"help": "width of the embeddings of label_head=cosine"})
    logit_temp: float = field(default=0.1, metadata={"help": "divides the cosines of label_head=cosine"})
    average_top_k_layers: int = field(
        default=8, metadata={"help": "number of the teacher's top layers that are averaged"}
    )
    ema_decay: float = field(default=0.999, metadata={"help": "decay of the teacher at the start, [0, 1]"})
    ema_end_decay: float = field(
        default=0.9999, metadata={"help": "decay of the teacher after ema_anneal_updates, [0, 1]"}
    )
    ema_anneal_updates: int = field(
        default=30_000, metadata={"help": "updates in which the decay changes linearly to ema_end_decay"}
    )


@dataclass
class Mt4sslOptions(MaskedPredictionOptions):
    online: bool = field(
        default=True, metadata={"help": "predict the layers of an EMA teacher; false: labels only"}
    )


@register_branch("mt4ssl")
class Mt4ssl(SslBranch):
    """Predicts, at the masked frames, an EMA teacher's layers by regression and cluster labels as classes.

    teacher, regression: None without a teacher; label_heads: one per label set, possibly none.
    """

    Options: ClassVar[type[Any]] = Mt4sslOptions
    labels = "needed"
    default_head: ClassVar[str] = "linear"

    def __init__(self, options: Any, encoder: SpeechEncoder, label_classes: Sequence[int] = ()) -> None:
        super().__init__(options, encoder, label_classes)
        dim, top = encoder.dim, encoder.num_layers
        self.online_layer = options.online_layer or top
        self.label_layers = list(options.label_layers) or [top] * len(label_classes)
        self.top_layers = options.average_top_k_layers
        self.decay = (options.ema_decay, options.ema_end_decay, options.ema_anneal_updates)
        layers, norm = encoder.encoder.layers, encoder.encoder.layer_norm
        online = self.is_online(options)
        self.teacher = EmaLayers(layers, norm, encoder.compute.fast) if online else None
        self.regression = nn.Linear(dim, dim) if online else None
        head = options.label_head or self.default_head
        self.label_heads = nn.ModuleList(
            build_label_head(head, dim, classes, options.final_dim, options.logit_temp)
            for classes in label_classes
        )

    @classmethod
    def is_online(cls, options: Any) -> bool:
        """Return whether there is a teacher."""
        return bool(options.online)

    # -- the teacher

    def step(self, encoder: SpeechEncoder, updates: int) -> None:
        """Update the teacher with the student's weights."""
        if self.teacher is not None:
            layers, norm = encoder.encoder.layers, encoder.encoder.layer_norm
            self.teacher.step(layers, norm, ema_decay(updates, *self.decay))

    def reset(self, encoder: SpeechEncoder) -> None:
        """Set the teacher to the student's weights."""
        if self.teacher is not None:
            self.teacher.copy_from(encoder.encoder.layers, encoder.encoder.layer_norm)

    @torch.no_grad()
    def online_targets(self, encoder: SpeechEncoder, extracted: ExtractedFeatures) -> Tensor:
        """Return (B, T, D) float32: the average of the teacher's top layers on the unmasked input."""
        if self.teacher is None:
            raise ConfigError("model", ["online targets are off: there is no teacher to take them from"])
        positioned = encoder.add_positions(extracted, dropout=False)
        with encoder.computing():
            outputs = self.teacher(positioned, self.top_layers, compiled=encoder.compiling)
        # (T', B, D) -> (B, T, D), without CLS
        return layer_average([encoder.frames(Hidden(output, None)) for output in outputs], extracted.lengths)

    # -- losses

    def forward(self, encoder: SpeechEncoder, batch: SslBatch) -> SslResult:
        """Compute the losses: regression and classification, sums over the masked frames of all copies; and,
        if the batch asks for it, classification_unmasked, the mean over the other frames.

        All masked copies share one pass of the feature extractor and of the teacher, as in Baevski et al.
        2022, arXiv 2212.07525, section 3.
        """
        extracted, mask = batch.extracted, batch.mask
        heads = [self.online_layer] if self.regression is not None else []
        heads += self.label_layers[: len(self.label_heads)]
        whole = {encoder.num_layers, *heads} if batch.is_unmasked_wanted else set()
        run = run_masked(encoder, batch, {*heads, encoder.num_layers}, whole)
        frames = int(mask.sum())
        result = SslResult(frames=frames, losses={}, shared=run.shared)
        feature_var = variance(at_frames(extracted.features.detach(), mask))
        result.measures["feature_var"] = Measure(feature_var * frames, frames)
        if self.regression is not None:
            targets = at_frames(self.online_targets(encoder, extracted), mask)
            self._regress(result, run.masked[self.online_layer], targets, mask)
        if batch.labels is not None and len(self.label_heads):
            at_heads = [run.masked[layer] for layer in self.label_layers]
            labels = [to_width(label, mask.size(1)) for label in batch.labels]
            predict_labels(result, self.label_heads, at_heads, labels, mask)
            if batch.is_unmasked_wanted:
                everywhere = (encoder.frames(run.whole[layer]) for layer in self.label_layers)
                predict_other_labels(result, self.label_heads, everywhere, labels, mask)
        return result

    def _regress(self, result: SslResult, states: Tensor, targets: Tensor, mask: Tensor) -> None:
        """Add the regression loss and its measures to a result. states, targets: (M, D)."""
        predictions = self.regression(states).float()  # type: ignore[misc]
        frames, dim = len(targets), targets.size(-1)
        # Σ‖ŷ − y‖² / √D
        loss = (predictions - targets).square().sum() / math.sqrt(dim)
        target_var, prediction_var = variance(targets), variance(predictions.detach())
        result.losses["regression"] = Loss(loss, Reduction.SUM)
        result.measures |= {
            "loss_on": Measure(loss.detach(), frames),
            "loss_on_mean": Measure(loss_of_mean(target_var, frames, dim), frames),
            "target_var": Measure(target_var * frames, frames),
            "prediction_var": Measure(prediction_var * frames, frames),
        }
        if not self.training:
            right = identified(predictions, targets, mask.nonzero()[:, 0])
            result.measures["acc_on"] = Measure(right, frames).times(100.0)

    # -- configuration and checkpoints

    def unused_names(self) -> tuple[str, ...]:
        parts = {"teacher.": self.teacher, "regression.": self.regression}
        lacking = [name for name, part in parts.items() if part is None]
        return tuple(lacking if len(self.label_heads) else [*lacking, "label_heads."])

    @classmethod
    def config_errors(cls, options: Any, encoder_layers: int, label_sets: int) -> list[str]:
        errors = []
        online = cls.is_online(options)
        if options.label_head not in (None, *LABEL_HEADS):
            errors.append(f"label_head {options.label_head!r}: wanted {' or '.join(LABEL_HEADS)}")
        if online and not 1 <= options.average_top_k_layers <= encoder_layers:
            got = f"average_top_k_layers {options.average_top_k_layers}"
            errors.append(f"{got}: wanted 1 to encoder_layers {encoder_layers}")
        if label_sets and options.label_layers and len(options.label_layers) != label_sets:
            got = f"label_layers {list(options.label_layers)}"
            errors.append(f"{got}: wanted one for each of {label_sets} label sets")
        online_layer = [] if options.online_layer is None else [options.online_layer]
        for layer in [*options.label_layers, *online_layer]:
            if not 1 <= layer <= encoder_layers:
                errors.append(f"layer {layer} of online_layer or label_layers: wanted 1 to {encoder_layers}")
        if not 0 <= options.ema_decay <= options.ema_end_decay <= 1:
            got = f"ema_decay {options.ema_decay} to ema_end_decay {options.ema_end_decay}"
            errors.append(f"{got}: wanted 0 ≤ first ≤ later ≤ 1")
        return errors


def loss_of_mean(target_var: Tensor, frames: int, dim: int) -> Tensor:
    """Return the regression loss Σ‖ŷ − y‖² / √D of predicting the mean of the targets at every frame.

    target_var: from `variance`, the mean over D channels of Σ(y − ȳ)² / (M − 1). Σ‖ȳ − y‖² over M frames is
    D · (M − 1) times target_var, and the loss √D · (M − 1) times target_var.
    """
    return target_var * (max(frames - 1, 0) * math.sqrt(dim))
