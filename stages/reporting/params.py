"""The section `evaluate` of params.yaml."""

from stages.runtime.config import PositiveInt, Section


class EvaluateParams(Section):
    batch_size: PositiveInt
