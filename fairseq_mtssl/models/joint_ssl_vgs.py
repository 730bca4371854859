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
        default=12, metadata={"help": "speech layers in all; those above shared_layers serve SSL alone"}
    )
    ssl: str = field(
        default="wav2vec2",
        metadata={
            "help": "the self-supervised branch: wav2vec2 (contrastive), hubert (task.labels), data2vec "
            "(an EMA teacher), mt4ssl (both), best_rq (labels of a random quantizer), or one of your own"
        },
    )
    vgs_masked: Optional[bool] = field(
        default=None,
        metadata={
            "help": "in training, ground speech that is masked as for SSL, whatever the loss weights, in VGS "
            "phases too (as the paper's code; one pass with both branches); false: unmasked speech, for "
            "which the shared layers are run once more when both branches train"
        },
    )
    vgs_mask_prob: float = field(
        default=0.0,
        metadata={
            "help": "with vgs_masked=false, share of frames covered by spans in the VGS branch's own pass in "
            "training; a regulariser, as in fine-tuning wav2vec 2.0"
        },
    )
    latent_temp: Optional[Tuple[float, float, float]] = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Gumbel temperature: first, last, factor an update"}
    )


@register_model("joint_ssl_vgs", dataclass=JointSslVgsConfig)
class JointSslVgsModel(SslModel, VgsRetrievalModel):
    """The VGS model plus the layers above the shared ones and a self-supervised head.

    A branch that is off is not run: no time, no gradient.
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
        """As of every model with a branch; a branch that is frozen stays as it is."""
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
        """See VgsRetrievalModel.forward. ids: (B,) ints from which the masks are drawn, needed where there
        are some: with ssl, and in training with vgs_masked or vgs_mask_prob.
        extra: source, lengths, id of a speech-only batch for the SSL branch; with alone=True it takes the
        place of the captions there. vgs, ssl: what to run.
        labels: (B, T) dictionary indices, one tensor a label set, padded with 1. unmasked: the SSL branch
        classifies the frames that are not masked, too.
        Returns: with vgs what the VGS model returns; with ssl also "ssl", a list of SslResult.
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
        """(B, T) bool: the frames hidden from a VGS branch that has a pass of its own."""
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
        """The SSL branch on one batch, with the first masked view's state at the last shared layer."""
        ranks = self.ranks if self._everywhere() else None
        extracted = replace(extracted, penalty=self._penalty(extracted))
        mask = self.draw_masks(extracted, ids)
        batch = SslBatch(source, lengths, extracted, mask, labels, self.cfg.shared_layers, unmasked)
        return self.self_supervise(batch, ranks)

    def _everywhere(self) -> bool:
        """Whether means over frames are now those of all ranks."""
        return self.training and self.sync_ranks and self.ranks.several()

    def _penalty(self, extracted: ExtractedFeatures) -> Tensor:
        """The mean square of the conv features, or this rank's share in that of all ranks."""
        if not self._everywhere():
            return extracted.penalty
        frames = extracted.lengths.sum()
        return extracted.penalty * (frames / self.ranks.mean_count(frames, frames.device).clamp(min=1))

    def inactive_parameters(self, vgs: bool, ssl: bool) -> list[nn.Parameter]:
        """Parameters that get no gradient when a branch is off; they must not decay either."""
        inactive = super().inactive_parameters(vgs, ssl)
        if not ssl:
            above = self.speech_encoder.encoder.layers[self.cfg.shared_layers :]
            inactive += [*above.parameters(), *self.ssl_head.parameters()]
            if not vgs or not (self.vgs_masked or self.cfg.vgs_mask_prob > 0):
                inactive.append(self.speech_encoder.mask_emb)
        return inactive


def ssl_options(cfg: JointSslVgsConfig) -> Any:
    """The options of the branch, those that the preset decides among them."""
    return branch_options(cfg, {"latent_temp": tuple(resolve(cfg, "latent_temp"))})
