"""Reads checkpoints of this package and of fairseq, and renames fairseq's weights to this package's names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairseq_mtssl.errors import CheckpointError

logger = logging.getLogger(__name__)

SPEECH_PARTS = ("feature_extractor.", "layer_norm.", "post_extract_proj.", "mask_emb", "encoder.")
SSL_PARTS = ("quantizer.", "project_q.", "final_proj.")


@dataclass
class LoadedModel:
    """A trained model in evaluation mode, with the task and the configuration of its training."""

    model: Any
    task: Any
    cfg: Any


def _unreadable(path: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        path, f"not readable as a fairseq checkpoint ({error})", "Give another, or train again."
    )


def _load(path: str | Path) -> dict[str, Any]:
    """Read what torch.save has written, on the CPU. Raises: CheckpointError."""
    if not Path(path).is_file():
        hint = "Give the path of a checkpoint, such as checkpoint_best.pt."
        raise CheckpointError(path, "no such file", hint)
    try:
        # Configurations of old checkpoints are pickled objects, which weights_only refuses: fairseq's
        # load_checkpoint_to_cpu relies on torch < 2.6 to unpickle them (argparse namespaces, enumerations).
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise _unreadable(path, error) from error
    return state


def read_state(path: str | Path) -> dict[str, Any]:
    """Read a fairseq checkpoint of any age as a dictionary on the CPU, with its configuration under "cfg".

    Only read checkpoints from trusted sources: fairseq's format is a pickle.
    Raises: CheckpointError if the file is absent, is not a checkpoint, or is cut short.
    """
    from fairseq.checkpoint_utils import _upgrade_state_dict
    from omegaconf import OmegaConf

    state = _load(path)
    try:
        if state.get("cfg") is not None:
            state["cfg"] = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
        return _upgrade_state_dict(state)
    except Exception as error:
        raise _unreadable(path, error) from error


def trained_on_normalised(cfg: Any) -> bool:
    """Return whether a model was trained on waveforms of zero mean and unit variance.

    cfg: the checkpoint's configuration. Models of this package have the field model.normalize (the probe:
    model.normalised), and without it were trained on normalised waveforms. Models of fairseq have the field
    task.normalize, and without it were trained on raw waveforms.
    """
    if not is_ours(str(cfg.model.get("_name", None))):
        return bool(cfg.task.get("normalize", False))
    normalised = cfg.model.get("normalize", cfg.model.get("normalised", None))
    return True if normalised is None else bool(normalised)


@dataclass
class Start:
    """The weights from which a training starts.

    weights: with the names in the file. normalised: see `trained_on_normalised`; None for a file without
    configuration.
    """

    path: str | Path
    weights: dict[str, torch.Tensor]
    normalised: bool | None


def read_start(path: str | Path) -> Start:
    """Read the checkpoint of model.init_from, which needs no more than weights under "model".

    Raises: CheckpointError if the file is absent, is not a checkpoint, or has no "model".
    """
    from omegaconf import OmegaConf

    state = _load(path)
    try:
        weights: dict[str, torch.Tensor] = state["model"]
    except (KeyError, TypeError) as error:
        raise _unreadable(path, error) from error
    normalised = None
    if state.get("cfg") is not None:
        normalised = trained_on_normalised(OmegaConf.create(state["cfg"], flags={"allow_objects": True}))
    elif state.get("args") is not None:  # of a fairseq version without configurations
        normalised = bool(getattr(state["args"], "normalize", False))
    return Start(path, weights, normalised)


def is_ours(model_name: str) -> bool:
    """Return whether this package registers a model of this name."""
    from fairseq.models import MODEL_REGISTRY

    return getattr(MODEL_REGISTRY.get(model_name), "__module__", "").startswith("fairseq_mtssl.")


def load_model(
    path: str | Path, data: str | None = None, overrides: dict[str, Any] | None = None
) -> LoadedModel:
    """Load a trained model for evaluation. The files of its training are not needed.

    data: folder of manifests to evaluate on, instead of that of the training.
    overrides: further values of the configuration, as {"task": {...}, "model": {...}}.
    Raises: CheckpointError if the file is not a checkpoint of this package.
    """
    from fairseq import tasks

    state = read_state(path)
    cfg = state["cfg"]
    if cfg is None or cfg.task._name not in tasks.TASK_REGISTRY:
        name = None if cfg is None else cfg.task._name
        raise CheckpointError(
            path, f"made for the unknown task {name!r}", "Give a checkpoint of this package."
        )
    if data is not None:
        cfg.task.data = data
    for section, values in (overrides or {}).items():
        for key, value in values.items():
            cfg[section][key] = value
    task = tasks.setup_task(cfg.task)
    if "task_state" in state:
        task.load_state_dict(state["task_state"])
    model = task.build_model(cfg.model, from_checkpoint=True)
    load_weights(model, state["model"], path)
    model.set_num_updates(
        state["optimizer_history"][-1]["num_updates"] if state.get("optimizer_history") else 0
    )
    return LoadedModel(model.eval(), task, cfg)


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Load all weights of a checkpoint into a module. Raises: CheckpointError if they do not fit exactly."""
    try:
        module.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            path, f"does not fit the model that its own configuration describes ({error})", "Train again."
        ) from error


