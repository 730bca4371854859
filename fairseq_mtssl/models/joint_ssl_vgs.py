"""VGS+: self-supervision and visual grounding on one speech encoder.

Source: Khorrami et al. 2023, arXiv 2306.02972.
"""

from dataclasses import dataclass, field, replace
from typing import Any, List, Optional, Sequence, Tuple

from fairseq.models import register_model
from torch import Tensor, nn

from fairseq_mtssl.models.grounding_config import (
    PARTS,
    VgsRetrievalConfig,
    check_config,
    part_errors,
    resolve,
)
from fairseq_mtssl.models.ssl_model import SslConfig, SslModel, branch_options, ssl_errors
from fairseq_mtssl.models.vgs_retrieval import VgsRetrievalModel, speech_encoder_of
from fairseq_mtssl.modules.speech_encoder import ExtractedFeatures, SpeechEncoder
from fairseq_mtssl.ssl.base import SslBatch, SslBranch, SslResult


@dataclass
class JointSslVgsConfig(VgsRetrievalConfig, SslConfig):
    encoder_layers: int = field(
        default=12,
        metadata={"help": "number of all speech layers; SSL alone uses those above shared_layers"},
    )
    ssl: str = field(
        default="wav2vec2",
        metadata={
            "help": "the self-supervised branch: wav2vec2 (contrastive), hubert (task.labels), data2vec "
            "(an EMA teacher), mt4ssl (both), best_rq (labels of a random quantizer), or one of a plugin"
        },
    )
    vgs_masked: Optional[bool] = field(
        default=None,
        metadata={
            "help": "in training give the VGS branch speech that is masked as for SSL, in all phases, as the "
            "paper's code does (one pass for both branches); false: unmasked speech, for which the shared "
            "layers run once more if both branches train"
        },
    )
    vgs_mask_prob: float = field(
        default=0.0,
        metadata={
            "help": "with vgs_masked=false, share of frames masked by spans in the VGS branch's own pass in "
            "training, which regularises as in the fine-tuning of wav2vec 2.0"
        },
    )
    latent_temp: Optional[Tuple[float, float, float]] = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Gumbel temperature: first, last, factor per update"}
    )


