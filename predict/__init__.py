"""Classify your own images with the exported model: `python -m predict IMAGE…`.

The modules in stages/common are imported as the stages import them: as `common`, which first checks
the installed packages. This is the one place that says where they lie.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGES = str(ROOT / "stages")
if STAGES not in sys.path:
    sys.path.insert(0, STAGES)
