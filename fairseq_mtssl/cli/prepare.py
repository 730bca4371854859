"""`mtssl prepare`: make the data folder of a corpus."""

from __future__ import annotations

import argparse

HELP = "make the data folder of a corpus: manifests, and what belongs to its recordings"


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add a subcommand for each corpus, with the options of that corpus. Returns: the parser."""
    from fairseq_mtssl.corpora.base import CORPORA

    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    CORPORA.add_commands(corpora, add_corpus)
    return parser


def add_corpus(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> None:
    """Add a subcommand that prepares a corpus."""
    from fairseq_mtssl.corpora.base import CORPORA

    corpus = CORPORA.named(name)
    parser = commands.add_parser(
        name,
        help=corpus.summary,
        description=corpus.description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    corpus.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus that was named."""
    from fairseq_mtssl.corpora.base import CORPORA

    CORPORA.named(args.corpus).prepare(args)
    return 0
