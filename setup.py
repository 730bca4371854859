"""Package metadata; tool settings are in pyproject.toml, exact versions in constraints.txt."""

from __future__ import annotations

import platform
import re
import zlib
from pathlib import Path
from typing import Any

from setuptools import Extension, find_namespace_packages, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "fairseq_mtssl/__init__.py").read_text("utf-8"), re.M)
if VERSION is None:
    raise RuntimeError('fairseq_mtssl/__init__.py: no line __version__ = "…"; put it back')

# fairseq 0.12.2 needs omegaconf < 2.1 and mutable dataclass defaults, which neither a current pip nor
# Python >= 3.11 takes; fairseq-fixed is the same code for current ones. Both install the module `fairseq`.
CORE = [
    # fairseq's ctc criterion wants it at its first validation, when the training has long begun
    "editdistance>=0.8.1",
    "fairseq-fixed>=0.12.3.1,<0.12.4",
    "hydra-core>=1.3,<1.4",
    "jinja2>=3.1",
    "markupsafe>=2.1",
    "numpy>=1.26",
    "omegaconf>=2.3,<2.4",
    "pillow>=10",
    "scikit-learn>=1.3",
    "soundfile>=0.12",
    "soxr>=0.3.7",
    "torch>=2.3",
    "tqdm>=4.64",
]
EXTRAS = {
    "demo": ["doit>=0.37", "espeakng-loader>=0.2.4", "matplotlib>=3.8"],
    "report": ["matplotlib>=3.8"],
    "regions": ["h5py>=3.10"],
    "timm": ["timm>=1.0"],
    # prepare aligned_phones, for TextGrids; its parser is in praatio.utilities
    "corpora": ["praatio>=6.2,<7"],
    # prepare-text --units sentencepiece; letters need nothing more
    "text": ["sentencepiece>=0.2"],
    # transcribe: the beam search, and word errors; recordings alone, decoded greedily, need neither
    "decode": ["flashlight-text>=0.0.7", "jiwer>=4"],
    # faiss-cpu and faiss-gpu own the same folder: install one of the two, never both
    "faiss": ["faiss-cpu>=1.8"],
    "faiss-gpu": ["faiss-gpu>=1.8"],
}
EXTRAS["dev"] = [
    *EXTRAS["demo"],
    *EXTRAS["corpora"],
    *EXTRAS["regions"],
    *EXTRAS["text"],
    *EXTRAS["decode"],
    "hypothesis>=6.100",
    "kaldi-native-fbank>=1.20",
    "mypy>=1.11",
    # drives Debian's Chromium in the tests of the report page; no browser of its own is downloaded
    "playwright>=1.45",
    "pytest>=8",
    "ruff>=0.6",
    "safetensors>=0.4",
    "types-tqdm",
]

KERNELS = Path("fairseq_mtssl/kernels")
NATIVE = [
    str(KERNELS / name)
    for name in ("native.cpp", *sorted(p.name for p in (HERE / KERNELS).glob("native_*.h")))
]
# what kernels/native.py calls a build, and the oldest processor that it runs on
BUILDS = (("avx512_bf16", "cooperlake"), ("avx512", "skylake-avx512"), ("avx2", "haswell"))

# what gcc says of wide vectors and of its own headers
QUIET = ("-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized")


def native(instructions: str, march: str) -> Extension:
    """native.cpp for processors with these instructions; left out where it does not compile."""
    text = b"".join((HERE / name).read_bytes() for name in NATIVE)
    return Extension(
        f"fairseq_mtssl.kernels._native_{instructions}",
        [NATIVE[0]],
        depends=NATIVE[1:],
        language="c++",
        define_macros=[("SOURCE", f"{zlib.crc32(text)}u")],
        extra_compile_args=["-std=c++17", "-O3", f"-march={march}", "-fno-math-errno", "-g0", *QUIET],
        optional=True,
    )


class BuildApart(build_ext):
    """Object files of each extension in a folder of their own: several are made of one source."""

    def build_extension(self, ext: Any) -> None:
        temporary = self.build_temp
        self.build_temp = str(Path(temporary, ext.name))
        try:
            super().build_extension(ext)
        finally:
            self.build_temp = temporary


on_x86 = platform.system() in ("Linux", "Darwin") and platform.machine() == "x86_64"

setup(
    name="fairseq-mtssl",
    version=VERSION[1],
    description="Joint self-supervised and visually grounded speech learning on fairseq",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    install_requires=CORE,
    extras_require=EXTRAS,
    # With the root named, setuptools makes an editable install a plain path entry. Its import hook, the
    # alternative, hides hydra_plugins from Hydra, which looks for plugins by walking folders.
    package_dir={"": "."},
    packages=[
        *find_packages(include=["fairseq_mtssl", "fairseq_mtssl.*"]),
        # a namespace shared with the plugins of other packages: hydra_plugins has no __init__.py
        *find_namespace_packages(include=["hydra_plugins.*"]),
    ],
    package_data={
        "fairseq_mtssl.config": ["*.yaml"],
        "fairseq_mtssl.report": ["*.css", "*.js", "templates/*.j2"],
    },
    entry_points={"console_scripts": ["mtssl = fairseq_mtssl.cli.main:main"]},
    ext_modules=[native(*each) for each in BUILDS] if on_x86 else [],
    cmdclass={"build_ext": BuildApart},
    zip_safe=False,
)
