"""The base class of tasks with a self-supervised branch, which may predict cluster labels."""

from dataclasses import dataclass, field
from typing import Any, List, Optional, Sequence

from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass

from fairseq_mtssl.data.manifest import AudioManifest
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import SPECIAL_SYMBOLS, parse_conv_layers
from fairseq_mtssl.labels.folder import LabelFolder, Labels
from fairseq_mtssl.tasks.base import BaseTask
from fairseq_mtssl.tasks.phases import loss_scale

WAV2VEC2_CONV_LAYERS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"


def folders_of(value: Any) -> List[str]:
    """Return the list of label folders of a configuration value: one folder, a list, or None."""
    return [value] if isinstance(value, str) else list(value or [])


def dictionary_of(symbols: Sequence[str]) -> Dictionary:
    """Return fairseq's dictionary of these symbols, of which the first four are the special ones."""
    dictionary = Dictionary()
    for symbol in symbols[SPECIAL_SYMBOLS:]:
        dictionary.add_symbol(symbol)
    return dictionary


@dataclass
class LabelConfig(FairseqDataclass):
    """The fields of tasks whose model predicts cluster labels."""

    labels: Any = field(
        default_factory=list,
        metadata={
            "help": "folders of cluster labels, one per label set: {split}.km, dict.km.txt, targets.json; "
            "empty: no labels"
        },
    )
    label_rate_hz: Optional[Any] = field(
        default=None,
        metadata={"help": "labels per second, one number or one per label set; null: from targets.json"},
    )
    # fairseq-validate composes a configuration without a model; the checkpoint then has this value
    conv_feature_layers: Optional[str] = "${oc.select:model.conv_feature_layers,null}"


class SslTask(BaseTask):
    """A task that steps the branch of its model after each update, and reads label folders and dictionaries.

    cfg: has the fields of LabelConfig. Checkpoints contain the symbols of the dictionaries, so that they load
    without the folders.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.label_folders = folders_of(cfg.labels)
        rates = cfg.label_rate_hz
        if hasattr(rates, "__iter__") and len(rates) != len(self.label_folders):
            wanted = f"wanted one for each of {len(self.label_folders)} label sets"
            raise ConfigError("task", [f"label_rate_hz {list(rates)}: {wanted}"])
        self.conv_layers = parse_conv_layers(cfg.conv_feature_layers or WAV2VEC2_CONV_LAYERS)
        self.state.add_factory("symbols", self._read_symbols)

    def _read_symbols(self) -> List[List[str]]:
        return [[*Dictionary().symbols, *LabelFolder(folder).symbols] for folder in self.label_folders]

    @property
    def dictionaries(self) -> List[Dictionary]:
        """One per label set, from the checkpoint or else from the label folders."""
        return [dictionary_of(symbols) for symbols in self.state.symbols]

    @property
    def label_classes(self) -> List[int]:
        """Number of classes of each label set, including the four special symbols of fairseq."""
        return [len(symbols) for symbols in self.state.symbols]

    def state_dict(self) -> dict[str, Any]:
        """Return plain lists of symbols, which every version of torch reads without unpickling a class."""
        return {"symbols": self.state.symbols}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the dictionaries of a checkpoint, which may be one of fairseq's hubert_pretraining."""
        symbols = state_dict.get("symbols")
        if symbols is None:
            symbols = [list(dictionary.symbols) for dictionary in state_dict.get("dictionaries", [])]
        self.state.merge_state_dict({"symbols": symbols})

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """Step the optimizer, and then the branch (its teacher), once per update in which it is trained.

        fp16 raises on an overflow before this is called; AMP leaves the weights unchanged on an overflow,
        which shows in the lowered loss scale.
        """
        before = loss_scale(optimizer)
        super().optimizer_step(optimizer, model, update_num)
        if loss_scale(optimizer) >= before and self.needs_branch(update_num):
            model.step_branch(update_num + 1)

    def needs_branch(self, update: int) -> bool:
        """Return whether this update or a later one uses the branch."""
        return True

    def read_labels(
        self, split: str, manifest: AudioManifest, folders: Optional[List[str]] = None
    ) -> List[Labels]:
        """Read the labels of a whole manifest, one per label set. folders: instead of task.labels.

        Raises: TargetError naming every error of a file; ConfigError if the number of folders differs from
        that of the model's label sets.
        """
        folders = self.label_folders if folders is None else folders
        if not folders:
            return []
        if len(folders) != len(self.label_classes):
            got = f"{len(folders)} folders for the {len(self.label_classes)} label sets of the model"
            raise ConfigError("task.labels", [f"{got}; give one per label set in the same order, or none"])
        given = self.cfg.label_rate_hz
        rates = list(given) if hasattr(given, "__iter__") else [given] * len(folders)
        sets = zip(folders, self.state.symbols, rates, strict=True)
        return [
            LabelFolder(folder).labels(
                split,
                manifest.sizes,
                symbols=symbols[SPECIAL_SYMBOLS:],
                rate_hz=None if rate is None else float(rate),
                conv_layers=self.conv_layers,
            )
            for folder, symbols, rate in sets
        ]
