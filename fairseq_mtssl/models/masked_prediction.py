"""What MT4SSL, HuBERT and data2vec put on an encoder: a slow teacher to regress and labels to classify.

Shared by the models that pre-train with it. Source: Ma et al. 2023, arXiv 2211.07321.
"""

import math
from dataclasses import dataclass, field
from typing import Any, List, Optional

import torch
from fairseq.dataclass import FairseqDataclass
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import IGNORED_LABEL, SPECIAL_SYMBOLS
from fairseq_mtssl.modules.ema import EmaLayers, ema_decay
from fairseq_mtssl.modules.heads import build_label_head, identified
from fairseq_mtssl.modules.hidden import Hidden
from fairseq_mtssl.modules.speech_encoder import FrontEnd, SpeechEncoder
from fairseq_mtssl.targets.online import layer_average

LABEL_HEADS = ("linear", "cosine")


@dataclass
class MaskedPredictionConfig(FairseqDataclass):
    online_layer: Optional[int] = field(
        default=None, metadata={"help": "layer, counted from 1, that predicts the teacher; null: the last"}
    )
    label_layers: List[int] = field(
        default_factory=list,
        metadata={"help": "layer, counted from 1, that predicts each label set; empty: the last for all"},
    )
    label_head: Optional[str] = field(
        default=None,
        metadata={
            "help": "linear (MT4SSL), or cosine to learned embeddings (HuBERT); null: cosine with "
            "model.ssl=hubert of the joint model, else linear"
        },
    )
    average_top_k_layers: int = field(default=8, metadata={"help": "the teacher's layers that are averaged"})
    ema_decay: float = field(default=0.999, metadata={"help": "decay of the teacher at first, [0, 1]"})
    ema_end_decay: float = field(default=0.9999, metadata={"help": "decay of the teacher later, [0, 1]"})
    ema_anneal_updates: int = field(
        default=30_000, metadata={"help": "updates in which the decay goes linearly from first to later"}
    )
    masked_views: int = field(
        default=1,
        metadata={
            "help": "differently masked copies of a batch that the student trains on for one pass of the "
            "convolutions and of the teacher (data2vec 2.0's clone_batch); its time and memory grow with them"
        },
    )


def label_head_of(cfg: Any) -> str:
    """cfg.label_head; where it is null, that of the paper that the branch follows.

    HuBERT (Hsu et al. 2021, arXiv 2106.07447, eq. 3) has cosines over a temperature of 0.1, MT4SSL (Ma et al.
    2023, arXiv 2211.07321) a linear layer.
    """
    if cfg.label_head is not None:
        return str(cfg.label_head)
    return "cosine" if str(getattr(cfg, "ssl", "")) == "hubert" else "linear"


