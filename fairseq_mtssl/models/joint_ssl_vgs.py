"""VGS+: self-supervision and visual grounding on one speech encoder.

Source: Khorrami et al. 2023, arXiv 2306.02972.
"""

from dataclasses import dataclass, field
from typing import Any, List, Optional, Sequence, Tuple

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.models import register_model
from omegaconf import II
from torch import Tensor, nn

from fairseq_mtssl.models.grounding_config import (
    PARTS,
    VgsRetrievalConfig,
    check_config,
    part_faults,
    resolve,
)
from fairseq_mtssl.models.masked_prediction import (
    MaskedPrediction,
    MaskedPredictionConfig,
    drop_unused,
    target_faults,
)
from fairseq_mtssl.models.vgs_retrieval import VgsRetrievalModel, speech_encoder_of
from fairseq_mtssl.modules.contrastive_ssl import ContrastiveSslHead
from fairseq_mtssl.modules.hidden import Hidden
from fairseq_mtssl.modules.masking import span_mask
from fairseq_mtssl.modules.speech_encoder import FrontEnd, SpeechEncoder

OFFLINE = ("hubert", "mt4ssl")
ONLINE = ("data2vec", "mt4ssl")


@dataclass
class JointSslVgsConfig(VgsRetrievalConfig, MaskedPredictionConfig):
    encoder_layers: int = field(
        default=12, metadata={"help": "speech layers in all; those above shared_layers serve SSL alone"}
    )
    ssl: ChoiceEnum(["wav2vec2", "hubert", "data2vec", "mt4ssl"]) = field(  # type: ignore[valid-type]
        default="wav2vec2",
        metadata={
            "help": "the self-supervised branch: wav2vec2 (contrastive), hubert (task.labels), data2vec "
            "(a slow teacher) or mt4ssl (both)"
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
    # masking
    mask_prob: float = field(
        default=0.65, metadata={"help": "share of frames covered by spans before overlaps"}
    )
    mask_length: int = field(default=10, metadata={"help": "frames of a span"})
    mask_min_spans: int = field(default=2, metadata={"help": "spans of a clip at least"})
    same_mask_count: Optional[bool] = field(
        default=None, metadata={"help": "cut every clip's masked frames to the fewest of the batch"}
    )
    # wav2vec 2.0 head
    final_dim: int = field(
        default=256, metadata={"help": "width where context and targets meet, that of label_head=cosine too"}
    )
    latent_vars: int = field(default=320, metadata={"help": "entries of a code book group"})
    latent_groups: int = field(default=2, metadata={"help": "code book groups"})
    latent_temp: Optional[Tuple[float, float, float]] = field(
        default=None, metadata={"help": "Gumbel temperature: first, last, factor an update"}
    )
    num_negatives: int = field(default=100, metadata={"help": "negatives a masked frame, from its utterance"})
    logit_temp: float = field(
        default=0.1, metadata={"help": "divides the cosines of ssl=wav2vec2 and of label_head=cosine"}
    )
    dropout_features: float = field(default=0.1, metadata={"help": "dropout before the quantizer"})
    seed: int = II("common.seed")


@register_model("joint_ssl_vgs", dataclass=JointSslVgsConfig)
class JointSslVgsModel(VgsRetrievalModel):
    """The VGS model plus the layers above the shared ones and a self-supervised head.

    A branch that is off is not run: no time, no gradient.
    """

    has_ssl = True

    def __init__(
        self, cfg: JointSslVgsConfig, speech_encoder: SpeechEncoder, label_classes: Sequence[int] = ()
    ) -> None:
        super().__init__(cfg, speech_encoder)
        self.num_updates = 0
        self.ssl_head: nn.Module
        if str(cfg.ssl) == "wav2vec2":
            self.ssl_head = ContrastiveSslHead(
                feature_dim=speech_encoder.feature_dim,
                dim=speech_encoder.dim,
                final_dim=cfg.final_dim,
                latent_vars=cfg.latent_vars,
                latent_groups=cfg.latent_groups,
                latent_temp=tuple(resolve(cfg, "latent_temp")),
                negatives=cfg.num_negatives,
                logit_temp=cfg.logit_temp,
                feature_dropout=cfg.dropout_features,
                ranks=self.ranks if self.sync_ranks else None,
            )
        else:
            online = str(cfg.ssl) in ONLINE
            self.ssl_head = MaskedPrediction(cfg, speech_encoder, list(label_classes), online)
        self.vgs_masked = resolve(cfg, "vgs_masked")
        self.same_mask_count = resolve(cfg, "same_mask_count")

    @classmethod
    def build_model(cls, cfg: JointSslVgsConfig, task: Any = None) -> "JointSslVgsModel":
        """Called by fairseq. Raises: ConfigError naming every fault."""
        classes = list(getattr(task, "label_classes", []))
        faults = part_faults(cfg, list(PARTS))
        if resolve(cfg, "vgs_masked") and cfg.vgs_mask_prob > 0:
            wanted = "mask_prob holds for both branches; set one of the two to 0 or false"
            faults.append(f"vgs_mask_prob {cfg.vgs_mask_prob} with vgs_masked=true: {wanted}")
        if bool(classes) != (str(cfg.ssl) in OFFLINE):
            wanted = "needs" if str(cfg.ssl) in OFFLINE else "takes no"
            faults.append(f"ssl={cfg.ssl} {wanted} task.labels, and has {len(classes)} label sets")
        if str(cfg.ssl) == "wav2vec2":
            if cfg.masked_views != 1:
                faults.append(f"masked_views {cfg.masked_views}: the head of ssl=wav2vec2 takes 1")
        else:
            faults += target_faults(cfg, cfg.encoder_layers, len(classes), str(cfg.ssl) in ONLINE)
        check_config(cfg, faults)
        model = cls(cfg, speech_encoder_of(cfg, cfg.encoder_layers), classes)
        model.draw_weights()
        model.reset_teacher()
        model.freeze()
        return model

    def update_teacher(self, updates: int) -> None:
        """Move the slow teacher, if there is one, after an update; updates: those made so far."""
        if isinstance(self.ssl_head, MaskedPrediction) and "ssl_head" not in self.cfg.frozen_parts:
            self.ssl_head.step_teacher(self.speech_encoder, updates)

    def reset_teacher(self) -> None:
        """Start the slow teacher, if there is one, anew from the student."""
        if isinstance(self.ssl_head, MaskedPrediction):
            self.ssl_head.reset_teacher(self.speech_encoder)

    def upgrade_state_dict_named(self, state_dict: dict[str, Any], name: str) -> None:
        """Leave out of a checkpoint what this model was built without."""
        super().upgrade_state_dict_named(state_dict, name)
        drop_unused(self.ssl_head, f"{name}.ssl_head." if name else "ssl_head.", state_dict)

    def set_num_updates(self, num_updates: int) -> None:
        super().set_num_updates(num_updates)
        self.num_updates = num_updates

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
    ) -> dict[str, Any]:
        """See VgsRetrievalModel.forward. ids: (B,) ints from which the masks are drawn, needed where there
        are some: with ssl, and in training with vgs_masked or vgs_mask_prob.
        extra: source, lengths, id of a speech-only batch for the SSL branch; with alone=True it takes the
        place of the captions there. vgs, ssl: what to run.
        labels: (B, T) dictionary indices, one tensor a label set, padded with 1.
        Returns: with vgs what the VGS model returns; with ssl also "ssl", a list of what the branch gives
        (SslOutput, or the dictionary of MaskedPrediction).
        """
        out: dict[str, Any] = {}
        shared = None
        on_captions = ssl and not (extra is not None and extra.get("alone", False))
        if vgs or on_captions:
            front = self.speech_encoder.front_end(source, lengths)
        if ssl:
            out["ssl"] = []
            if on_captions:
                output, shared = self._self_supervise(front, ids, labels)
                out["ssl"].append(output)
            if extra is not None:
                extra_front = self.speech_encoder.front_end(extra["source"], extra["lengths"])
                found = self._self_supervise(extra_front, extra["id"], extra.get("labels"))
                out["ssl"].append(found[0])
        if vgs:
            if shared is None or not (self.training and self.vgs_masked):
                shared = self.share(front, self._vgs_mask(front, ids))
            out.update(self.ground(front, shared, images, image_index))
        return out

    def _vgs_mask(self, front: FrontEnd, ids: Any) -> Optional[Tensor]:
        """(B, T) bool: the frames hidden from a VGS branch that has a pass of its own."""
        if not self.training:
            return None
        if self.vgs_masked:
            return self._ssl_mask(front, ids)
        if self.cfg.vgs_mask_prob <= 0:
            return None
        return self._spans(front, ids, self.cfg.vgs_mask_prob, min_spans=0, same_count=False)

    def _ssl_mask(self, front: FrontEnd, ids: Any, view: int = 0) -> Tensor:
        """(B, T) bool: the frames that the SSL branch predicts."""
        cfg = self.cfg
        return self._spans(front, ids, cfg.mask_prob, cfg.mask_min_spans, self.same_mask_count, view)

    def _spans(
        self, front: FrontEnd, ids: Any, prob: float, min_spans: int, same_count: bool, view: int = 0
    ) -> Tensor:
        return span_mask(
            front.lengths,
            front.features.size(1),
            prob=prob,
            length=self.cfg.mask_length,
            min_spans=min_spans,
            same_count=same_count,
            seed=int(self.cfg.seed),
            # Validation draws the same masks every time.
            update=self.num_updates if self.training else -1,
            ids=ids,
            view=view,
        )

    def _self_supervise(self, front: FrontEnd, ids: Any, labels: Any) -> tuple[Any, Hidden]:
        """The SSL branch on one batch; also the first masked view's state at the last shared layer."""
        encoder, cfg = self.speech_encoder, self.cfg
        views = cfg.masked_views if self.training else 1
        # (B, T) each -> (V·B, T)
        mask = torch.cat([self._ssl_mask(front, ids, view) for view in range(views)])
        if isinstance(self.ssl_head, MaskedPrediction):
            found, kept = self.ssl_head(encoder, front, mask, labels, cfg.shared_layers)
            if self._everywhere():
                found["frames"] = self.ranks.mean_count(found["frames"], mask.device)
            return found, kept
        shared = self.share(front, mask)
        top = encoder.run(shared, cfg.shared_layers, encoder.num_layers)
        return self.ssl_head(encoder.frames(top), front.features, mask, self._penalty(front)), shared

    def _everywhere(self) -> bool:
        """Whether means over frames are now those of all ranks."""
        return self.training and self.sync_ranks and self.ranks.several()

    def _penalty(self, front: FrontEnd) -> Tensor:
        """The mean square of the conv features, or this rank's share in that of all ranks."""
        if not self._everywhere():
            return front.penalty
        frames = front.lengths.sum()
        return front.penalty * (frames / self.ranks.mean_count(frames, frames.device).clamp(min=1))

    def inactive_parameters(self, vgs: bool, ssl: bool) -> list[nn.Parameter]:
        """Parameters that get no gradient when a branch is off; they must not decay either."""
        inactive = super().inactive_parameters(vgs, ssl)
        if not ssl:
            above = self.speech_encoder.encoder.layers[self.cfg.shared_layers :]
            inactive += [*above.parameters(), *self.ssl_head.parameters()]
            if not vgs or not (self.vgs_masked or self.cfg.vgs_mask_prob > 0):
                inactive.append(self.speech_encoder.mask_emb)
        return inactive
