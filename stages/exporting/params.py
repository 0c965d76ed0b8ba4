"""The section `export` of params.yaml."""

from typing import Annotated

from pydantic import Field

from stages.runtime.config import PositiveInt, Section


class ExportParams(Section):
    tolerance: Annotated[float, Field(gt=0)]
    calibration_images: PositiveInt
    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)]
