"""The wav2vec 2.0 self-supervised branch above the encoder: quantizer, negatives, contrastive loss.

Parameter names are fairseq's (``quantizer``, ``project_q``, ``final_proj``).
Source: Baevski et al. 2020, arXiv 2006.11477, sections 2 and 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairseq_mtssl.modules.quantizer import ProductQuantizer
from fairseq_mtssl.modules.rank_sums import RankSums


@dataclass
class SslOutput:
    """One batch of the self-supervised branch.

    contrastive: scalar, mean cross-entropy in nats over the masked frames; correct: scalar, share of
    frames whose target scores above every negative; contrastive_chance, correct_chance: what both are
    when nothing is known (`chance_of`); frames: masked frames that had a negative; perplexity: scalar, of
    the mean code distribution summed over groups; codes: code book size over all groups; penalty: scalar,
    mean square of the conv features; temperature: of the Gumbel softmax.
    With statistics over all ranks, frames is the mean over the ranks, and a mean over frames is this rank's
    sum divided by it: averaged over the ranks it is the mean over the frames of all.
    """

    contrastive: Tensor
    correct: Tensor
    contrastive_chance: Tensor
    correct_chance: Tensor
    frames: int | Tensor
    perplexity: Tensor
    codes: int
    penalty: Tensor
    temperature: float


class ContrastiveSslHead(nn.Module):
    """Predicts each masked frame's quantized features among negatives of the same utterance.

    feature_dim: of the conv features; dim: of the context; final_dim: where both meet.
    latent_vars × latent_groups: the code book; latent_temp: (first, last, factor an update).
    negatives: per frame, from the other masked frames of its row; logit_temp divides the cosines.
    ranks: for means over the frames of all ranks in training; None for those of this process.
    """

    def __init__(
        self,
        *,
        feature_dim: int,
        dim: int,
        final_dim: int,
        latent_vars: int,
        latent_groups: int,
        latent_temp: tuple[float, float, float],
        negatives: int,
        logit_temp: float,
        feature_dropout: float,
        ranks: RankSums | None = None,
    ) -> None:
        super().__init__()
        self.ranks = ranks
        self.quantizer = ProductQuantizer(
            dim=feature_dim,
            num_vars=latent_vars,
            temp=latent_temp,
            groups=latent_groups,
            combine_groups=False,
            vq_dim=final_dim,
            time_first=True,
        )
        self.quantizer.ranks = ranks
        self.project_q = nn.Linear(final_dim, final_dim)
        self.final_proj = nn.Linear(dim, final_dim)
        self.dropout_features = nn.Dropout(feature_dropout)
        self.negatives = negatives
        self.logit_temp = logit_temp

    def forward(self, context: Tensor, features: Tensor, mask: Tensor, penalty: Tensor) -> SslOutput:
        """context: (B, T, D) top-layer output of the masked input; features: (B, T, C) unmasked conv
        features; mask: (B, T) bool; penalty: scalar passed through. Rows may differ in masked frames;
        a row with fewer than two has no negative and is left out of the loss.
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
            contrastive = nn.functional.cross_entropy(logits, truth)
            correct = (logits[:, :1] > logits[:, 1:]).all(1).float().mean()
            chances = chance_of(marks[compared], marks[chosen[compared]])
        else:
            contrastive, correct = predictions.sum() * 0.0, predictions.new_zeros(())
            chances = (correct, correct)
        frames: int | Tensor = logits.size(0)
        means = [contrastive, correct, *chances]
        if self.training and self.ranks is not None and self.ranks.several():
            frames = self.ranks.mean_count(logits.size(0), logits.device)
            means = [mean * (logits.size(0) / frames.clamp(min=1)) for mean in means]
        return SslOutput(
            contrastive=means[0],
            correct=means[1],
            contrastive_chance=means[2],
            correct_chance=means[3],
            frames=frames,
            perplexity=quantized["prob_perplexity"],
            codes=quantized["num_vars"],
            penalty=penalty,
            temperature=quantized["temp"],
        )

    def _draw_negatives(self, count: Tensor, start: Tensor) -> Tensor:
        """Indices (M, N) into the M masked frames: others of the same row, with replacement."""
        draws = torch.rand(count.numel(), self.negatives, device=count.device)
        others = (count - 1).clamp(min=1).unsqueeze(1)
        chosen = (draws * others).long().clamp(max=others - 1)
        own = (torch.arange(count.numel(), device=count.device) - start).unsqueeze(1)
        chosen = chosen + (chosen >= own).long()
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
        """Cosines over the temperature, (M, 1 + N): the target first. A negative that equals the
        target exactly (marks: `fingerprints` of the targets) is −inf. All cosines of a row come from one
        product, then the drawn ones are picked: 1 + N vectors a frame are never copied.
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
    """Contrastive loss and accuracy of predictions that know nothing, means over the frames.

    target: (M,), negatives: (M, N): marks that are equal for equal vectors. A negative that equals the target
    is not compared. Where all scores tie, the loss of a frame is ln(1 + negatives compared), in nats. The
    accuracy is one over the *different* vectors compared, since equal negatives have one score: with 50 draws
    among 20 frames it is at least 1/20, and with a code book that has collapsed to one entry it is 1.
    """
    ordered, _ = negatives.sort(dim=1)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    different = (is_new & (ordered != target.unsqueeze(1))).sum(1)
    compared = (negatives != target.unsqueeze(1)).sum(1)
    return (1.0 + compared).log().mean(), (1.0 / (1.0 + different)).mean()


@torch.no_grad()
def fingerprints(vectors: Tensor) -> Tensor:
    """(M, D) -> (M,) float64: equal for equal vectors, different for different ones but for chance."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(vectors.size(-1), generator=generator, dtype=torch.float64)
    return (vectors.double() * weights.to(vectors.device)).sum(-1)
