"""What the examples' results.json says of a run's phases."""

from __future__ import annotations

from pathlib import Path

from examples.results import run_health

LOG = """\
[t][fairseq_mtssl.tasks.phases][INFO] - phase 1 of 2, w2v2: updates 0 to 24, alpha 0, resets optimizer, lr
[t][train_inner][INFO] - {"epoch": 1, "update": 0.4, "alpha": "0", "phase": "0", "contrastive": "3.9", \
"contrastive_chance": "3.9", "ssl_accuracy": "0.02", "ssl_chance": "0.02", "num_updates": "20"}
[t][fairseq_mtssl.tasks.phases][INFO] - phase 2 of 2, vgs: updates 24 to 40, alpha 1, resets optimizer, lr
[t][train_inner][INFO] - {"epoch": 1, "update": 0.8, "alpha": "1", "phase": "1", "loss_vgs": "3.0", \
"loss_vgs_chance": "6.9", "num_updates": "40"}
"""


def test_phases_are_judged_by_their_exact_updates(tmp_path: Path) -> None:
    (tmp_path / "hydra_train.log").write_text(LOG)
    first, second = run_health(tmp_path)
    assert (first.name, first.first_update, first.last_update, first.learned) == ("W2V2", 0, 24, False)
    assert (second.name, second.first_update, second.last_update, second.learned) == ("VGS", 24, 40, True)
