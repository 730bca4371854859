"""`mtssl prepare`: make the data folder of a corpus."""

from __future__ import annotations

import argparse

HELP = "make the data folder of a corpus: manifests, and what belongs to its recordings"


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add a subcommand for each corpus, with the options of that corpus. Returns: the parser."""
    from fairseq_mtssl.corpora import base

    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    for name, corpus in base.registered().items():
        command = corpora.add_parser(
            name,
            help=corpus.summary,
            description=corpus.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        corpus.add_arguments(command)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prepare the corpus that was named."""
    from fairseq_mtssl.corpora import base

    base.registered()[args.corpus].prepare(args)
    return 0
