import stages  # noqa: F401  says how to compute, before any test imports NumPy or torch
