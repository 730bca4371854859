"""`mtssl transcribe`: the text that a fine-tuned model recognises, and its word errors."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from fairseq_mtssl.cli.options import add_compute_arguments, positive_int
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.base import Evaluation, EvaluationResult, register_evaluation
from fairseq_mtssl.files import prepare_output, write_output

if TYPE_CHECKING:
    from fairseq_mtssl.inference.transcription import Transcriber

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
    from fairseq_mtssl.inference.devices import pick_device
    from fairseq_mtssl.inference.transcription import Transcriber

    if (args.data is None) == (not args.audio):
        raise ConfigError("--data", ["give either --data DIR with --split S, or recordings"])
    check_search(args)
    if args.hypotheses:
        prepare_output(args.hypotheses)
    transcriber = Transcriber(args.checkpoint, pick_device(args.device), args.batch_seconds)
    measure = measure_files if args.data is None else measure_split
    table, answer = measure(args, transcriber)
    write = partial(write_output, args.hypotheses, format_hypotheses(answer["hypotheses"]))
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


def choose_decoder(args: argparse.Namespace, transcriber: Transcriber) -> Any:
    """The greedy decoder, or with --lexicon a beam search."""
    from fairseq_mtssl.decoding.greedy import GreedyDecoder
    from fairseq_mtssl.decoding.lexicon import read_lexicon
    from fairseq_mtssl.decoding.lexicon_beam import BeamOptions, LexiconBeamDecoder

    if args.lexicon is None:
        return GreedyDecoder(transcriber.vocabulary)
    given = {name: getattr(args, name) for name in SEARCH if getattr(args, name) is not None}
    vocabulary, options = transcriber.vocabulary, BeamOptions(**given)
    decoder = LexiconBeamDecoder(vocabulary, read_lexicon(args.lexicon, vocabulary), args.lm, options)
    decoder.about["lexicon"] = str(args.lexicon)
    return decoder


def measure_split(args: argparse.Namespace, transcriber: Transcriber) -> tuple[str, dict[str, Any]]:
    """The word errors of a split as a table, and numbers and texts as --json writes them."""
    decoder = choose_decoder(args, transcriber)
    result, hypotheses = transcriber.transcribe_split(args.data, args.split, decoder)
    heading = f"split {args.split}, {decoder.about['name'].replace('_', ' ')} decoding"
    numbers = {"split": args.split, **result.to_json(), "decoder": decoder.about, "hypotheses": hypotheses}
    return f"{heading}\n{result.format_table()}", numbers


def measure_files(args: argparse.Namespace, transcriber: Transcriber) -> tuple[str, dict[str, Any]]:
    """A line for each recording, and texts and what was skipped as --json writes them."""
    decoder = choose_decoder(args, transcriber)
    found = transcriber.transcribe_files(args.audio, decoder)
    lines = [
        f"{path}\t{found.texts[row]}" if row in found.texts else f"skipped {found.errors[row]}"
        for row, path in enumerate(args.audio)
    ]
    texts, errors = sorted(found.texts.items()), sorted(found.errors.items())
    return "\n".join(lines), {
        "decoder": decoder.about,
        "hypotheses": [{"file": args.audio[row], "hypothesis": text} for row, text in texts],
        "skipped": [{"file": args.audio[row], "reason": error} for row, error in errors],
    }


def format_hypotheses(rows: list[dict[str, str]]) -> str:
    """A tab-separated table with the names of its columns on the first line."""
    names = list(rows[0]) if rows else ["file", "hypothesis"]
    return "".join("\t".join(cells) + "\n" for cells in (names, *(row.values() for row in rows)))


register_evaluation(Evaluation(NAME, HELP, add_arguments, run))
