"""Functions that branches share: the transformer on masked copies of a batch, and losses at masked frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import IGNORED_LABEL, SPECIAL_SYMBOLS
from fairseq_mtssl.modules.hidden import Hidden
from fairseq_mtssl.modules.speech_encoder import ExtractedFeatures, SpeechEncoder
from fairseq_mtssl.ssl.base import Loss, Measure, Reduction, SslBatch, SslResult


class MaskedRun(NamedTuple):
    """Outputs of transformer layers on masked copies of a batch, by layer, counted from 1.

    masked: (M, D) at the M masked frames of all copies; whole: at all frames of the V·B rows;
    shared: the output of layer `SslBatch.shared_layer` on the first copy.
    """

    masked: dict[int, Tensor]
    whole: dict[int, Hidden]
    shared: Hidden | None


def run_masked(encoder: SpeechEncoder, batch: SslBatch, layers: set[int], whole: set[int]) -> MaskedRun:
    """Run the transformer on all masked copies of a batch as one batch.

    layers: layers whose output is wanted at the masked frames; whole: layers whose output is wanted at all
    frames. If the last layer is wanted at masked frames only, it is computed only there.
    """
    mask, top, rows = batch.mask, encoder.num_layers, len(batch.lengths)
    whole = whole if batch.shared_layer is None else whole | {batch.shared_layer}
    hidden = encoder.embed(repeat(batch.extracted, len(mask) // rows), mask)
    everywhere = (layers | whole) - ({top} - whole)
    done, after = 0, {}
    for layer in sorted(everywhere):
        # one layer at a time, so that a layer that layerdrop skips returns its input
        after[layer] = hidden = encoder.forward_layers(hidden, done, layer)
        done = layer
    # (T', V·B, D) -> (M, D): masked frames only
    states = {layer: encoder.frames(after[layer])[mask] for layer in layers & everywhere}
    if top not in everywhere:
        states[top] = encoder.forward_masked(hidden, done, top, mask)
    shared = None if batch.shared_layer is None else first_copy(after[batch.shared_layer], rows)
    return MaskedRun(states, after, shared)


def repeat(extracted: ExtractedFeatures, copies: int) -> ExtractedFeatures:
    """Repeat the rows of a batch, one copy after the other."""
    if copies == 1:
        return extracted
    # (B, T, C) -> (V·B, T, C)
    features, lengths = extracted.features.repeat(copies, 1, 1), extracted.lengths.repeat(copies)
    return ExtractedFeatures(features, lengths, extracted.penalty)


def first_copy(hidden: Hidden, rows: int) -> Hidden:
    """Return the first of several copies of B rows: (T', V·B, D) -> (T', B, D)."""
    if hidden.states.size(1) == rows:
        return hidden
    return Hidden(hidden.states[:, :rows], None if hidden.padding is None else hidden.padding[:rows])


def at_frames(x: Tensor, chosen: Tensor) -> Tensor:
    """Select frames of a batch that all copies share: (B, T, …) -> (M, …). chosen: (V·B, T) bool."""
    rows, times = chosen.nonzero(as_tuple=True)
    return x[rows % len(x), times]


def to_width(labels: Tensor, frames: int) -> Tensor:
    """Pad labels (B, T) with IGNORED_LABEL to the width of a padded batch: (B, frames).

    Raises: ConfigError for more labels than frames.
    """
    more = frames - labels.size(1)
    if more < 0:
        got = f"{labels.size(1)} labels per clip for a batch of {frames} frames"
        raise ConfigError("task.conv_feature_layers", [f"{got}; give the model's conv_feature_layers"])
    return nn.functional.pad(labels, (0, more), value=IGNORED_LABEL)


def classify(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sum of the cross-entropies in nats, the numbers of correct and of labelled frames, and the
    frames of each label, (K,).

    logits: (M, classes), special symbols and then K labels; truth: (M,) ints, 1 for frames without label.
    """
    loss = nn.functional.cross_entropy(logits.float(), truth, ignore_index=IGNORED_LABEL, reduction="sum")
    known = truth != IGNORED_LABEL
    counts = logits.new_zeros(logits.size(-1), dtype=torch.float32)
    # bincount would make the host wait for the GPU
    counts.index_add_(0, truth, torch.ones_like(truth, dtype=torch.float32))
    return loss, ((logits.argmax(-1) == truth) & known).sum(), known.sum(), counts[SPECIAL_SYMBOLS:]


def predict_labels(
    result: SslResult,
    heads: Iterable[nn.Module],
    states: Iterable[Tensor],
    labels: Sequence[Tensor],
    mask: Tensor,
) -> None:
    """Classify the masked frames; adds the loss, its measures and the label counts to a result.

    mask: (V·B, T) bool, True at M frames. Per label set: heads: (M, D) -> (M, classes); states: (M, D);
    labels: (B, T) dictionary indices, 1 for frames without label.
    """
    losses: list[Tensor] = []
    for index, (head, state, label) in enumerate(zip(heads, states, labels, strict=True)):
        loss, correct, labelled, counts = classify(head(state), at_frames(label, mask))
        losses.append(loss)
        suffix = "" if len(labels) == 1 else f"_{index}"
        result.measures[f"loss_off{suffix}"] = Measure(loss.detach(), labelled)
        result.measures[f"acc_off{suffix}"] = Measure(correct, labelled).times(100.0)
        result.label_counts.append(counts)
    result.losses["classification"] = Loss(sum(losses[1:], losses[0]), Reduction.SUM)


def predict_other_labels(
    result: SslResult,
    heads: Iterable[nn.Module],
    states: Iterable[Tensor],
    labels: Sequence[Tensor],
    mask: Tensor,
) -> None:
    """Classify the frames that are not masked; adds the loss, per label set a mean over labelled frames.

    states: per label set (V·B, T, D); other arguments as in `predict_labels`.
    """
    losses: list[Tensor] = []
    for head, state, label in zip(heads, states, labels, strict=True):
        loss, _, labelled, _ = classify(head(state[~mask]), at_frames(label, ~mask))
        losses.append(loss / labelled.clamp(min=1))
    result.losses["classification_unmasked"] = Loss(sum(losses[1:], losses[0]), Reduction.BATCH)


def variance(x: Tensor) -> Tensor:
    """Return the variance over the frames of (M, D), averaged over channels; 0 for fewer than two frames."""
    return x.float().var(0).mean() if x.size(0) > 1 else x.new_zeros((), dtype=torch.float32)
