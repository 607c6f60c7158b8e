"""The classic tasks that ask what a recurrent network can remember."""

from typing import Any

import torch
from torch import Tensor

from rnnlab.data.spec import IGNORED, SequenceSpec
from rnnlab.data.synthetic import EndlessData
from rnnlab.utils.errors import require


def below(bound: int, numbers: Tensor) -> Tensor:
    """Integers from 0 to below `bound`, out of numbers in [0, 1)."""
    return (numbers * bound).long()


class AddingData(EndlessData):
    """The sum of the two values that are marked (Hochreiter & Schmidhuber 1997, experiment 4, as in Le et al. 2015).

    x is (batch, seq_len, 2): values uniform in [0, 1), and beside them a 1 at one step of the first half and at one of
    the second, else 0. y is (batch, 1), the sum of the values at these steps.

    Without memory: always 1, a mean squared error of 1/6 = 0.167.
    """

    kinds = ("values",)
    least = 2

    def __init__(self, seq_len: int = 100, **sizes: Any):
        super().__init__(seq_len, **sizes)

    def describe(self) -> SequenceSpec:
        return SequenceSpec("values", 2, 1, self.seq_len)

    def numbers(self, seq_len: int) -> int:
        return seq_len + 2

    def draw(self, numbers: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        values, half = numbers[:, :seq_len], seq_len // 2
        first = below(half, numbers[:, seq_len])
        second = half + below(seq_len - half, numbers[:, seq_len + 1])
        places = torch.stack((first, second), 1)
        marks = torch.zeros_like(values).scatter_(1, places, 1.0)
        return torch.stack((values, marks), -1), values.gather(1, places).sum(1, keepdim=True)


class LatchData(EndlessData):
    """The first symbol, to be told at the end (Bengio et al. 1994's latch with more than two symbols).

    x is (batch, seq_len) integers: first one of `symbols`, then distractors, which are one of `symbols` others. y is
    (batch,), the first.

    Without memory: an accuracy of 1 / `symbols`.
    """

    kinds = ("labels",)
    least = 2

    def __init__(self, seq_len: int = 100, symbols: int = 8, **sizes: Any):
        super().__init__(seq_len, **sizes)
        self.symbols = symbols

    def describe(self) -> SequenceSpec:
        return SequenceSpec("labels", 2 * self.symbols, self.symbols, self.seq_len)

    def numbers(self, seq_len: int) -> int:
        return seq_len

    def draw(self, numbers: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        x = below(self.symbols, numbers)
        y = x[:, 0].clone()
        x[:, 1:] += self.symbols
        return x, y


class TemporalOrderData(EndlessData):
    """Which of X and Y came first, and which second (Hochreiter & Schmidhuber 1997, experiment 6a).

    x is (batch, seq_len) integers: a start sign, then one of four distractors at each step but two, at which there is X
    or Y, and an end sign. Of T steps, the first of the two is between T/10 and T/5, the second between T/2 and 6T/10.
    y is (batch,): XX, XY, YX, YY. There T is between 100 and 110, here all sequences have `seq_len` steps.

    Without memory: an accuracy of 1/4; with a memory of only the second, 1/2.
    """

    kinds = ("labels",)
    least = 10
    SIGNS = "EBabcdXY"

    def __init__(self, seq_len: int = 100, **sizes: Any):
        super().__init__(seq_len, **sizes)

    def describe(self) -> SequenceSpec:
        return SequenceSpec("labels", len(self.SIGNS), 4, self.seq_len, classes=("XX", "XY", "YX", "YY"))

    def numbers(self, seq_len: int) -> int:
        return seq_len + 4

    def draw(self, numbers: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        x = 2 + below(4, numbers[:, :seq_len])
        x[:, 0], x[:, -1] = 0, 1
        first = seq_len // 10 + below(seq_len // 10 + 1, numbers[:, seq_len])
        second = seq_len // 2 + below(seq_len // 10 + 1, numbers[:, seq_len + 1])
        which = below(2, numbers[:, seq_len + 2 :])
        x.scatter_(1, torch.stack((first, second), 1), 6 + which)
        return x, 2 * which[:, 0] + which[:, 1]


class ParityData(EndlessData):
    """Whether the ones so far are even or odd in number, at every step: the smallest automaton that forgets nothing.

    x is (batch, seq_len) bits, y is (batch, seq_len), their running XOR. A network that has found the rule goes on
    beyond the length that it was trained at, which the further test parts show. A recurrence that is linear in the
    state with factors between 0 and 1 cannot express it (Merrill et al. 2024, Grazzi et al. 2024).

    Without memory: an accuracy of 1/2, and 1 at the first step.
    """

    kinds = ("labels",)
    least = 1

    def __init__(self, seq_len: int = 32, test_lengths: tuple[int, ...] = (64, 128, 256), **sizes: Any):
        super().__init__(seq_len, test_lengths=test_lengths, **sizes)

    def describe(self) -> SequenceSpec:
        return SequenceSpec("labels", 2, 2, self.seq_len, classes=("even", "odd"), every_step=True)

    def numbers(self, seq_len: int) -> int:
        return seq_len

    def draw(self, numbers: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        bits = below(2, numbers)
        return bits, bits.cumsum(1) % 2


class EchoData(EndlessData):
    """What was read `lag` steps ago, at every step: a memory of `lag` symbols that moves on.

    x is (batch, seq_len) integers, one of `symbols` each; y_t = x_{t - lag}, not asked for at the first `lag` steps.

    Without memory: an accuracy of 1 / `symbols`.
    """

    kinds = ("labels",)
    least = 2

    def __init__(self, seq_len: int = 40, lag: int = 10, symbols: int = 8, **sizes: Any):
        super().__init__(seq_len, **sizes)
        require(lag < seq_len, f"data.lag={lag} reaches beyond the sequence: use less than data.seq_len={seq_len}.")
        self.lag = lag
        self.symbols = symbols

    def describe(self) -> SequenceSpec:
        return SequenceSpec("labels", self.symbols, self.symbols, self.seq_len, every_step=True)

    def numbers(self, seq_len: int) -> int:
        return seq_len

    def draw(self, numbers: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        x = below(self.symbols, numbers)
        y = torch.full_like(x, IGNORED)
        y[:, self.lag :] = x[:, : seq_len - self.lag]
        return x, y


class CopyData(EndlessData):
    """Symbols that are to be repeated after a pause (Hochreiter & Schmidhuber 1997's idea, as in Arjovsky et al. 2016).

    x is (batch, seq_len) integers: first `length` symbols, each one of `symbols`, then blanks, of which the one before
    the last `length` is a sign to begin. y is (batch, seq_len), the symbols in their order at the last `length` steps,
    not asked for before.

    Without memory: an accuracy of 1 / `symbols`.
    """

    kinds = ("labels",)
    least = 3

    def __init__(self, seq_len: int = 30, length: int = 5, symbols: int = 8, **sizes: Any):
        super().__init__(seq_len, **sizes)
        require(
            2 * length < seq_len, f"data.length={length} symbols, a sign and their recall need a longer data.seq_len."
        )
        self.length = length
        self.symbols = symbols

    def describe(self) -> SequenceSpec:
        return SequenceSpec("labels", self.symbols + 2, self.symbols, self.seq_len, every_step=True)

    def numbers(self, seq_len: int) -> int:
        return self.length

    def draw(self, numbers: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        symbols = below(self.symbols, numbers[:, : self.length])
        x = torch.full((len(numbers), seq_len), self.symbols)
        y = torch.full_like(x, IGNORED)
        x.scatter_(1, self.places(numbers[:, self.length :]), symbols)
        x[:, -self.length - 1] = self.symbols + 1
        y[:, -self.length :] = symbols
        return x, y

    def places(self, numbers: Tensor) -> Tensor:
        """Where the symbols stand, (batch, length)."""
        return torch.arange(self.length).expand(len(numbers), -1)


class SelectiveCopyData(CopyData):
    """`CopyData` with the symbols at random places among the blanks, so that a clock is not enough (Gu & Dao 2023).

    x and y are those of `CopyData`, but the symbols stand anywhere before the sign to begin, in their order.

    Without memory: an accuracy of 1 / `symbols`.
    """

    def __init__(self, seq_len: int = 40, **task: Any):
        super().__init__(seq_len, **task)

    def numbers(self, seq_len: int) -> int:
        return seq_len - 1

    def places(self, numbers: Tensor) -> Tensor:
        return numbers.argsort(1)[:, : self.length].sort(1).values