def label_head_kind(names: Iterable[str]) -> str | None:
    """Return the kind of a model's label heads, "linear" or "cosine", by its weights' names; None if none."""
    head = {name.rpartition("label_heads.0.")[2] for name in names if "label_heads.0." in name}
    if not head:
        return None
    return "cosine" if "label_embs_concat" in head else "linear"


def initialise(model: nn.Module, start: Start, part: str = "", modules: Sequence[str] = ()) -> bool:
    """Load every weight of a checkpoint that the model has, and log which are new and which are unused.

    start: of a model of this package, or of fairseq's wav2vec2, hubert or data2vec_audio, whose encoder and
    heads are loaded. modules: names of the model's modules to load; empty: all.
    Returns: whether any weight whose name begins with `part` was loaded.
    Raises: CheckpointError if no weight fits, if the checkpoint has no weight of one of `modules`, or if
    shapes differ, naming every such weight.
    """
    path, weights = start.path, start.weights
    present = model.state_dict()
    if not any(name.startswith("speech_encoder.") for name in weights):
        weights = rename_fairseq(weights)
    chosen = {
        name: weight for name, weight in weights.items() if not modules or name.split(".")[0] in modules
    }
    loaded = {name: weight for name, weight in chosen.items() if name in present}
    model_modules, loaded_modules = ({name.split(".")[0] for name in names} for names in (present, loaded))
    misfits = [
        f"{name} is {tuple(weight.shape)}, wanted {tuple(present[name].shape)}"
        for name, weight in loaded.items()
        if weight.shape != present[name].shape
    ]
    misfits += [f"{name} has no weight there" for name in modules if name in model_modules - loaded_modules]
    if misfits or not loaded:
        got = "; ".join(misfits) or "shares no weight with this model"
        raise CheckpointError(path, got, "Set the sizes in model.* to those of the checkpoint.")
    model.load_state_dict(loaded, strict=False)
    kind, model_kind = label_head_kind(chosen), label_head_kind(present)
    if kind is not None and model_kind is not None and kind != model_kind:
        logger.warning(
            "%s has %s label heads, and this model %s ones, which start from random weights; to use the "
            "checkpoint's, give model.label_head=%s",
            *(path, kind, model_kind, kind),
        )
    fresh = sorted({name.split(".")[0] for name in present if name not in loaded})
    unused = sorted({name for name in weights if name not in present})
    logger.info(
        "started from %s: %d of %d weights; new: %s; unused: %s",
        path,
        len(loaded),
        len(present),
        ", ".join(fresh) or "none",
        ", ".join(unused) or "none",
    )
    return any(name.startswith(part) for name in loaded)


