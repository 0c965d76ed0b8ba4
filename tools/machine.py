"""What a measurement, or a report of other bytes, should say of the machine."""

import platform
from importlib.metadata import version
from pathlib import Path

from stages.common.processes import usable_cores

PACKAGES = ("torch", "numpy", "scikit-learn", "onnx", "onnxruntime", "dvc")
INSTRUCTIONS = ("sse4_2", "fma", "avx2", "avx_vnni", "avx512", "amx_", "asimd", "sve")


def machine() -> dict[str, str | int]:
    """Return the processor, what it can do, the system and the packages, by their names."""
    model, flags = platform.processor(), ""
    if Path("/proc/cpuinfo").exists():
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
        fields = {key.strip(): value.strip() for key, _, value in lines}
        model = fields.get("model name", model)
        flags = fields.get("flags", fields.get("Features", ""))
    return {
        "cpu": model,
        "instructions": " ".join(flag for flag in flags.split() if flag.startswith(INSTRUCTIONS)),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}".strip(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }
