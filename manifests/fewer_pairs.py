"""The same as `mtssl prepare fewer_pairs`, for use in a clone."""

import sys

from fairseq_mtssl.corpora import base

if __name__ == "__main__":
    sys.exit(base.run_script(lambda: base.prepare("fewer_pairs")))