def rename_fairseq(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of fairseq's wav2vec2, hubert or data2vec_audio, which their names tell apart."""
    names = [name.removeprefix("w2v_encoder.").removeprefix("w2v_model.") for name in weights]
    if "_ema" in names:
        return _rename_data2vec(weights)
    if "label_embs_concat" in names:
        return _rename_hubert(weights)
    return rename_wav2vec2(weights)


def _rename_data2vec(weights: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Rename data2vec's weights; `_ema` has the teacher's, whose positional convolution is the student's."""
    teacher = {
        f"ssl_head.teacher.{name}": weight
        for name, weight in weights["_ema"].items()
        if "pos_conv" not in name
    }
    student = rename_wav2vec2({name: weight for name, weight in weights.items() if name != "_ema"})
    return _with_heads(student, {"ssl_head.final_proj.": "ssl_head.regression."}) | teacher


def _rename_hubert(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename HuBERT's weights; its head for one label set fits model.label_head=cosine."""
    heads = {
        "label_embs_concat": "ssl_head.label_heads.0.label_embs_concat",
        "ssl_head.final_proj.": "ssl_head.label_heads.0.final_proj.",
    }
    return _with_heads(rename_wav2vec2(weights), heads)


def _with_heads(weights: dict[str, torch.Tensor], prefixes: dict[str, str]) -> dict[str, torch.Tensor]:
    """Replace the prefixes of names."""
    renamed = {}
    for name, weight in weights.items():
        for old, new in prefixes.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        renamed[name] = weight
    return renamed


def rename_wav2vec2(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of fairseq's wav2vec2, also of a fine-tuned one, to the joint model's names."""
    renamed = {}
    for name, weight in weights.items():
        name = name.removeprefix("w2v_encoder.").removeprefix("w2v_model.")
        if name.startswith(SPEECH_PARTS):
            name = f"speech_encoder.{name}"
        elif name.startswith(SSL_PARTS):
            name = f"ssl_head.{name}"
        renamed[name] = weight
    return renamed


UPSTREAMS = ("wav2vec2", "hubert", "data2vec_audio")
"""The models of fairseq whose layers can be used as features."""


@dataclass
class Upstream:
    """A speech model whose layers are used as features.

    normalised: whether it was trained on normalised waveforms. task: the task of its training; None for
    fairseq's models, whose tasks need files of the training.
    """

    model: nn.Module
    name: str
    normalised: bool
    task: Any = None


def load_upstream(path: str | Path) -> Upstream:
    """Load a model of this package, or fairseq's wav2vec2, hubert or data2vec_audio, for evaluation.

    The tasks of fairseq's models are not set up, so the files of their training are not needed; heads that
    need a dictionary are left out.
    Raises: CheckpointError if it is another model, or if a weight of the encoder is missing.
    """
    state = read_state(path)
    cfg = state["cfg"]
    name = str(getattr(cfg.model, "_name", None)) if cfg is not None else "none"
    if name not in UPSTREAMS:
        del state
        if not is_ours(name):
            hint = f"Give a checkpoint of this package, or of fairseq's {', '.join(UPSTREAMS)}."
            raise CheckpointError(path, f"holds the model {name!r}", hint)
        loaded = load_model(path)
        return Upstream(loaded.model, name, trained_on_normalised(loaded.cfg), loaded.task)
    model = _build_upstream(name, cfg)
    parts = ("feature_extractor.", "layer_norm.", "post_extract_proj.", "encoder.")
    wanted = {key: weight for key, weight in model.state_dict().items() if key.startswith(parts)}
    weights = {key: weight for key, weight in state["model"].items() if key in wanted}
    errors = [f"{key} is missing" for key in wanted if key not in weights]
    misfits = [key for key, weight in weights.items() if weight.shape != wanted[key].shape]
    errors += [f"{key} is {tuple(weights[key].shape)}, wanted {tuple(wanted[key].shape)}" for key in misfits]
    if errors:
        raise CheckpointError(path, "; ".join(errors[:10]), "Give a complete checkpoint of pre-training.")
    model.load_state_dict(weights, strict=False)
    return Upstream(model.eval(), name, trained_on_normalised(cfg))


@dataclass
class EncoderSource:
    """A pre-trained speech encoder.

    sizes: the plain values of modules.encoder_options.EncoderSizes; weights: by the encoder's own names;
    normalised: whether it was trained on normalised waveforms.
    """

    sizes: dict[str, Any]
    weights: dict[str, torch.Tensor]
    normalised: bool


def read_encoder(path: str | Path) -> EncoderSource:
    """Read the speech encoder of any checkpoint that `load_upstream` reads, without pre-training heads.

    Raises: CheckpointError as there, and for a transformer of another kind than that of wav2vec 2.0 Base
    (with layer norms first, or a conformer).
    """
    state = read_state(path)
    cfg = state["cfg"]
    if str(getattr(getattr(cfg, "model", None), "_name", None)) not in UPSTREAMS:
        upstream = load_upstream(path)
        encoder: Any = upstream.model.speech_encoder
        return EncoderSource(encoder.sizes.plain(), encoder.state_dict(), upstream.normalised)
    model = cfg.model
    if model.get("layer_norm_first", False) or model.get("layer_type", "transformer") != "transformer":
        got = f"layer_norm_first={model.get('layer_norm_first')}, layer_type={model.get('layer_type')}"
        raise CheckpointError(path, got, "Give an encoder of the kind of wav2vec 2.0 Base.")
    mode, prefix = str(model.extractor_mode), "speech_encoder."
    sizes = {
        "conv_layers": model.conv_feature_layers,
        "extractor_mode": mode,
        "conv_bias": model.conv_bias,
        "dim": model.encoder_embed_dim,
        "ffn_dim": model.encoder_ffn_embed_dim,
        "heads": model.encoder_attention_heads,
        "layers": model.encoder_layers,
        "conv_pos": model.conv_pos,
        "conv_pos_groups": model.conv_pos_groups,
        "pos_conv_depth": model.get("pos_conv_depth", 1),
        "use_cls": False,
        "padding_exact": mode == "layer_norm",
    }
    weights = rename_fairseq(state["model"]).items()
    encoder_weights = {
        name.removeprefix(prefix): weight for name, weight in weights if name.startswith(prefix)
    }
    return EncoderSource(sizes, encoder_weights, trained_on_normalised(cfg))


def _build_upstream(name: str, cfg: Any) -> nn.Module:
    """Build the fairseq model that a configuration describes, without its task."""
    import importlib

    from fairseq.dataclass.utils import merge_with_parent
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    if name == "data2vec_audio":  # one of fairseq's examples, which are registered when they are imported
        module = importlib.import_module("fairseq.examples.data2vec.models.data2vec_audio")
        return module.Data2VecAudioModel(merge_with_parent(module.Data2VecAudioConfig(), cfg.model))
    model_cfg = merge_with_parent(MODEL_DATACLASS_REGISTRY[name](), cfg.model)
    if name == "hubert":
        from fairseq.models.hubert import HubertModel

        # without a dictionary there are no label embeddings, and the files of the training are not needed
        model_cfg.untie_final_proj = False
        return HubertModel(model_cfg, cfg.task, [None])
    from fairseq.models.wav2vec import Wav2Vec2Model

    return Wav2Vec2Model(model_cfg)
