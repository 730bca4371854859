"""What every self-supervised branch is given, what it returns, and the registry of branches.

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
from fairseq_mtssl.modules.speech_encoder import FrontEnd, SpeechEncoder
from fairseq_mtssl.registry import Registry


@dataclass(frozen=True)
class SslBatch:
    """One batch of speech, as a branch is given it.

    source: (B, S) waveforms, zero past their end; lengths: (B,) samples.
    front: what the encoder makes of them below its transformer, unmasked; it has T frames.
    mask: (V·B, T) bool, True at the frames to be predicted, for V differently masked copies of the batch.
    labels: (B, T' ≤ T) dictionary indices, one tensor a label set, 1 where there is none; or None.
    shared_layer: the layer, counted from 1, whose output on the first masked copy is wanted too, or None.
    is_unmasked_wanted: whether losses at the frames that are not masked are wanted too.
    """

    source: Tensor
    lengths: Tensor
    front: FrontEnd
    mask: Tensor
    labels: list[Tensor] | None = None
    shared_layer: int | None = None
    is_unmasked_wanted: bool = False


class Reduction(Enum):
    """How a loss was reduced: SUM and MEAN over the masked frames of the batch; BATCH: not over frames."""

    SUM = "sum"
    MEAN = "mean"
    BATCH = "batch"


@dataclass(frozen=True)
class Loss:
    """A scalar in the loss function's own unit (nats for cross-entropies), without its weight."""

    value: Tensor
    reduction: Reduction


@dataclass(frozen=True)
class Measure:
    """A number to log: `total` / `count`, each summed over batches and processes before the division."""

    total: Tensor | float
    count: Tensor | float

    def times(self, factor: float) -> Measure:
        """The same in another unit, such as percent."""
        return Measure(self.total * factor, self.count)


@dataclass
class SslResult:
    """What a branch returns for one batch.

    frames: the frames that the losses are over. losses: by name; the criterion weighs each by its name.
    measures: by the name under which they are logged. Names that the health report understands:
    `contrastive` (loss), `ssl_accuracy`, `code_perplexity` and their references; `acc_off` (accuracy of
    labels, percent), `loss_off`; `loss_on` (regression) and `loss_on_mean`, `target_var`, `prediction_var`.
    label_counts: (K,) how often each of K labels occurs among these frames, one tensor a label set.
    shared: the output of the layer that was asked for by `SslBatch.shared_layer`.
    """

    frames: Tensor | int
    losses: dict[str, Loss]
    measures: dict[str, Measure] = field(default_factory=dict)
    label_counts: list[Tensor] = field(default_factory=list)
    shared: Hidden | None = None

    def averaged_over(self, ranks: RankSums) -> SslResult:
        """The same with `frames` the mean over the ranks, and means over frames scaled to that count.

        The gradients of all ranks are averaged afterwards; they are then those of one batch of all frames.
        """
        own = self.frames
        device = next(iter(self.losses.values())).value.device
        mean = ranks.mean_count(own, device)
        losses = {
            name: Loss(loss.value * (own / mean.clamp(min=1)), loss.reduction)
            if loss.reduction is Reduction.MEAN
            else loss
            for name, loss in self.losses.items()
        }
        return dataclasses.replace(self, frames=mean, losses=losses)


class SslBranch(nn.Module):
    """A self-supervised branch: its parameters, its losses, and what happens to it between updates.

    Options: a dataclass with a field for each option, where every field has a default and a help text. A
    field with the name of a field of the model takes that value; the others are given in model.ssl_options.
    labels: whether the branch predicts cluster labels from outside (task.labels): "none", "optional" or
    "needed".
    """

    Options: ClassVar[type[Any]]
    labels: ClassVar[str] = "none"

    def __init__(self, options: Any, encoder: SpeechEncoder, label_classes: Sequence[int] = ()) -> None:
        """options: of this branch. label_classes: classes of each label set, special symbols included."""
        super().__init__()
        self.options = options

    def forward(self, encoder: SpeechEncoder, batch: SslBatch) -> SslResult:
        """Run the encoder on the masked batch and compute the losses."""
        raise NotImplementedError

    def step(self, encoder: SpeechEncoder, updates: int) -> None:
        """Called once after each update that the optimizer has made; updates: those made so far."""

    def reset(self, encoder: SpeechEncoder) -> None:
        """Called when the encoder's weights have been set from outside: start what follows them anew."""

    def set_ranks(self, ranks: RankSums) -> None:
        """Take statistics that need all frames, such as the use of a code book, over all ranks."""

    def unused_names(self) -> tuple[str, ...]:
        """Beginnings of parameter names that a checkpoint may have and this branch was built without."""
        return ()

    @classmethod
    def config_errors(cls, options: Any, encoder_layers: int, label_sets: int) -> list[str]:
        """What is wrong with the options, each as "field value: wanted …"; empty if nothing is.

        encoder_layers: transformer layers of the encoder. label_sets: how many label sets there are.
        """
        return []


BRANCHES: Registry[type[SslBranch]] = Registry("model.ssl", "branch", "branches")
register_branch = BRANCHES.register
