"""Tiny corpora and tiny trainings for the tests: the real commands' code, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from fairseq_mtssl.data.manifest import PairRow, write_pair_manifest

TINY = {
    "common.log_interval": 1,
    "task.image_size": 16,
    "task.max_duration_s": 0.5,
    "task.eval_max_duration_s": 0.5,
    "task.lengths": ["4 updates", "rest"],
    "model.feature_extractor": "waveform",
    "model.conv_bias": False,
    "model.conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "model.encoder_embed_dim": 16,
    "model.encoder_ffn_embed_dim": 32,
    "model.encoder_attention_heads": 2,
    "model.encoder_layers": 3,
    "model.shared_layers": 2,
    "model.conv_pos": 8,
    "model.conv_pos_groups": 2,
    "model.speech_in_channels": 8,
    "model.speech_channels": [8, 16],
    "model.speech_strides": [2, 2],
    "model.speech_kernel": 9,
    "model.image_layers": 1,
    "model.image_channels": [8, 8, 8],
    "model.image_grid": 2,
    "model.final_dim": 8,
    "model.latent_vars": 8,
    "model.num_negatives": 5,
    "optimization.lr": [0.0007],
    "model.vgs_mask_prob": 0.0,
    "dataset.batch_size": 4,
    "dataset.num_workers": 0,
    "optimization.max_update": 8,
    "checkpoint.save_interval_updates": 1,
    "checkpoint.keep_interval_updates": -1,
    "checkpoint.keep_last_epochs": -1,
    "checkpoint.save_interval": 1,
    "checkpoint.no_epoch_checkpoints": True,
}
"""The joint model at its smallest; `TINY_MT4SSL` is that of mt4ssl."""

TINY_MT4SSL = {
    "common.log_interval": 1,
    "task.max_duration_s": 0.4,
    "task.min_duration_s": 0.1,
    "model.conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "model.encoder_embed_dim": 16,
    "model.encoder_ffn_embed_dim": 32,
    "model.encoder_attention_heads": 2,
    "model.encoder_layers": 3,
    "model.conv_pos": 9,
    "model.conv_pos_groups": 2,
    "model.average_top_k_layers": 2,
    "model.ema_anneal_updates": 5,
    "model.mask_length": 3,
    "dataset.max_tokens": None,
    "dataset.batch_size": 4,
    "dataset.num_workers": 0,
    "optimization.max_update": 8,
    "checkpoint.save_interval_updates": 1,
    "checkpoint.keep_interval_updates": -1,
    "checkpoint.save_interval": 1,
    "checkpoint.no_epoch_checkpoints": False,
}


def tiny_words() -> list[str]:
    """What makes an example's model small and its batches, as words of the command line."""
    keys = ("model.", "task.image", "task.max", "task.eval", "dataset.")
    return [f"{key}={_typed(value)}" for key, value in TINY.items() if key.startswith(keys)]


def make_pairs(folder: Path, split: str, count: int, seed: int = 0, seconds: float = 0.4) -> None:
    """Tones of different heights paired with grey squares of different brightness, labelled low or high."""
    rng = np.random.default_rng([seed, len(split)])
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        name = f"{split}_{number}"
        samples = int(16_000 * (seconds + 0.05 * (number % 3)))
        pitch = 200 + 1500 * number / count
        wav = 0.3 * np.sin(2 * np.pi * pitch * np.arange(samples) / 16_000)
        soundfile.write(folder / "audio" / f"{name}.wav", wav + 0.01 * rng.standard_normal(samples), 16_000)
        grey = np.full((16, 16, 3), int(250 * number / count), dtype=np.uint8)
        Image.fromarray(grey).save(folder / "images" / f"{name}.png")
        label = "low" if number < count / 2 else "high"
        rows.append(PairRow(f"{name}.wav", samples, name, f"{name}.png", name, label, "s0", f"tone {number}"))
    write_pair_manifest(folder, split, rows, audio_root="audio", image_root="images")


def make_corpus(folder: Path) -> Path:
    """A folder with train (10 pairs), valid (6) and test (6)."""
    for split, count in (("train", 10), ("valid", 6), ("test", 6)):
        make_pairs(folder, split, count)
    return folder


def make_labels(folder: Path, data: Path, clusters: int = 6, rate_hz: float = 50.0, seed: int = 0) -> Path:
    """A label folder for all splits of a corpus: random labels, as many as the audio has frames."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for table in data.glob("*.tsv"):
        sizes = [int(line.split("\t")[1]) for line in table.read_text().splitlines()[1:]]
        counts = [int((size - 400) // (16_000 / rate_hz)) + 1 for size in sizes]
        rows = [" ".join(map(str, rng.integers(clusters, size=count))) for count in counts]
        (folder / f"{table.stem}.km").write_text("".join(f"{row}\n" for row in rows))
    (folder / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(clusters)))
    (folder / "targets.json").write_text(json.dumps({"rate_hz": rate_hz, "clusters": clusters}))
    return folder


def write_transcripts(data: Path) -> None:
    """Three letters and a word end an utterance, by its number."""
    for table in data.glob("*.tsv"):
        count = len(table.read_text().splitlines()) - 1
        lines = [f"{'AB'[row % 2]} {'BC'[row % 3 % 2]} |" for row in range(count)]
        (data / f"{table.stem}.ltr").write_text("".join(f"{line}\n" for line in lines))
    (data / "dict.ltr.txt").write_text("| 10\nA 5\nB 8\nC 3\n")


def compose(recipe: str, **overrides: Any) -> Any:
    """A recipe's configuration as fairseq-hydra-train would make it."""
    from fairseq.dataclass.initialize import add_defaults, hydra_init
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    hydra_init(recipe)
    GlobalHydra.instance().clear()
    typed = [f"{key}={_typed(value)}" for key, value in overrides.items()]
    with initialize_config_module("fairseq.config", version_base="1.1"):
        cfg = hydra_compose(recipe, overrides=typed)
    add_defaults(cfg)
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    OmegaConf.set_struct(cfg, True)
    return cfg


def _typed(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(_typed(each) for each in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_typed(each)}" for key, each in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f'"{value}"' if isinstance(value, str) else str(value)


def train_mt4ssl(data: Path, out: Path, *labels: Path, **overrides: Any) -> Path:
    """`train` of the small recipe of mt4ssl at its smallest, with these label folders."""
    settings = {**TINY_MT4SSL, "task.labels": [str(folder) for folder in labels]}
    return train(data, out, "mt4ssl_small", settings, **overrides)


def train(
    data: Path,
    out: Path,
    recipe: str = "joint_sequential_small",
    tiny: dict[str, Any] | None = None,
    **overrides: Any,
) -> Path:
    """Train as fairseq-hydra-train does, in this process; dots of keys written as double underscores.

    tiny: settings that make the model small, `TINY` if not given.
    Returns: the folder of the checkpoints.
    """
    from fairseq import checkpoint_utils
    from fairseq.distributed.utils import call_main
    from fairseq_cli.train import main

    for name in ("best",):
        if hasattr(checkpoint_utils.save_checkpoint, name):
            delattr(checkpoint_utils.save_checkpoint, name)
    settings = {
        **(TINY if tiny is None else tiny),
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    cfg = compose(recipe, **{"task.data": str(data), "checkpoint.save_dir": str(out), **settings})
    torch.set_num_threads(1)
    call_main(cfg, main)
    return out


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint."""
    return torch.load(checkpoint, map_location="cpu", weights_only=False)["model"]
