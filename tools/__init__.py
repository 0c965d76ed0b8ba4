import os
import sys

# A random.py in the clone must not take the place of Python's, as in `stages`.
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
sys.path.sort(key=lambda place: os.path.abspath(place) == _ROOT)  # noqa: PTH100
