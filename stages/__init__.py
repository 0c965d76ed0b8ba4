"""The stages of the pipeline, and how all of them compute.

How a sum of floating point numbers is rounded depends on the order in which they are added, and so on
the number of threads, the width of the processor's registers and the library that adds. So every stage
computes on one thread (`training/parallel.py` divides the work among more), and
every x86-64 processor with AVX2 computes by the instructions of the first of them, Intel's Haswell.
NumPy, its OpenBLAS, torch and oneDNN read these variables once, when they are imported or first used,
so this file is imported before them. What PyTorch must not compute itself is in
`networks/kernels.py`.
"""

import os
import sys


def _has_avx2() -> bool:
    """Return whether Linux reports AVX2 and FMA, which came with it; False on other systems."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123  pathlib takes its time to load
            return {"avx2", "fma"} <= set(file.read().split())
    except OSError:
        return False


COMMON_BYTES = _has_avx2()  # this processor gives the bytes that all others with AVX2 give
# MKL_NUM_THREADS, if set, overrides OMP_NUM_THREADS in torch.
_SETTINGS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
if COMMON_BYTES:
    _SETTINGS |= {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    }
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
