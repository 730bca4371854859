"""Folders of runs as the schedules example leaves them, with made-up numbers."""

from __future__ import annotations

import json
from pathlib import Path

NINE = (
    *("w2v2", "vgs", "vgsplus", "w2v2_vgsplus", "vgs_vgsplus", "w2v2_vgs"),
    *("vgs_w2v2", "vgsplus_w2v2", "vgsplus_vgs"),
)
ALPHA = {"w2v2": 0.0, "vgs": 1.0, "vgsplus": 0.5}
POINTS = (10, 20, 30, 50, 70)


def write_run(folder: Path, schedule: str, seed: int = 1, r10: float = 40.0, error: float = 30.0) -> Path:
    """One run of 70 updates with retrieval and ABX of three layers at five checkpoints; 1 is the best."""
    (folder / ".hydra").mkdir(parents=True)
    config = f"task:\n  schedule: {schedule}\n  phases: null\ncommon:\n  seed: {seed}\n"
    (folder / ".hydra" / "config.yaml").write_text(config)
    kinds = schedule.split("_")
    lines = []
    for update in range(5, 71, 5):
        alpha = ALPHA[kinds[0] if update <= 20 else kinds[-1]]
        record = {"epoch": 1, "update": update / 100, "num_updates": str(update), "alpha": str(alpha)}
        if alpha > 0:
            record["loss_vgs"] = str(7.0 - update / 20 + seed / 10)
        if alpha < 1:
            record["loss_ssl"] = str(6.0 - update / 40 + seed / 10)
        lines.append(json.dumps(record))
    (folder / "train.log").write_text("\n".join(lines))
    evaluation = folder / "evaluation"
    (evaluation / "retrieval").mkdir(parents=True)
    (evaluation / "retrieval" / "retrieval.json").write_text(json.dumps(retrieval(r10)))
    for updates in POINTS:
        (evaluation / f"abx_{updates}").mkdir()
        path = evaluation / f"abx_{updates}" / f"abx_{updates}.json"
        path.write_text(json.dumps(abx(error + 7 - updates / 10)))
    return folder


def retrieval(r10: float) -> dict[str, object]:
    chance = {"r1": 0.5, "r5": 2.5, "r10": 5.0, "median_rank": 100.0}
    scores = {"r1": r10 / 4, "r5": r10 / 2, "r10": r10, "median_rank": 9.0}
    return {
        "images": 200,
        "captions": 400,
        "speech_to_image": scores,
        "image_to_speech": scores,
        "chance": {"speech_to_image": chance, "image_to_speech": chance},
    }


def abx(error: float) -> dict[str, object]:
    scores = {str(layer): {"within": error + 2 * layer - 2, "across": error + layer} for layer in (1, 2, 3)}
    return {"scores": scores, "tokens": 1600}
