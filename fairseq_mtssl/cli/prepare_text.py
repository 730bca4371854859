"""`mtssl prepare-text`: make the files that fine-tuning and decoding read from transcripts."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairseq_mtssl.cli.options import positive_int
from fairseq_mtssl.errors import ConfigError

HELP = (
    "write words, their spelling in letters or SentencePiece units, dictionary and lexicon beside the "
    "manifests. Text becomes NFKC, upper case, letters, digits and apostrophes; any other punctuation "
    "becomes a space; digits are not spelled out"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="folder of {split}.tsv; the text is that of {split}.wrd, a row a line, else of {split}.pairs",
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        help="take the text from this table instead: tab separated, columns named on the first line, id or "
        "utt (stems of the manifests' files) and text or words",
    )
    parser.add_argument("--splits", metavar="A,B", help="splits to prepare (every manifest of the folder)")
    parser.add_argument(
        "--train",
        default="train",
        metavar="SPLIT",
        help="the only split that dictionary, lexicon and SentencePiece model come from (train); when it is "
        "not among --splits, those in the folder are used as they are",
    )
    parser.add_argument("--units", choices=("letters", "sentencepiece"), default="letters", help="(letters)")
    parser.add_argument(
        "--vocab-size", type=positive_int, default=1000, metavar="N", help="SentencePiece units (1000)"
    )
    parser.add_argument(
        "--model", metavar="FILE", help="take this SentencePiece model instead of training one"
    )
    parser.add_argument(
        "--dictionary", metavar="FILE", help="take the symbols of this dict.{ltr,spm}.txt instead of train's"
    )
    parser.add_argument(
        "--words", metavar="FILE", help="further words for the lexicon, such as those of a language model"
    )


def run(args: argparse.Namespace) -> int:
    """Read and check the texts of all splits, write the files, print what was written."""
    from fairseq_mtssl.data import finetuning_text
    from fairseq_mtssl.data.manifest import find_splits, read_lines
    from fairseq_mtssl.data.text_source import read_split_texts

    if args.model and args.units == "letters":
        raise ConfigError("--model", ["is for --units sentencepiece; give both or neither"])
    data = Path(args.data)
    names = find_splits(data, args.splits)
    if args.words and args.train not in names:
        raise ConfigError("--words", [f"the lexicon is written with {args.train}; name it in --splits too"])
    splits = read_split_texts(data, names, args.text)
    units = finetuning_text.choose_units(
        data,
        args.units,
        splits[args.train].texts if args.train in splits else None,
        args.vocab_size,
        Path(args.model) if args.model else None,
    )
    made = finetuning_text.prepare(
        splits,
        units,
        train=args.train,
        dictionary=Path(args.dictionary or data / f"dict.{units.extension}.txt"),
        given=args.dictionary is not None,
        words=read_lines(Path(args.words)) if args.words else (),
    )
    finetuning_text.write(data, made)
    for name, split in splits.items():
        words = sum(len(text.split()) for text in split.texts)
        changed = f", {split.changed} of them changed into normal form" if split.changed else ""
        print(f"{name}: {len(split.texts)} texts of {split.source.name}, {words} words{changed}")
    for remark in made.remarks:
        print(f"warning: {remark}")
    print(f"wrote {', '.join(sorted(made.files))} in {data}")
    return 0
