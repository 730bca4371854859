"""The base class of models with a self-supervised branch: its configuration, its masks, its updates."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence

import torch
from fairseq.dataclass import FairseqDataclass
from omegaconf import II
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.models.options import read_options
from fairseq_mtssl.modules.masking import Masking
from fairseq_mtssl.modules.rank_sums import RankSums
from fairseq_mtssl.modules.speech_encoder import ExtractedFeatures, SpeechEncoder
from fairseq_mtssl.renamed import earlier_name
from fairseq_mtssl.ssl.base import BRANCHES, SslBatch, SslBranch, SslResult
from fairseq_mtssl.ssl.mt4ssl import Mt4sslOptions
from fairseq_mtssl.ssl.wav2vec2 import Wav2vec2Options


@dataclass
class SslConfig(FairseqDataclass, Mt4sslOptions, Wav2vec2Options):
    """The fields of every model with a self-supervised branch, including those of most branches here."""

    # typed Any with the default null: if the default were a dictionary, fairseq would drop the keys that it
    # lacks from the configuration of a checkpoint
    ssl_options: Any = field(
        default=None,
        metadata={"help": "options of the branch that have no field here, by name, as {codes: 1024}"},
    )
    clone_batch: int = field(
        default=1,
        metadata={
            "help": "number of differently masked copies of a batch for the student, per pass of the feature "
            "extractor and of the teacher, as in data2vec 2.0; the student's time and memory grow with it"
        },
    )
    masked_views: Any = earlier_name("masked_views")
    # masking
    mask_prob: float = field(
        default=0.65, metadata={"help": "share of frames that spans would mask without overlaps"}
    )
    mask_length: int = field(default=10, metadata={"help": "frames of a span"})
    mask_min_spans: int = field(default=2, metadata={"help": "smallest number of spans per clip"})
    same_mask_count: Optional[bool] = field(
        default=None,
        metadata={"help": "mask as many frames in every clip as in the clip of the batch with the fewest"},
    )
    seed: int = II("common.seed")


def branch_options(cfg: Any, resolved: Optional[Dict[str, Any]] = None) -> Any:
    """Return the options of the branch cfg.ssl. resolved: values of fields that replace those in cfg."""
    return read_options(BRANCHES, BRANCHES.named(str(cfg.ssl)), cfg, resolved)


def ssl_errors(cfg: Any, options: Any, label_sets: int, labels_optional: bool = False) -> List[str]:
    """Return the errors in the self-supervised branch of a configuration.

    labels_optional: whether a branch that needs labels may nevertheless have none.
    """
    branch = BRANCHES.named(str(cfg.ssl))
    errors = []
    if branch.labels == "none" and label_sets:
        errors.append(f"ssl={cfg.ssl} takes no task.labels, and has {label_sets} label sets")
    if branch.labels == "needed" and not label_sets and not labels_optional:
        errors.append(f"ssl={cfg.ssl} needs task.labels, and has 0 label sets")
    if cfg.clone_batch < 1:
        errors.append(f"clone_batch {cfg.clone_batch}: wanted 1 or more")
    return errors + branch.config_errors(options, cfg.encoder_layers, label_sets)


class SslModel(nn.Module):
    """A model with a self-supervised branch, `ssl_head`, on its `speech_encoder`.

    ssl_head: None after it has been removed for fine-tuning. num_updates: number of updates so far.
    """

    speech_encoder: SpeechEncoder
    ssl_head: Optional[SslBranch]
    masking: Masking
    cfg: Any
    num_updates: int

    def add_branch(self, cfg: Any, options: Any, label_classes: Sequence[int], same_count: bool) -> None:
        """Build the branch on the encoder. same_count: as in `Masking`."""
        self.num_updates = 0
        self.masking = Masking(cfg.mask_prob, cfg.mask_length, int(cfg.seed), cfg.mask_min_spans, same_count)
        self.ssl_head = BRANCHES.named(str(cfg.ssl))(options, self.speech_encoder, list(label_classes))

    def set_num_updates(self, num_updates: int) -> None:
        """Set the number of the present update. This does not step the teacher: see `step_branch`."""
        super().set_num_updates(num_updates)  # type: ignore[misc]
        self.num_updates = num_updates

    def step_branch(self, updates: int) -> None:
        """Called once after each update of the optimizer; updates: number of updates so far."""
        if self.ssl_head is not None:
            self.ssl_head.step(self.speech_encoder, updates)

    def reset_branch(self) -> None:
        """Reset everything that is derived from the encoder's weights, such as a teacher."""
        if self.ssl_head is not None:
            self.ssl_head.reset(self.speech_encoder)

    @property
    def draw_update(self) -> int:
        """The update from which masks are drawn; in evaluation always −1."""
        return self.num_updates if self.training else -1

    def draw_mask(self, extracted: ExtractedFeatures, ids: Any, view: int = 0) -> Tensor:
        """Draw the frames to predict, (B, T) bool, which are always the same in evaluation.

        view: number of the masked copy.
        """
        return self.masking.draw(extracted.lengths, extracted.features.size(1), ids, self.draw_update, view)

    def draw_masks(self, extracted: ExtractedFeatures, ids: Any) -> Tensor:
        """Draw the masks of all masked copies, one after the other: (V·B, T) bool; in evaluation V = 1."""
        views = self.cfg.clone_batch if self.training else 1
        # (B, T) each -> (V·B, T)
        return torch.cat([self.draw_mask(extracted, ids, view) for view in range(views)])

    def self_supervise(self, batch: SslBatch, ranks: Optional[RankSums] = None) -> SslResult:
        """Run the branch. ranks: given if means over frames are to be means over those of all ranks.

        Raises: ConfigError if the branch has been removed.
        """
        if self.ssl_head is None:
            raise ConfigError("model", ["its heads have been removed for fine-tuning; it has no loss"])
        result: SslResult = self.ssl_head(self.speech_encoder, batch)
        return result if ranks is None else result.averaged_over(ranks)

    def upgrade_state_dict_named(self, state_dict: Dict[str, Any], name: str) -> None:
        """Remove the weights from a checkpoint that this model lacks (model.online=false, no labels)."""
        super().upgrade_state_dict_named(state_dict, name)  # type: ignore[misc]
        if self.ssl_head is not None:
            prefix = f"{name}.ssl_head." if name else "ssl_head."
            unused = tuple(prefix + unused_name for unused_name in self.ssl_head.unused_names())
            for key in [key for key in state_dict if key.startswith(unused)]:
                del state_dict[key]
