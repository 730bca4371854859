"""The protocol of self-supervised branches: their input, their result, and the registry.

Two models put a branch on their speech encoder: `mt4ssl`, for speech alone, and `joint_ssl_vgs`, beside
visual grounding. To add one, write a file with a subclass of `SslBranch` under `@register_branch(NAME)`,
import it in `fairseq_mtssl/ssl/__init__.py` or name it as a plugin, and train it with model.ssl=NAME.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from torch import Tensor, nn

from fairseq_mtssl.modules.hidden import Hidden
from fairseq_mtssl.modules.rank_sums import RankSums
from fairseq_mtssl.modules.speech_encoder import ExtractedFeatures, SpeechEncoder
from fairseq_mtssl.registry import Registry


@dataclass(frozen=True)
class SslBatch:
    """The input of a branch: one batch of speech.

    source: (B, S) waveforms, zero past their end; lengths: (B,) samples.
    extracted: the unmasked output of the encoder's feature extractor, with T frames.
    mask: (V·B, T) bool, True at the frames to predict, for V differently masked copies of the batch.
    labels: per label set (B, T' ≤ T) dictionary indices, 1 for frames without label; or None.
    shared_layer: a layer, counted from 1, whose output on the first masked copy is to be returned, or None.
    is_unmasked_wanted: whether losses at the frames that are not masked are to be computed too.
    """

    source: Tensor
    lengths: Tensor
    extracted: ExtractedFeatures
    mask: Tensor
    labels: list[Tensor] | None = None
    shared_layer: int | None = None
    is_unmasked_wanted: bool = False


class Reduction(Enum):
    """How a loss was reduced: SUM or MEAN over the masked frames; BATCH: one value per batch."""

    SUM = "sum"
    MEAN = "mean"
    BATCH = "batch"


@dataclass(frozen=True)
class Loss:
    """A scalar loss without its weight, in the unit of the loss function (nats for cross-entropies)."""

    value: Tensor
    reduction: Reduction


@dataclass(frozen=True)
class Measure:
    """A number to log: `total` / `count`, both summed over batches and processes before the division."""

    total: Tensor | float
    count: Tensor | float

    def times(self, factor: float) -> Measure:
        """Return the measure in another unit, such as percent."""
        return Measure(self.total * factor, self.count)


@dataclass
class SslResult:
    """The result of a branch for one batch.

    frames: number of frames of the losses. losses: by name; the criterion weights each by its name.
    measures: by the name under which they are logged. The health report knows the names `contrastive` (loss),
    `ssl_accuracy`, `code_perplexity` and their references; `acc_off` (accuracy of labels, percent),
    `loss_off`; `loss_on` (regression) and `loss_on_mean`, `target_var`, `prediction_var`.
    label_counts: per label set (K,), how often each of its K labels occurs among these frames.
    shared: the output of the layer `SslBatch.shared_layer`.
    """

    frames: Tensor | int
    losses: dict[str, Loss]
    measures: dict[str, Measure] = field(default_factory=dict)
    label_counts: list[Tensor] = field(default_factory=list)
    shared: Hidden | None = None

    def averaged_over(self, ranks: RankSums) -> SslResult:
        """Return the result with `frames` averaged over the ranks, and means over frames scaled accordingly.

        Averaging the gradients of all ranks then gives the gradient of one batch of all frames.
        """
        device = next(iter(self.losses.values())).value.device
        mean = ranks.mean_count(self.frames, device)
        losses = {
            name: Loss(loss.value * (self.frames / mean.clamp(min=1)), loss.reduction)
            if loss.reduction is Reduction.MEAN
            else loss
            for name, loss in self.losses.items()
        }
        return dataclasses.replace(self, frames=mean, losses=losses)


class SslBranch(nn.Module):
    """A self-supervised branch: its parameters, its losses, and its changes between updates.

    Options: a dataclass with a field for each option, where every field has a default and a help text. A
    field with the name of a field of the model takes that value; the others are given in model.ssl_options.
    labels: whether the branch predicts cluster labels from outside (task.labels): "none", "optional" or
    "needed".
    """

    Options: ClassVar[type[Any]]
    labels: ClassVar[str] = "none"

    def __init__(self, options: Any, encoder: SpeechEncoder, label_classes: Sequence[int] = ()) -> None:
        """options: an instance of `Options`; label_classes: per label set its classes and special symbols."""
        super().__init__()
        self.options = options

    def forward(self, encoder: SpeechEncoder, batch: SslBatch) -> SslResult:
        """Run the encoder on the masked batch and compute the losses."""
        raise NotImplementedError

    def step(self, encoder: SpeechEncoder, updates: int) -> None:
        """Called once after each update of the optimizer; updates: number of updates so far."""

    def reset(self, encoder: SpeechEncoder) -> None:
        """Called when the encoder's weights have been set from outside: reset what was derived from them."""

    def set_ranks(self, ranks: RankSums) -> None:
        """Called to compute statistics over all frames, such as the use of a codebook, over all ranks."""

    def unused_names(self) -> tuple[str, ...]:
        """Return prefixes of parameter names that a checkpoint may have but this branch lacks."""
        return ()

    @classmethod
    def config_errors(cls, options: Any, encoder_layers: int, label_sets: int) -> list[str]:
        """Return the errors in the options, each as "field value: wanted …".

        encoder_layers: number of transformer layers of the encoder. label_sets: number of label sets.
        """
        return []


BRANCHES: Registry[type[SslBranch]] = Registry("model.ssl", "branch", "branches")
register_branch = BRANCHES.register
