"""Joint self-supervised and visually grounded speech learning on fairseq.

`load_model` opens a checkpoint for use in Python; see `fairseq_mtssl.inference.pretrained`.

Importing the package registers its tasks, models, criterions, optimizers and learning-rate schedulers with
fairseq. Every registering module is imported here by name, since fairseq's `import_user_module` does nothing
for a package that is already imported, and never looks into `criterions/`.
"""

from __future__ import annotations

import logging as _logging
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from fairseq_mtssl.inference.pretrained import Pretrained as Pretrained
    from fairseq_mtssl.inference.pretrained import load_model as load_model

__version__ = "0.1.0"

# fairseq logs an advertisement for tensorboardX when it is first imported, which is not shown
_disabled = _logging.root.manager.disable
_logging.disable(_logging.INFO)
import fairseq.tasks  # noqa: E402, F401

_logging.disable(_disabled)

from fairseq_mtssl import fairseq_patches as _fairseq_patches  # noqa: E402
from fairseq_mtssl.criterions import joint_ssl_vgs as _criterion_joint_ssl_vgs  # noqa: E402, F401
from fairseq_mtssl.criterions import mt4ssl as _criterion_mt4ssl  # noqa: E402, F401
from fairseq_mtssl.criterions import phoneme_probe as _criterion_phoneme_probe  # noqa: E402, F401
from fairseq_mtssl.criterions import vgs_retrieval as _criterion_vgs_retrieval  # noqa: E402, F401
from fairseq_mtssl.models import joint_ssl_vgs as _model_joint_ssl_vgs  # noqa: E402, F401
from fairseq_mtssl.models import mt4ssl as _model_mt4ssl  # noqa: E402, F401
from fairseq_mtssl.models import phoneme_probe as _model_phoneme_probe  # noqa: E402, F401
from fairseq_mtssl.models import speech_ctc as _model_speech_ctc  # noqa: E402, F401
from fairseq_mtssl.models import vgs_retrieval as _model_vgs_retrieval  # noqa: E402, F401
from fairseq_mtssl.optim import adamw as _optimizer_adamw  # noqa: E402, F401
from fairseq_mtssl.optim import bert_adam as _optimizer_bert_adam  # noqa: E402, F401
from fairseq_mtssl.optim import phased_lr as _scheduler_phased  # noqa: E402, F401
from fairseq_mtssl.tasks import joint_ssl_vgs as _task_joint_ssl_vgs  # noqa: E402, F401
from fairseq_mtssl.tasks import mt4ssl as _task_mt4ssl  # noqa: E402, F401
from fairseq_mtssl.tasks import phoneme_probe as _task_phoneme_probe  # noqa: E402, F401
from fairseq_mtssl.tasks import speech_ctc as _task_speech_ctc  # noqa: E402, F401
from fairseq_mtssl.tasks import vgs_retrieval as _task_vgs_retrieval  # noqa: E402, F401

_fairseq_patches.install()


def __getattr__(name: str) -> _Any:
    # imported at its first use, since most commands do not need it
    if name in ("load_model", "Pretrained"):
        from fairseq_mtssl.inference import pretrained

        return getattr(pretrained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
