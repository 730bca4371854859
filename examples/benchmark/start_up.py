"""Measures the time and memory that a rank needs before its first batch of a large corpus.

    python examples/benchmark/start_up.py                       # 280,000 utterances of 12.3 s on average
    python examples/benchmark/start_up.py --utterances 5000 --pairs 5000

Makes up a manifest and labels at 50 Hz; no audio is read. The first start reads the text of the labels and
writes train.km.bin beside it; the second, in a new process, is that of every rank of every later run. Prints
seconds as JSON, and by how many MB the resident memory of the process grew after all imports. Needs about 6
bytes of disk for each label, 1.1 GB by default.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STAGES = {"made": "make", "first_start": "start", "start": "start", "pairs": "pairs"}
"""Stage, in order -> its function."""


def main(words: list[str] | None = None) -> None:
    """Run each stage in a process of its own, because peak memory is that of a whole process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--utterances", type=int, default=280_000, help="rows of the manifest (280000)")
    parser.add_argument("--mean-s", type=float, default=12.3, help="mean length of an utterance, s (12.3)")
    parser.add_argument("--clusters", type=int, default=500, help="labels (500)")
    parser.add_argument("--pairs", type=int, default=567_000, help="rows of the pair manifest (567000)")
    parser.add_argument("--ranks", type=int, default=8, help="processes that share the batches (8)")
    parser.add_argument("--folder", help="where to put the files (a temporary folder, removed afterwards)")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.stage:
        print(json.dumps(globals()[args.stage](args, Path(args.folder))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or temporary
        options = [f"--{name.replace('_', '-')}={value}" for name, value in vars(args).items() if value]
        found: dict[str, Any] = {}
        for name, stage in STAGES.items():
            command = [sys.executable, __file__, *options, f"--stage={stage}"]
            run = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            found[name] = json.loads(run.stdout.splitlines()[-1])
    print(json.dumps(found, indent=2))


def peak_mb() -> float:
    """The peak resident memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def make(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write train.tsv and labels/train.km, and the pair manifest."""
    import numpy as np

    from fairseq_mtssl.data.manifest import PairRow, write_pair_manifest

    rng = np.random.default_rng(0)
    seconds = np.clip(rng.normal(args.mean_s, args.mean_s / 3, args.utterances), 2.0, 2 * args.mean_s)
    samples = (seconds * 16_000).astype(np.int64)
    frames = (samples - 400) // 320 + 1
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "train.tsv", "w", encoding="utf-8") as tsv:
        tsv.write("audio\n")
        for row, count in enumerate(samples.tolist()):
            place = f"{row // 120:04d}/{row // 30:06d}"
            tsv.write(f"train/{place}/{place.replace('/', '-')}-{row % 30:04d}.flac\t{count}\n")
    labels = folder / "labels"
    labels.mkdir(exist_ok=True)
    words = np.array([[f"{label}{end}" for end in " \n"] for label in range(args.clusters)], dtype=bytes)
    with open(labels / "train.km", "wb") as km:
        for counts in np.array_split(frames, max(1, args.utterances // 5000)):
            last = np.zeros(counts.sum(), dtype=np.int64)
            last[np.cumsum(counts) - 1] = 1
            text = words[rng.integers(args.clusters, size=len(last)), last].view(np.uint8)
            km.write(text[text != 0].tobytes())
    (labels / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(args.clusters)))
    (labels / "targets.json").write_text(json.dumps({"rate_hz": 50.0, "clusters": args.clusters}))
    rows = [
        PairRow(f"{row % 97}/{row}.wav", 80_000, f"caption-{row}", f"{row // 5}.jpg", str(row // 5))
        for row in range(args.pairs)
    ]
    if rows:
        write_pair_manifest(folder / "pairs", "train", rows)
    size = (labels / "train.km").stat().st_size
    return {"hours": float(samples.sum() / 16_000 / 3600), "labels": int(frames.sum()), "km_mb": size / 1e6}


def start(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What fairseq does before the first batch of the task mt4ssl, without reading audio."""
    from fairseq_mtssl.tasks.mt4ssl import Mt4sslTask, Mt4sslTaskConfig

    cfg = Mt4sslTaskConfig(data=str(folder), labels=[str(folder / "labels")])
    cfg.conv_feature_layers, cfg.phase_ratio = None, None
    cfg.seed, cfg.train_subset, cfg.max_update = 1, "train", 0
    before, began = peak_mb(), time.perf_counter()
    task = Mt4sslTask(cfg)
    dataset = task.load_dataset("train")
    loaded = time.perf_counter()
    loaded_mb = peak_mb()
    tokens = 1_400_000
    options = {"max_tokens": tokens, "max_positions": tokens, "num_shards": args.ranks, "seed": 1}
    epoch = task.get_batch_iterator(dataset, ignore_invalid_inputs=True, **options).next_epoch_itr()
    ready = time.perf_counter()
    return {
        "load_dataset_s": loaded - began,
        "batches_s": ready - loaded,
        "total_s": ready - began,
        "load_dataset_grew_mb": loaded_mb - before,
        "grew_mb": peak_mb() - before,
        "imports_mb": before,
        "batches_of_a_rank": len(epoch),
    }


def pairs(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Read the pair manifest."""
    from fairseq_mtssl.data.manifest import read_pair_manifest

    before, began = peak_mb(), time.perf_counter()
    rows = len(read_pair_manifest(folder / "pairs", "train")) if args.pairs else 0
    return {"rows": rows, "read_s": time.perf_counter() - began, "grew_mb": peak_mb() - before}


def stage(size: str, name: str, folder: str) -> dict[str, Any]:
    """A stage of the benchmark. name: of STAGES, in its order."""
    from examples.benchmark.parts import SIZES

    utterances, pairs = SIZES[size].start_up
    args = argparse.Namespace(utterances=utterances, mean_s=12.3, clusters=500, pairs=pairs, ranks=8)
    return dict(globals()[STAGES[name]](args, Path(folder)))


if __name__ == "__main__":
    main()
