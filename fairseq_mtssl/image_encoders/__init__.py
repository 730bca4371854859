"""The image encoders. Importing this package registers its image encoders, one line each."""

from fairseq_mtssl.image_encoders import cnn as _cnn  # noqa: F401
from fairseq_mtssl.image_encoders import patches as _patches  # noqa: F401
from fairseq_mtssl.image_encoders import regions as _regions  # noqa: F401
from fairseq_mtssl.image_encoders import timm as _timm  # noqa: F401
