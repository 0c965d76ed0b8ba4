"""The stages of the pipeline, and how all of them compute.

How a sum of floating point numbers is rounded depends on the order in which they are added, and so on
the number of threads, the width of the processor's registers and the library that adds. So every stage
computes on one thread (`training/parallel.py` divides the work among more), and all processors of an
architecture compute by the instructions of its first: on x86-64, the first with AVX2, Intel's Haswell.
NumPy, its OpenBLAS, torch and oneDNN read these variables once, when they are imported or first used,
so this file is imported before them. What PyTorch must not compute itself is in
`networks/kernels.py`.
"""

import hashlib
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType
from typing import NamedTuple

# A numpy.py in the clone must not take the place of NumPy.
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
sys.path.sort(key=lambda place: os.path.abspath(place) == _ROOT)  # noqa: PTH100
# Inherited settings that can stop a stage: TQDM_MININTERVAL=abc, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1.
_REMOVED: tuple[str, ...] = ("TQDM_", "TORCH_FORCE_")
if sys.flags.ignore_environment:  # for the processes that this one starts, too
    _REMOVED += ("PYTHON",)
for _name in [name for name in os.environ if name.startswith(_REMOVED)]:
    del os.environ[_name]

SOURCES: dict[str, str] = {}  # of each imported module of ours: its path, and its source's SHA-256


class _Loader(SourceFileLoader):
    """Compiles a module from the bytes whose digest it takes.

    Python would run a .pyc whose size and mtime match, the mtime in whole seconds: an edit within the
    same second could run as the old code and be recorded as the new.
    """

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        SOURCES[self.path] = hashlib.sha256(source).hexdigest()
        return self.source_to_code(source, self.path)


class _Finder(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None) -> ModuleSpec | None:
        if not fullname.startswith(f"{__name__}."):
            return None
        spec = super().find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, _Finder)
with open(__file__, "rb") as file:  # noqa: PTH123  pathlib takes its time to load
    _source = file.read()
if compile(_source, __file__, "exec") == sys._getframe().f_code:
    SOURCES[__file__] = hashlib.sha256(_source).hexdigest()
else:  # Python has run such a .pyc
    SOURCES[__file__] = "of old bytecode"
    os.unlink(str(__spec__.cached))  # noqa: PTH108


class Architecture(NamedTuple):
    """Processors that give the same bytes by these settings."""

    name: str
    features: set[str]  # which Linux must report of a processor
    settings: dict[str, str]


X86_64 = Architecture(
    "x86-64 with AVX2 under Linux",
    {"avx2", "fma"},
    {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    },
)
ARM64 = Architecture(
    "Arm64 under Linux",
    {"asimd"},
    {
        "ATEN_CPU_CAPABILITY": "default",  # without SVE
        "OPENBLAS_CORETYPE": "ARMV8",
        "NPY_DISABLE_CPU_FEATURES": "ASIMDHP ASIMDDP ASIMDFHM SVE",
    },
)


def _architecture() -> Architecture | None:
    """Return the one that this processor belongs to; None for others and for other systems."""
    try:
        architecture = {"x86_64": X86_64, "aarch64": ARM64}[os.uname().machine]
        with open("/proc/cpuinfo") as file:  # noqa: PTH123  pathlib takes its time to load
            return architecture if architecture.features <= set(file.read().split()) else None
    except (AttributeError, KeyError, OSError):  # Windows has no uname
        return None


ARCHITECTURE = _architecture()
# MKL_NUM_THREADS, if set, overrides OMP_NUM_THREADS in torch.
_SETTINGS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_SETTINGS["PYTORCH_JIT"] = "1"  # 0 would leave nothing to export
if ARCHITECTURE:
    _SETTINGS |= ARCHITECTURE.settings
# Libraries that were imported earlier ignore these settings; `kernels` refuses them.
TOO_EARLY = [name for name in ("numpy", "torch") if name in sys.modules]
if _SETTINGS.items() <= os.environ.items():  # inherited from a process that had imported this file
    TOO_EARLY = []
os.environ.update(_SETTINGS)
os.environ.pop("NPY_ENABLE_CPU_FEATURES", None)  # NumPy refuses both together
# The stages report in one line what torch's C++ code would warn of.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
# ONNX Runtime would keep an identifier of the machine in the user's cache folder, for its telemetry.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
