"""Handwritten digits, read pixel by pixel."""

from typing import Any

import numpy as np

from rnnlab.data.arrays import Sequences
from rnnlab.data.labelled import ClassData
from rnnlab.utils.errors import UserError


class DigitsData(ClassData):
    """The 1,797 handwritten digits of 8x8 pixels that scikit-learn carries (Alpaydin & Kaynak 1998, CC BY 4.0).

    A digit is 64 steps of one pixel each, row by row from the top, 0 to 1. The label is the digit. Whoever always says
    the same is right for one in ten.

    **Arguments:** those of `ClassData` but `standardise`.

    **Raises:** `UserError` if the package is not installed.
    """

    def __init__(self, **split: Any):
        super().__init__(**split)

    def read(self) -> Sequences:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError(
                'data=digits needs scikit-learn: pip install "rnnlab[data]", in a clone -e ".[data]".'
            ) from error
        x, y = load_digits(return_X_y=True)
        lengths = np.full(len(x), x.shape[1])
        return Sequences(x.reshape(-1, 1) / 16, lengths, y, [str(digit) for digit in range(10)], range(len(x)))
