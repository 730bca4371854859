"""wav2vec 2.0: contrastive prediction of each masked frame's quantized features.

Parameter names are those of fairseq (``quantizer``, ``project_q``, ``final_proj``).
Source: Baevski et al. 2020, arXiv 2006.11477, sections 2 and 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Tuple

import torch
from torch import Tensor, nn

from fairseq_mtssl.modules.quantizer import ProductQuantizer
from fairseq_mtssl.modules.rank_sums import RankSums
from fairseq_mtssl.modules.speech_encoder import SpeechEncoder
from fairseq_mtssl.ssl.base import Loss, Measure, Reduction, SslBatch, SslBranch, SslResult, register_branch
from fairseq_mtssl.ssl.masked_frames import first_copy, repeat


@dataclass
class Wav2vec2Options:
    final_dim: int = field(
        default=256,
        metadata={"help": "dimension in which context and targets are compared; also of label_head=cosine"},
    )
    latent_vars: int = field(default=320, metadata={"help": "entries per codebook group"})
    latent_groups: int = field(default=2, metadata={"help": "number of codebook groups"})
    latent_temp: Tuple[float, float, float] = field(
        default=(2.0, 0.5, 0.999995),
        metadata={"help": "Gumbel temperature: first, last, factor per update"},
    )
    num_negatives: int = field(
        default=100, metadata={"help": "negatives per masked frame, from the same utterance"}
    )
    logit_temp: float = field(
        default=0.1, metadata={"help": "divides the cosines of ssl=wav2vec2 and of label_head=cosine"}
    )
    dropout_features: float = field(default=0.1, metadata={"help": "dropout before the quantizer"})


@dataclass
class Contrast:
    """The contrastive task on one batch.

    loss: scalar, mean cross-entropy in nats over the frames; accuracy: scalar, share of the frames whose
    target scores above every negative; chance_loss, chance_accuracy: both at chance (`chance_of`);
    frames: number of masked frames with a negative; perplexity: scalar, of the mean code distribution, summed
    over groups; codes: codebook entries in all groups; temperature: of the Gumbel softmax.
    """

    loss: Tensor
    accuracy: Tensor
    chance_loss: Tensor
    chance_accuracy: Tensor
    frames: int
    perplexity: Tensor
    codes: int
    temperature: float


@register_branch("wav2vec2")
class Wav2vec2(SslBranch):
    """Predicts each masked frame's quantized features among negatives of the same utterance."""

    Options = Wav2vec2Options

    def __init__(
        self, options: Wav2vec2Options, encoder: SpeechEncoder, label_classes: Sequence[int] = ()
    ) -> None:
        super().__init__(options, encoder, label_classes)
        final_dim = options.final_dim
        self.quantizer = ProductQuantizer(
            dim=encoder.feature_dim,
            num_vars=options.latent_vars,
            temp=tuple(options.latent_temp),
            groups=options.latent_groups,
            combine_groups=False,
            vq_dim=final_dim,
            time_first=True,
        )
        self.project_q = nn.Linear(final_dim, final_dim)
        self.final_proj = nn.Linear(encoder.dim, final_dim)
        self.dropout_features = nn.Dropout(options.dropout_features)
        self.negatives = options.num_negatives
        self.logit_temp = options.logit_temp

    def set_ranks(self, ranks: RankSums) -> None:
        self.quantizer.ranks = ranks

    def forward(self, encoder: SpeechEncoder, batch: SslBatch) -> SslResult:
        """Compute the losses contrastive, diversity (the unused share of the codebook), feature_penalty."""
        rows, shared_layer = len(batch.lengths), batch.shared_layer or 0
        copied = repeat(batch.extracted, len(batch.mask) // rows)
        shared = encoder.forward_layers(encoder.embed(copied, batch.mask), 0, shared_layer)
        top = encoder.forward_layers(shared, shared_layer, encoder.num_layers)
        task = self.contrast(encoder.frames(top), copied.features, batch.mask)
        frames, total = task.frames, float(task.frames)
        return SslResult(
            frames=frames,
            losses={
                "contrastive": Loss(task.loss, Reduction.MEAN),
                "diversity": Loss((task.codes - task.perplexity) / task.codes, Reduction.BATCH),
                "feature_penalty": Loss(batch.extracted.penalty, Reduction.BATCH),
            },
            measures={
                "contrastive": Measure(task.loss.detach() * total, total),
                "contrastive_chance": Measure(task.chance_loss * total, total),
                "ssl_accuracy": Measure(task.accuracy * total, total),
                "ssl_chance": Measure(task.chance_accuracy * total, total),
                "codes": Measure(float(task.codes), 1.0),
                "code_perplexity": Measure(task.perplexity.detach(), 1.0),
                "temp": Measure(float(task.temperature), 1.0),
            },
            shared=first_copy(shared, rows) if batch.shared_layer is not None else None,
        )

    def contrast(self, context: Tensor, features: Tensor, mask: Tensor) -> Contrast:
        """Compare each masked frame's prediction with its target and negatives.

        context: (B, T, D) top-layer output of the masked input; features: (B, T, C) unmasked conv features;
        mask: (B, T) bool. Rows may differ in their number of masked frames; a row with fewer than two has no
        negative and is left out of the loss.
        """
        # (B, T, ·) -> (M, ·): masked frames only, row by row
        quantized = self.quantizer(self.dropout_features(features)[mask].unsqueeze(0))
        targets = self.project_q(quantized["x"].squeeze(0))
        predictions = self.final_proj(context[mask])
        counts = mask.sum(1)
        starts = counts.cumsum(0) - counts
        rows = mask.nonzero()[:, 0]
        count, start = counts[rows], starts[rows]  # (M,)
        chosen = self._draw_negatives(count, start)  # (M, N)
        marks = fingerprints(targets)
        logits = self._logits(predictions, targets, marks, chosen, counts, starts)
        compared = count > 1
        logits = logits[compared].float()
        truth = torch.zeros(logits.size(0), dtype=torch.long, device=logits.device)
        if logits.size(0):
            loss = nn.functional.cross_entropy(logits, truth)
            accuracy = (logits[:, :1] > logits[:, 1:]).all(1).float().mean()
            chance_loss, chance_accuracy = chance_of(marks[compared], marks[chosen[compared]])
        else:
            loss, accuracy = predictions.sum() * 0.0, predictions.new_zeros(())
            chance_loss, chance_accuracy = accuracy, accuracy
        return Contrast(
            loss=loss,
            accuracy=accuracy,
            chance_loss=chance_loss,
            chance_accuracy=chance_accuracy,
            frames=logits.size(0),
            perplexity=quantized["prob_perplexity"],
            codes=quantized["num_vars"],
            temperature=quantized["temp"],
        )

    def _draw_negatives(self, count: Tensor, start: Tensor) -> Tensor:
        """Draw indices (M, N) into the M masked frames: other frames of the same row, with replacement."""
        draws = torch.rand(count.numel(), self.negatives, device=count.device)
        others = (count - 1).clamp(min=1).unsqueeze(1)
        chosen = (draws * others).long().clamp(max=others - 1)
        itself = (torch.arange(count.numel(), device=count.device) - start).unsqueeze(1)
        chosen = chosen + (chosen >= itself).long()
        return start.unsqueeze(1) + chosen.clamp(max=(count - 1).unsqueeze(1))

    def _logits(
        self,
        predictions: Tensor,
        targets: Tensor,
        marks: Tensor,
        chosen: Tensor,
        counts: Tensor,
        starts: Tensor,
    ) -> Tensor:
        """Return cosines divided by the temperature, (M, 1 + N), those of the targets first.

        A negative that equals the target exactly (marks: `fingerprints` of the targets) gets −inf. One
        product gives all cosines of a row, from which the drawn ones are selected, so that the 1 + N vectors
        of each frame are never copied.
        """
        frames = torch.arange(predictions.size(0), device=predictions.device)
        predictions = nn.functional.normalize(predictions.float(), dim=-1, eps=1e-8)
        normed = nn.functional.normalize(targets.float(), dim=-1, eps=1e-8)
        width = int(counts.max())
        row = torch.repeat_interleave(torch.arange(counts.numel(), device=counts.device), counts)
        place = frames - starts[row]
        # (M, D) -> (B, width, D), rows padded with zeros
        grid = predictions.new_zeros(counts.numel(), width, predictions.size(-1))
        cosines = torch.bmm(
            grid.index_put((row, place), predictions), grid.index_put((row, place), normed).transpose(1, 2)
        )
        indices = torch.cat([frames.unsqueeze(1), chosen], dim=1)  # (M, 1 + N)
        flat = (row.unsqueeze(1) * width + place.unsqueeze(1)) * width + place[indices]
        logits = cosines.flatten()[flat] / self.logit_temp
        twins = marks[chosen] == marks.unsqueeze(1)
        return torch.cat([logits[:, :1], logits[:, 1:].masked_fill(twins, float("-inf"))], dim=1)


@torch.no_grad()
def chance_of(target: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Return the contrastive loss and accuracy at chance, as means over the frames.

    target: (M,), negatives: (M, N): `fingerprints` of the vectors. A negative that equals the target is not
    compared. If all scores tie, the loss of a frame is ln(1 + number of negatives compared), in nats. The
    accuracy is one over the number of *different* vectors compared, since equal negatives have equal scores:
    with 50 draws among 20 frames it is at least 1/20, and with a codebook collapsed to one entry it is 1.
    """
    ordered, _ = negatives.sort(dim=1)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    different = (is_new & (ordered != target.unsqueeze(1))).sum(1)
    compared = (negatives != target.unsqueeze(1)).sum(1)
    return (1.0 + compared).log().mean(), (1.0 / (1.0 + different)).mean()


@torch.no_grad()
def fingerprints(vectors: Tensor) -> Tensor:
    """Map vectors (M, D) to (M,) float64: equal for equal vectors, and almost surely different otherwise."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(vectors.size(-1), generator=generator, dtype=torch.float64)
    return (vectors.double() * weights.to(vectors.device)).sum(-1)