class MaskedPrediction(nn.Module):
    """Heads, targets and losses at the masked frames of an encoder.

    teacher, regression: None without online targets; label_heads: one a label set, possibly none.
    cfg: of the model, for the fields online_layer, label_layers, label_head, final_dim, logit_temp,
    average_top_k_layers and ema_*. label_classes: classes of each label set, special symbols included.
    """

    def __init__(self, cfg: Any, encoder: SpeechEncoder, label_classes: List[int], online: bool) -> None:
        super().__init__()
        dim, top = encoder.dim, encoder.num_layers
        self.online_layer = cfg.online_layer or top
        self.label_layers = list(cfg.label_layers) or [top] * len(label_classes)
        self.top_layers = cfg.average_top_k_layers
        self.decay = (cfg.ema_decay, cfg.ema_end_decay, cfg.ema_anneal_updates)
        layers, norm = encoder.encoder.layers, encoder.encoder.layer_norm
        self.teacher = EmaLayers(layers, norm, encoder.fast) if online else None
        self.regression = nn.Linear(dim, dim) if online else None
        self.label_heads = nn.ModuleList(
            build_label_head(label_head_of(cfg), dim, classes, cfg.final_dim, cfg.logit_temp)
            for classes in label_classes
        )

    def step_teacher(self, encoder: SpeechEncoder, updates: int) -> None:
        """Move the teacher, once after each update that the optimizer has made; updates: those so far."""
        if self.teacher is not None:
            layers, norm = encoder.encoder.layers, encoder.encoder.layer_norm
            self.teacher.step(layers, norm, ema_decay(updates, *self.decay))

    def reset_teacher(self, encoder: SpeechEncoder) -> None:
        """Start the teacher anew from the student."""
        if self.teacher is not None:
            self.teacher.copy_from(encoder.encoder.layers, encoder.encoder.layer_norm)

    @torch.no_grad()
    def online_targets(self, encoder: SpeechEncoder, front: FrontEnd) -> Tensor:
        """(B, T, D) float32: the average of the teacher's top layers on the unmasked input."""
        if self.teacher is None:
            raise ConfigError("model", ["online targets are off: there is no teacher to take them from"])
        placed = encoder.place(front, dropout=False)
        with encoder.computing():
            found = self.teacher(placed, self.top_layers, compiled=encoder.compiling)
        # (T', B, D) -> (B, T, D), CLS left out
        results = [encoder.frames(Hidden(result, None)) for result in found]
        return layer_average(results, front.lengths)

    def forward(
        self,
        encoder: SpeechEncoder,
        front: FrontEnd,
        mask: Tensor,
        labels: Optional[List[Tensor]] = None,
        keep: Optional[int] = None,
        unmasked: bool = False,
    ) -> tuple[dict[str, Any], Optional[Hidden]]:
        """Run the encoder on the masked input and compute the losses, each a sum over masked frames.

        mask: (V·B, T) bool, the masks of V views one after the other; the views are run as one batch.
        labels: (B, T' ≤ T) dictionary indices, one tensor a label set, padded with 1; T' is below T where the
        batch is padded further than its longest clip. unmasked: classify the other frames, too.
        Returns: frames (masked frames, int); feature_var; with online targets regression, regression_of_mean
        (what it is for the mean of the batch's targets), target_var, prediction_var and, in evaluation,
        identified (frames whose own target is the nearest of their clip's); with labels one entry a set of
        classification, correct, labelled (frames with a label), label_counts ((K,) frames of each label), and
        with unmasked also of classification_unmasked, a mean over the other frames. All are of all views.
        Beside it the state of the first view after layer `keep`, or None; where nothing else is asked of the
        last layer, it is computed at masked frames alone.
        Source: several views a teacher pass: Baevski et al. 2022, arXiv 2212.07525.
        """
        top = encoder.num_layers
        heads = [self.online_layer] if self.regression is not None else []
        heads += self.label_layers[: len(self.label_heads)]
        rows = len(front.lengths)
        hidden = encoder.embed(repeat(front, len(mask) // rows), mask)
        whole = {*heads, top, *([] if keep is None else [keep])}
        if keep != top and not unmasked:
            whole.remove(top)
        after = run_to_each(encoder, hidden, whole)
        # (T', V·B, D) -> (M, D): masked frames only
        states = {layer: encoder.frames(after[layer])[mask] for layer in set(heads) & whole}
        if top not in whole:
            last = max(whole, default=0)
            states[top] = encoder.run_at(after.get(last, hidden), last, top, mask)
        out: dict[str, Any] = {
            "frames": int(mask.sum()),
            "feature_var": variance(at_frames(front.features.detach(), mask)),
        }
        if self.regression is not None:
            targets = at_frames(self.online_targets(encoder, front), mask)
            self._regress(out, states[self.online_layer], targets, mask)
        if labels is not None:
            scores = [
                classify(head(states[layer]), at_frames(to_width(label, mask.size(1)), mask))
                for head, layer, label in zip(self.label_heads, self.label_layers, labels, strict=True)
            ]
            for index, name in enumerate(("classification", "correct", "labelled", "label_counts")):
                out[name] = [score[index] for score in scores]
            if unmasked:
                out["classification_unmasked"] = self._classify_others(encoder, after, labels, mask)
        return out, None if keep is None else first_rows(after[keep], rows)

    def _classify_others(
        self, encoder: SpeechEncoder, after: dict[int, Hidden], labels: List[Tensor], mask: Tensor
    ) -> List[Tensor]:
        """Mean cross-entropy of each label set at frames that are not masked; 0 where none has a label."""
        losses = []
        for head, layer, label in zip(self.label_heads, self.label_layers, labels, strict=True):
            truth = at_frames(to_width(label, mask.size(1)), ~mask)
            loss, _, labelled, _ = classify(head(encoder.frames(after[layer])[~mask]), truth)
            losses.append(loss / labelled.clamp(min=1))
        return losses

    def _regress(self, out: dict[str, Any], states: Tensor, targets: Tensor, mask: Tensor) -> None:
        predictions = self.regression(states).float()  # type: ignore[misc]
        # Σ‖ŷ − y‖² / √D
        out["regression"] = (predictions - targets).square().sum() / math.sqrt(targets.size(-1))
        out["target_var"], out["prediction_var"] = variance(targets), variance(predictions.detach())
        out["regression_of_mean"] = loss_of_mean(out["target_var"], len(targets), targets.size(-1))
        if not self.training:
            out["identified"] = identified(predictions, targets, mask.nonzero()[:, 0])

    def unused_names(self) -> tuple[str, ...]:
        """Beginnings of the names of weights that this one was built without, relative to it."""
        parts = {"teacher.": self.teacher, "regression.": self.regression}
        lacking = [name for name, part in parts.items() if part is None]
        return tuple(lacking if len(self.label_heads) else [*lacking, "label_heads."])


def run_to_each(encoder: SpeechEncoder, hidden: Hidden, layers: set[int]) -> dict[int, Hidden]:
    """The states after each of some layers, counted from 1."""
    done, after = 0, {}
    for layer in sorted(layers):
        # Piece by piece: a layer that layerdrop skips hands on the state below it.
        after[layer] = hidden = encoder.run(hidden, done, layer)
        done = layer
    return after


def repeat(front: FrontEnd, views: int) -> FrontEnd:
    """The batch so many times, one copy after the other; itself for one."""
    if views == 1:
        return front
    # (B, T, C) -> (V·B, T, C)
    return FrontEnd(front.features.repeat(views, 1, 1), front.lengths.repeat(views), front.penalty)


def first_rows(hidden: Hidden, rows: int) -> Hidden:
    """(T', V·B, D) -> (T', B, D): the first view."""
    if hidden.states.size(1) == rows:
        return hidden
    return Hidden(hidden.states[:, :rows], None if hidden.padding is None else hidden.padding[:rows])


def at_frames(x: Tensor, chosen: Tensor) -> Tensor:
    """(B, T, …) -> (M, …): of what all views share, the frames that each chooses; chosen: (V·B, T) bool."""
    rows, times = chosen.nonzero(as_tuple=True)
    return x[rows % len(x), times]


def to_width(labels: Tensor, frames: int) -> Tensor:
    """(B, T) -> (B, frames): labels of the frames of a padded batch; those past the last have none (1).

    Raises: ConfigError for more labels than frames.
    """
    more = frames - labels.size(1)
    if more < 0:
        got = f"{labels.size(1)} labels a clip for a batch of {frames} frames"
        raise ConfigError(
            "task.conv_feature_layers", [f"{got}; give the model's, by which labels are laid on frames"]
        )
    return nn.functional.pad(labels, (0, more), value=IGNORED_LABEL)


def classify(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sum of the cross-entropies in nats, frames that are right, frames that have a label, and (K,) frames of
    each label.

    logits: (M, classes), K labels behind the special symbols; truth: (M,) ints, 1 where there is no label.
    """
    loss = nn.functional.cross_entropy(logits.float(), truth, ignore_index=IGNORED_LABEL, reduction="sum")
    known = truth != IGNORED_LABEL
    counts = logits.new_zeros(logits.size(-1), dtype=torch.float32)
    # bincount would make the host wait for a GPU
    counts.index_add_(0, truth, torch.ones_like(truth, dtype=torch.float32))
    return loss, ((logits.argmax(-1) == truth) & known).sum(), known.sum(), counts[SPECIAL_SYMBOLS:]


def loss_of_mean(target_var: Tensor, frames: int, dim: int) -> Tensor:
    """The regression's loss Σ‖ŷ − y‖² / √D of a prediction ŷ that is the mean of the targets at every frame.

    target_var: as `variance` gives it, the mean over D channels of Σ(y − ȳ)² / (M − 1). So Σ‖ȳ − y‖² over M
    frames is D · (M − 1) times it, and the loss √D · (M − 1) times it.
    """
    return target_var * (max(frames - 1, 0) * math.sqrt(dim))


def variance(x: Tensor) -> Tensor:
    """(M, D) -> scalar: the variance of each channel over the frames, averaged; 0 below two frames."""
    return x.float().var(0).mean() if x.size(0) > 1 else x.new_zeros((), dtype=torch.float32)


def drop_unused(head: nn.Module, prefix: str, state_dict: dict[str, Any]) -> None:
    """Leave out of a checkpoint's weights what a MaskedPrediction under this prefix was built without."""
    if isinstance(head, MaskedPrediction):
        unused = tuple(prefix + name for name in head.unused_names())
        for key in [key for key in state_dict if key.startswith(unused)]:
            del state_dict[key]


def target_faults(cfg: Any, layers: int, label_sets: int, online: bool) -> list[str]:
    """What is wrong with the fields of a MaskedPredictionConfig."""
    faults = []
    if label_head_of(cfg) not in LABEL_HEADS:
        faults.append(f"label_head {cfg.label_head!r}: wanted {' or '.join(LABEL_HEADS)}")
    if cfg.masked_views < 1:
        faults.append(f"masked_views {cfg.masked_views}: wanted 1 or more")
    if online and not 1 <= cfg.average_top_k_layers <= layers:
        faults.append(f"average_top_k_layers {cfg.average_top_k_layers}: wanted 1 to encoder_layers {layers}")
    if label_sets and cfg.label_layers and len(cfg.label_layers) != label_sets:
        got = f"label_layers {list(cfg.label_layers)}"
        faults.append(f"{got}: wanted one for each of {label_sets} label sets")
    for layer in [*cfg.label_layers, *([cfg.online_layer] if cfg.online_layer is not None else [])]:
        if not 1 <= layer <= layers:
            faults.append(f"layer {layer} of online_layer or label_layers: wanted 1 to {layers}")
    if not 0 <= cfg.ema_decay <= cfg.ema_end_decay <= 1:
        faults.append(
            f"ema_decay {cfg.ema_decay} to ema_end_decay {cfg.ema_end_decay}: wanted 0 ≤ first ≤ later ≤ 1"
        )
    return faults
