"""Folders as trainings leave them, without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml


def write_checkpoint(path: Path, updates: int = 7, **cfg: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "cfg": {"common": {"seed": 3}, "task": {"_name": "speech_ctc"}, "model": {"_name": "m"}, **cfg},
        "model": {"a": torch.zeros(2, 3), "b": torch.zeros(4)},
        "optimizer_history": [{"num_updates": updates, "lr_scheduler_state": {}}],
        "extra_state": {"previous_training_time": 90.0, "train_iterator": {}},
    }
    torch.save(state, path)
    return path


def write_hydra(path: Path, **runtime: Any) -> None:
    sources = [{"path": "fairseq_mtssl.config", "provider": "fairseq-mtssl"}]
    hydra = {
        "job": {"config_name": "vgs_small"},
        "overrides": {"hydra": [], "task": ["task.data=my data", "task.lengths=[4 updates,rest]"]},
        "runtime": {"cwd": "/somewhere", "config_sources": sources, **runtime},
    }
    (path / ".hydra").mkdir()
    (path / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
