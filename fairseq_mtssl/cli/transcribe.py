"""`mtssl transcribe`: what a fine-tuned model hears, and how much of it is wrong."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.cli.options import (
    add_compute_arguments,
    pick_device,
    positive_int,
    prepare_output,
    write_output,
)
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.evaluation.base import Evaluation, EvaluationResult, register_evaluation

if TYPE_CHECKING:
    import numpy as np

    from fairseq_mtssl.decoding.vocabulary import Vocabulary
    from fairseq_mtssl.inference.recognition import Decoder, Recognised

NAME = "transcription"
HELP = "transcribe a split and measure word errors, or transcribe recordings, with a fine-tuned model"
SOME_FAILED = 2
SEARCH = ("beam", "beam_threshold", "lm_weight", "word_score")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument("audio", nargs="*", metavar="AUDIO", help="recordings, a line of text each")
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="checkpoint that fine-tuning saved"
    )
    parser.add_argument(
        "--data", metavar="DIR", help="folder of {split}.tsv and {split}.wrd, in place of recordings"
    )
    parser.add_argument("--split", default="test", help="split to transcribe (test)")
    parser.add_argument(
        "--lexicon",
        metavar="FILE",
        help="beam search over these words, spelled as in lexicon.ltr.lst; without it, the most probable "
        "symbol of each frame is taken",
    )
    parser.add_argument("--lm", metavar="FILE", help="n-gram model of words, n from 2, ARPA or KenLM binary")
    parser.add_argument("--beam", type=positive_int, metavar="N", help="hypotheses kept (50)")
    parser.add_argument(
        "--beam-threshold", type=float, metavar="X", help="drop those so many nats worse than the best (50)"
    )
    parser.add_argument("--lm-weight", type=float, metavar="W", help="weight of the language model (2)")
    parser.add_argument("--word-score", type=float, metavar="S", help="added for every word (-1)")
    add_compute_arguments(parser)
    parser.add_argument(
        "--hypotheses", metavar="FILE", help="also write the texts here: file, text, reference, tab separated"
    )


def run(args: argparse.Namespace) -> EvaluationResult:
    """Transcribe a split, or recordings."""
    from fairseq_mtssl import checkpoints
    from fairseq_mtssl.inference.recognition import vocabulary_of

    if (args.data is None) == (not args.audio):
        raise ConfigError("--data", ["give either --data DIR with --split S, or recordings"])
    check_search(args)
    if args.hypotheses:
        prepare_output(args.hypotheses)
    loaded = checkpoints.load_model(args.checkpoint)
    symbols = vocabulary_of(loaded.task, args.checkpoint)
    loaded.model.to(pick_device(args.device))
    decoder = choose_decoder(args, symbols)
    if args.data is not None:
        table, answer = transcribe_split(args, loaded, symbols, decoder)
    else:
        table, answer = transcribe_files(args, loaded, decoder)
    write = partial(write_hypotheses, args.hypotheses, answer["hypotheses"])
    status = SOME_FAILED if answer.get("skipped") else 0
    return EvaluationResult(table, answer, [write] if args.hypotheses else [], status)


def check_search(args: argparse.Namespace) -> None:
    """Refuse options of a search that is not asked for. Raises: ConfigError naming all of them."""
    if args.lexicon is not None:
        return
    errors = [
        f"--{name.replace('_', '-')} is of the beam search; give --lexicon too"
        for name in SEARCH
        if getattr(args, name) is not None
    ]
    if args.lm is not None:
        errors.append(
            "--lm is a model of words; give --lexicon, such as lexicon.ltr.lst, to say how to spell"
        )
    if errors:
        raise ConfigError("--lexicon", ["missing", *errors])


def choose_decoder(args: argparse.Namespace, symbols: Vocabulary) -> Any:
    """Greedy, or with --lexicon a beam search."""
    from fairseq_mtssl.decoding.greedy import GreedyDecoder
    from fairseq_mtssl.decoding.lexicon import read_lexicon
    from fairseq_mtssl.decoding.lexicon_beam import BeamOptions, LexiconBeamDecoder

    if args.lexicon is None:
        return GreedyDecoder(symbols)
    given = {name: getattr(args, name) for name in SEARCH if getattr(args, name) is not None}
    decoder = LexiconBeamDecoder(symbols, read_lexicon(args.lexicon, symbols), args.lm, BeamOptions(**given))
    decoder.about["lexicon"] = str(args.lexicon)
    return decoder


def transcribe_split(
    args: argparse.Namespace, loaded: Any, symbols: Vocabulary, decoder: Any
) -> tuple[str, dict[str, Any]]:
    """The table of a split, and its numbers and texts as --json writes them.

    Raises: ManifestError if the manifest, the references or any recording cannot be used.
    """
    from fairseq_mtssl.data.manifest import read_audio_manifest
    from fairseq_mtssl.evaluation.transcription import evaluate_transcription, import_jiwer

    import_jiwer()
    manifest = read_audio_manifest(Path(args.data) / f"{args.split}.tsv")
    references = read_references(manifest.path, str(loaded.cfg.task.labels), symbols, len(manifest))
    paths = [manifest.audio_path(row) for row in range(len(manifest))]
    heard = _recognise(args, loaded, decoder, paths, manifest.sizes.tolist(), resample=False)
    if heard.errors:
        errors = [f"line {row + 2}: {error}" for row, error in sorted(heard.errors.items())]
        raise ManifestError(manifest.path, errors)
    texts = [heard.texts[row] for row in range(len(manifest))]
    result = evaluate_transcription(references, texts)
    heading = f"split {args.split}, {decoder.about['name'].replace('_', ' ')} decoding"
    rows = zip(manifest.files, texts, references, strict=True)
    return f"{heading}\n{result.format_table()}", {
        "split": args.split,
        **result.to_json(),
        "decoder": decoder.about,
        "hypotheses": [{"file": file, "hypothesis": text, "reference": said} for file, text, said in rows],
    }


def read_references(tsv: Path, labels: str, symbols: Vocabulary, rows: int) -> list[str]:
    """The words of a split: those of its .wrd, or those that its labels spell.

    Raises: ManifestError if there is neither, another number of rows than the manifest has, or an empty one.
    """
    from fairseq_mtssl.data.manifest import read_lines

    path = tsv.with_suffix(".wrd")
    spelled = tsv.with_suffix(f".{labels}")
    if not path.is_file() and not spelled.is_file():
        hint = "Write it with mtssl prepare-text, or name the recordings instead of --data"
        raise ManifestError(
            path, [f"is not there, nor is {spelled.name}: nothing to measure against. {hint}."]
        )
    if path.is_file():
        references = [" ".join(line.split()) for line in read_lines(path)]
    else:
        path = spelled
        references = [symbols.join(line.split()) for line in read_lines(path)]
    errors = [f"line {row} is empty. Drop the row." for row, said in enumerate(references, 1) if not said]
    if len(references) != rows:
        errors.append(f"{len(references)} lines for {rows} utterances of {tsv.name}. Write both again.")
    if errors:
        raise ManifestError(path, errors)
    return references


def transcribe_files(args: argparse.Namespace, loaded: Any, decoder: Any) -> tuple[str, dict[str, Any]]:
    """A line for each recording, and the texts as --json writes them; both name what cannot be used."""
    lengths = [_claimed_samples(path) for path in args.audio]
    heard = _recognise(args, loaded, decoder, args.audio, lengths, resample=True)
    lines = [
        f"{path}\t{heard.texts[row]}" if row in heard.texts else f"skipped {heard.errors[row]}"
        for row, path in enumerate(args.audio)
    ]
    return "\n".join(lines), {
        "decoder": decoder.about,
        "hypotheses": [
            {"file": args.audio[row], "hypothesis": text} for row, text in sorted(heard.texts.items())
        ],
        "skipped": [
            {"file": args.audio[row], "reason": error} for row, error in sorted(heard.errors.items())
        ],
    }


def _claimed_samples(path: str) -> int:
    """Samples at 16 kHz as the header says; 0 of what cannot be read, which reading it will tell."""
    from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, read_header
    from fairseq_mtssl.errors import AudioError

    try:
        samples, rate_hz = read_header(path)
    except AudioError:
        return 0
    return round(samples * SAMPLE_RATE_HZ / rate_hz)


def _recognise(
    args: argparse.Namespace,
    loaded: Any,
    decoder: Decoder,
    paths: Sequence[str],
    lengths: Sequence[int],
    resample: bool,
) -> Recognised:
    """Read as the model was trained: normalised, or as the file has it."""
    from fairseq_mtssl.checkpoints import trained_on_normalised
    from fairseq_mtssl.cli.target_sources import batch_samples
    from fairseq_mtssl.data.audio import normalise, read_audio
    from fairseq_mtssl.inference.recognition import recognise

    normalised = trained_on_normalised(loaded.cfg)
    resample = resample or bool(getattr(loaded.cfg.task, "resample", False))

    def read(row: int) -> np.ndarray:
        wav = read_audio(paths[row], resample=resample)
        return normalise(wav) if normalised else wav

    device = pick_device(args.device)
    samples = batch_samples(args.batch_seconds, device)
    heard = recognise(loaded.model, decoder, lengths, read, device=device, batch_samples=samples)
    for row, error in heard.errors.items():
        if not error.startswith(paths[row]):  # the model's: it knows no files
            heard.errors[row] = f"{paths[row]}: {error}"
    return heard


def write_hypotheses(path: str | Path, rows: Sequence[dict[str, str]]) -> Path:
    """A table with the columns on its first line. Raises: ConfigError if it cannot be written."""
    names = list(rows[0]) if rows else ["file", "hypothesis"]
    lines = ["\t".join(names), *("\t".join(row[name] for name in names) for row in rows)]
    write_output(path, "".join(f"{line}\n" for line in lines))
    return Path(path)


register_evaluation(Evaluation(NAME, HELP, add_arguments, run))
