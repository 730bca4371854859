"""What the examples' results.json says of a run's phases."""

from __future__ import annotations

from pathlib import Path

from examples.results import measured_on, retrieval_table, run_health

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


def test_precision_stands_beside_recall_by_label() -> None:
    row = {"r1": 30.0, "r5": 30.0, "r10": 30.0, "median_rank": 9.0}
    chance = {"r1": 10.0, "r5": 41.0, "r10": 65.0, "median_rank": 9.3}
    ways = ("speech_to_image", "image_to_speech")
    by_image = dict.fromkeys(ways, row) | {"chance": dict.fromkeys(ways, chance)}
    by_label = {way: {**row, "p10": 31.0} for way in ways}
    by_label |= {"chance": {way: {**chance, "p10": 10.0} for way in ways}}
    table = retrieval_table({"one": by_label})
    assert table.header[:6] == ["run", "s→i R@1", "s→i R@5", "s→i R@10", "s→i P@10", "s→i median"]
    assert table.rows[0][4] == "31.0" and table.rows[1][4] == "10.0"
    assert "P@10" not in " ".join(retrieval_table({"one": by_image}).header)
    # a file of before has none: the column is left out
    assert "P@10" not in " ".join(retrieval_table({"one": by_label, "old": by_image}).header)
    about = {"split": "test", "images": 3, "captions": 4, "relevance": "label"}
    assert "how many of the ten best are right" in measured_on({**by_label, **about})
