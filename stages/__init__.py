"""The stages of the pipeline, and how all of them compute.

How a sum of floating point numbers is rounded depends on the order in which they are added, and so on
the number of threads and the width of the processor's registers. So every stage computes on one
thread (where more are used, the recipe says so and our own code divides the work), and a processor
with AVX-512 uses the instructions of one with AVX2. NumPy and torch read these variables once, when
they are imported or first used, so this file is imported before them.
"""

import os


def _has_avx2() -> bool:
    """Say whether Linux reports AVX2; elsewhere the libraries choose for themselves."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123  pathlib takes its time to load
            return " avx2 " in file.read()
    except OSError:
        return False


os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
if _has_avx2():
    os.environ["ATEN_CPU_CAPABILITY"] = "avx2"
    os.environ["MKL_CBWR"] = os.environ["MKL_ENABLE_INSTRUCTIONS"] = "AVX2"
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
# ONNX Runtime would keep an identifier of the machine in the user's cache folder, for its telemetry.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
