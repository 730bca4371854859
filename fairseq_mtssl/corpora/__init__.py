"""How each corpus becomes a data folder. Importing this package registers our corpora, one line each."""

from fairseq_mtssl.corpora import aligned_phones as _aligned_phones  # noqa: F401
from fairseq_mtssl.corpora import fewer_pairs as _fewer_pairs  # noqa: F401
from fairseq_mtssl.corpora import librispeech as _librispeech  # noqa: F401
from fairseq_mtssl.corpora import pairs as _pairs  # noqa: F401
from fairseq_mtssl.corpora import scenes as _scenes  # noqa: F401
from fairseq_mtssl.corpora import spoken_digits as _spoken_digits  # noqa: F401
from fairseq_mtssl.corpora import spokencoco as _spokencoco  # noqa: F401
