"""Handwritten digits, read pixel by pixel."""

import numpy as np

from rnnlab.data.arrays import LabelledSequences
from rnnlab.data.labelled import ClassificationData
from rnnlab.utils.errors import UserError


class DigitsData(ClassificationData):
    """The 1,797 handwritten digits of scikit-learn, 8x8 pixels each (Alpaydin & Kaynak 1998, CC BY 4.0).

    A sequence is the 64 pixels of a digit, row by row from the top, from 0 to 1. Its label is the digit. Without memory
    the accuracy is 0.1.
    """

    def read(self) -> LabelledSequences:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError(
                'data=digits needs scikit-learn: pip install "rnnlab[data]", in a clone -e ".[data]".'
            ) from error
        x, y = load_digits(return_X_y=True)
        lengths = np.full(len(x), x.shape[1])
        return LabelledSequences(x.reshape(-1, 1) / 16, lengths, y, [str(digit) for digit in range(10)], range(len(x)))
