"""Imports torchvision even if its compiled operators do not match torch.

PyPI's Linux wheel of torchvision is built for CUDA. With a CPU build of torch its operators
cannot be loaded, and `import torchvision` ends in "operator torchvision::nms does not exist",
although its classifiers need none of them. Declaring the operators that the import
needs repairs it.
"""

from types import ModuleType

import torch

_declared: list[object] = []  # torch.library's: a declaration lives as long as its Library


def import_torchvision() -> ModuleType:
    """Return torchvision; one that matches torch is imported untouched.

    Raises:
        RuntimeError: torchvision cannot be imported for another reason.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        import torchvision
    return torchvision
