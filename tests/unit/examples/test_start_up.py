"""The benchmark of a start-up, on a corpus of a few rows and in this process."""

from __future__ import annotations

import argparse
from pathlib import Path

from examples.benchmark import start_up
from fairseq_mtssl.labels import km_files as label_files


def test_it_makes_what_it_measures_and_the_second_start_reads_no_text(tmp_path: Path, monkeypatch) -> None:
    args = argparse.Namespace(utterances=300, mean_s=4.0, clusters=20, pairs=50, ranks=2)
    made = start_up.make(args, tmp_path)
    assert made["labels"] > 300 * 50 and 0.2 < made["hours"] < 0.5
    assert start_up.start(args, tmp_path)["batches_of_a_rank"] > 5
    monkeypatch.setattr(label_files, "_convert", None)
    assert start_up.start(args, tmp_path)["total_s"] > 0
    assert start_up.pairs(args, tmp_path)["rows"] == 50
