"""The description of the machine in a measurement or a bug report.

It imports nothing of `stages`, which would set how other programs compute: `make bench` measures some.
"""

import os
import platform
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "numpy", "scikit-learn", "onnx", "onnxruntime", "dvc")
INSTRUCTIONS = ("sse4_2", "fma", "avx2", "avx_vnni", "avx512", "amx_", "asimd", "sve")


def machine() -> dict[str, str | int]:
    """Return the processor and its instructions, the system, and the versions of packages, by name."""
    model, flags = platform.processor(), ""
    if Path("/proc/cpuinfo").exists():
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        fields = {key.strip(): value.strip() for key, _, value in lines}
        model = fields.get("model name", model)
        flags = fields.get("flags", fields.get("Features", ""))
    return {
        "cpu": model,
        "instructions": " ".join(flag for flag in flags.split() if flag.startswith(INSTRUCTIONS)),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}".strip(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    for name, value in machine().items():
        print(f"{name}: {value}")
