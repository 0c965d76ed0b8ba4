"""Classify your own images with the exported model: `python -m predict IMAGE…`."""

from pathlib import Path

import stages  # noqa: F401  before ONNX Runtime, whose telemetry it turns off

ROOT = Path(__file__).parents[1]
