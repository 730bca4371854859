"""Retrieval with a trained model: a split measured in both directions, or a folder ranked for one query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fairseq_mtssl import checkpoints
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.ranking import top_candidates
from fairseq_mtssl.evaluation.relevance import relevance_groups
from fairseq_mtssl.evaluation.retrieval import RetrievalResult, evaluate_retrieval
from fairseq_mtssl.inference import embeddings


def evaluate_split(
    checkpoint: str | Path,
    data: str | Path,
    split: str,
    relevance: str,
    batch_size: int,
    device: torch.device,
) -> tuple[embeddings.EncodedSplit, RetrievalResult]:
    """The embeddings of a split and their retrieval scores.

    relevance: image or label. Raises: MtsslError for a checkpoint or data that cannot be used.
    """
    # no split is the training split here: none is cut, shuffled or perturbed as in training
    loaded = checkpoints.load_model(checkpoint, data=str(data), overrides={"task": {"train_subset": ""}})
    loaded.task.load_dataset(split)
    encoded = embeddings.encode_split(loaded.model.to(device), loaded.task.dataset(split), batch_size, device)
    manifest = encoded.manifest
    groups = relevance_groups(manifest.image_ids, manifest.labels, manifest.unique_image_ids, relevance)
    scores = evaluate_retrieval(encoded.speech, encoded.image, *groups, split=split, relevance=relevance)
    return encoded, scores


def rank_folder(
    checkpoint: str | Path,
    query: str | Path,
    folder: str | Path,
    suffixes: tuple[str, ...],
    *,
    images: bool,
    top: int,
    batch_size: int,
    device: torch.device,
) -> dict[str, Any]:
    """The best files of a folder for a query, as `mtssl retrieve --json` writes them.

    suffixes: of the files. images: whether they are images and the query is a recording, or the reverse. top:
    the number of results.
    Returns: query, direction, candidates, results (best first), skipped.
    Raises: MtsslError for a query or checkpoint that cannot be used, or when no candidate can be.
    """
    paths = _find_files(Path(folder), suffixes)
    if not Path(query).is_file():
        raise ConfigError("--query", [f"{query}: no such file; give a recording or an image"])
    loaded = checkpoints.load_model(checkpoint)
    model, reader = loaded.model.to(device), embeddings.file_reader(loaded.task)
    asked = embeddings.encode_files(model, reader, [Path(query)], 1, device, images=not images)
    if asked.skipped:
        raise ConfigError("--query", [asked.skipped[0][1]])
    found = embeddings.encode_files(model, reader, paths, batch_size, device, images=images)
    if not found.paths:
        got = f"none of {len(paths)} files can be used, first: {found.skipped[0][1]}"
        raise ConfigError(str(folder), [got])
    order, scores = top_candidates(asked.embeddings, found.embeddings, top)
    ranked = zip(order[0].tolist(), scores[0].tolist(), strict=True)
    return {
        "query": str(query),
        "direction": "speech_to_image" if images else "image_to_speech",
        "candidates": len(found.paths),
        "results": [
            {"rank": rank, "path": str(found.paths[i]), "score": score}
            for rank, (i, score) in enumerate(ranked, 1)
        ],
        "skipped": [{"path": str(path), "reason": reason} for path, reason in found.skipped],
    }


def _find_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files below a folder by suffix, in any case, sorted. Raises: ConfigError if there is none."""
    if not folder.is_dir():
        raise ConfigError(str(folder), ["is no folder; give the one that holds the candidates"])
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    if not paths:
        raise ConfigError(
            str(folder), [f"holds no file that ends in {', '.join(suffixes)}; give another folder"]
        )
    return paths