@register_model("joint_ssl_vgs", dataclass=JointSslVgsConfig)
class JointSslVgsModel(SslModel, VgsRetrievalModel):
    """The VGS model, further layers above the shared ones, and a self-supervised branch on these.

    A branch that is off is not run: it takes no time and gets no gradient.
    """

    has_ssl = True
    ssl_head: SslBranch

    def __init__(
        self, cfg: JointSslVgsConfig, speech_encoder: SpeechEncoder, label_classes: Sequence[int] = ()
    ) -> None:
        super().__init__(cfg, speech_encoder)
        self.vgs_masked = resolve(cfg, "vgs_masked")
        self.add_branch(cfg, ssl_options(cfg), label_classes, resolve(cfg, "same_mask_count"))
        if self.sync_ranks:
            self.ssl_head.set_ranks(self.ranks)

    @classmethod
    def build_model(cls, cfg: JointSslVgsConfig, task: Any = None) -> "JointSslVgsModel":
        """Called by fairseq. Raises: ConfigError naming every error."""
        classes = list(getattr(task, "label_classes", []))
        errors = part_errors(cfg, list(PARTS))
        if resolve(cfg, "vgs_masked") and cfg.vgs_mask_prob > 0:
            wanted = "mask_prob holds for both branches; set one of the two to 0 or false"
            errors.append(f"vgs_mask_prob {cfg.vgs_mask_prob} with vgs_masked=true: {wanted}")
        errors += ssl_errors(cfg, ssl_options(cfg), len(classes))
        check_config(cfg, errors)
        model = cls(cfg, speech_encoder_of(cfg, cfg.encoder_layers), classes)
        model.draw_weights()
        model.reset_branch()
        model.freeze()
        return model

    def step_branch(self, updates: int) -> None:
        """Step the branch as `SslModel` does, unless it is frozen."""
        if "ssl_head" not in self.cfg.frozen_parts:
            super().step_branch(updates)

    def forward(  # type: ignore[override]
        self,
        source: Tensor,
        lengths: Tensor,
        images: Any = None,
        image_index: Optional[Tensor] = None,
        ids: Optional[Tensor] = None,
        extra: Optional[dict[str, Any]] = None,
        vgs: bool = True,
        ssl: bool = True,
        labels: Optional[List[Tensor]] = None,
        unmasked: bool = False,
    ) -> dict[str, Any]:
        """Run one or both branches. source, lengths, images, image_index: as in `VgsRetrievalModel.forward`.

        ids: (B,) ints, from which masks are drawn: needed with ssl, and in training with vgs_masked or
        vgs_mask_prob. extra: source, lengths, id of a speech-only batch for the SSL branch, and labels if
        there are any; with alone=True the SSL branch runs on this batch only, and not on the captions.
        vgs, ssl: the branches to run. labels: per label set (B, T) dictionary indices, padded with 1.
        unmasked: the SSL branch also classifies the frames that are not masked.
        Returns: with vgs the dictionary of the VGS model; with ssl also "ssl", a list of SslResult.
        """
        out: dict[str, Any] = {}
        shared = None
        on_captions = ssl and not (extra is not None and extra.get("alone", False))
        if vgs or on_captions:
            extracted = self.speech_encoder.forward_features(source, lengths)
        if ssl:
            out["ssl"] = []
            if on_captions:
                result = self._self_supervise(source, lengths, extracted, ids, labels, unmasked)
                shared = result.shared
                out["ssl"].append(result)
            if extra is not None:
                clips = extra["source"], extra["lengths"]
                speech = self.speech_encoder.forward_features(*clips)
                result = self._self_supervise(*clips, speech, extra["id"], extra.get("labels"), unmasked)
                out["ssl"].append(result)
        if vgs:
            if shared is None or not (self.training and self.vgs_masked):
                shared = self.forward_shared(extracted, self._vgs_mask(extracted, ids))
            out.update(self.forward_vgs(extracted, shared, images, image_index))
        return out

    def _vgs_mask(self, extracted: ExtractedFeatures, ids: Any) -> Optional[Tensor]:
        """Draw the mask of the VGS branch's own pass: (B, T) bool, or None for unmasked speech."""
        if not self.training:
            return None
        if self.vgs_masked:
            return self.draw_mask(extracted, ids)
        if self.cfg.vgs_mask_prob <= 0:
            return None
        spans = replace(self.masking, prob=self.cfg.vgs_mask_prob, min_spans=0, same_count=False)
        return spans.draw(extracted.lengths, extracted.features.size(1), ids, self.num_updates)

    def _self_supervise(
        self,
        source: Tensor,
        lengths: Tensor,
        extracted: ExtractedFeatures,
        ids: Any,
        labels: Any,
        unmasked: bool,
    ) -> SslResult:
        """Run the SSL branch on one batch; the result includes the state after the last shared layer."""
        ranks = self.ranks if self._averages_over_ranks() else None
        extracted = replace(extracted, penalty=self._penalty(extracted))
        mask = self.draw_masks(extracted, ids)
        batch = SslBatch(source, lengths, extracted, mask, labels, self.cfg.shared_layers, unmasked)
        return self.self_supervise(batch, ranks)

    def _averages_over_ranks(self) -> bool:
        """Return whether means over frames are at present means over those of all ranks."""
        return self.training and self.sync_ranks and self.ranks.several()

    def _penalty(self, extracted: ExtractedFeatures) -> Tensor:
        """Return the mean square of the features, or this rank's share of the mean over all ranks."""
        if not self._averages_over_ranks():
            return extracted.penalty
        frames = extracted.lengths.sum()
        return extracted.penalty * (frames / self.ranks.mean_count(frames, frames.device).clamp(min=1))

    def inactive_parameters(self, vgs: bool, ssl: bool) -> list[nn.Parameter]:
        inactive = super().inactive_parameters(vgs, ssl)
        if not ssl:
            above = self.speech_encoder.encoder.layers[self.cfg.shared_layers :]
            inactive += [*above.parameters(), *self.ssl_head.parameters()]
            if not vgs or not (self.vgs_masked or self.cfg.vgs_mask_prob > 0):
                inactive.append(self.speech_encoder.mask_emb)
        return inactive


def ssl_options(cfg: JointSslVgsConfig) -> Any:
    """Return the options of the branch, including those that depend on the preset."""
    return branch_options(cfg, {"latent_temp": tuple(resolve(cfg, "latent_temp"))})
