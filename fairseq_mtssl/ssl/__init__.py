"""The self-supervised branches. Importing this package registers its branches, one line each."""

from fairseq_mtssl.ssl import best_rq as _best_rq  # noqa: F401
from fairseq_mtssl.ssl import data2vec as _data2vec  # noqa: F401
from fairseq_mtssl.ssl import hubert as _hubert  # noqa: F401
from fairseq_mtssl.ssl import mt4ssl as _mt4ssl  # noqa: F401
from fairseq_mtssl.ssl import wav2vec2 as _wav2vec2  # noqa: F401
