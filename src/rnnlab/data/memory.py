"""Standard tasks that test the memory of a recurrent network; the yaml of each says what is reached without memory.

Unless a class says otherwise, x is (batch, seq_len) integers and y is the label of a sequence, (batch,), or with
`every_step` of each step, (batch, seq_len).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rnnlab.data.spec import IGNORED
from rnnlab.data.synthetic import SyntheticData


def randint(high: int, random: Tensor) -> Tensor:
    """Integers in [0, high), from random numbers in [0, 1)."""
    return (random * high).long()


class AddingData(SyntheticData):
    """The sum of two marked values (Hochreiter & Schmidhuber 1997, experiment 4, as in Le et al. 2015).

    x is (batch, seq_len, 2): values uniform in [0, 1), and a marker, 1 at one step of each half. y is (batch, 1).
    """

    kinds = ("values",)
    input_size, output_size = 2, 1

    def sample(self, uniform: Callable[[int], Tensor], seq_len: int) -> tuple[Tensor, Tensor]:
        random, half = uniform(seq_len + 2), seq_len // 2
        values = random[:, :seq_len]
        first = randint(half, random[:, seq_len])
        second = half + randint(seq_len - half, random[:, seq_len + 1])
        marked = torch.stack((first, second), 1)
        markers = torch.zeros_like(values).scatter_(1, marked, 1.0)
        return torch.stack((values, markers), -1), values.gather(1, marked).sum(1, keepdim=True)


class LatchData(SyntheticData):
    """The first symbol, before distractors (the latch of Bengio et al. 1994 with more symbols)."""

    def __init__(self, seq_len: int, symbols: int = 8, **settings: Any):
        super().__init__(seq_len, **settings)
        self.input_size, self.output_size = 2 * symbols, symbols

    def sample(self, uniform: Callable[[int], Tensor], seq_len: int) -> tuple[Tensor, Tensor]:
        x = randint(self.output_size, uniform(seq_len))
        y = x[:, 0].clone()
        x[:, 1:] += self.output_size
        return x, y


class TemporalOrderData(SyntheticData):
    """The order of two symbols, each X or Y, among distractors (Hochreiter & Schmidhuber 1997, experiment 6a).

    x are indices into EBabcdXY: a start symbol, distractors a to d, an end symbol. The first X or Y is between steps
    T/10 and T/5, the second between T/2 and 6T/10. All sequences have `seq_len` steps, not 100 to 110 as in the paper.
    """

    min_seq_len = 10
    input_size, output_size = len("EBabcdXY"), 4
    classes = ("XX", "XY", "YX", "YY")

    def sample(self, uniform: Callable[[int], Tensor], seq_len: int) -> tuple[Tensor, Tensor]:
        random, tenth = uniform(seq_len + 4), seq_len // 10 + 1
        x = 2 + randint(4, random[:, :seq_len])
        x[:, 0], x[:, -1] = 0, 1
        first = seq_len // 10 + randint(tenth, random[:, seq_len])
        second = seq_len // 2 + randint(tenth, random[:, seq_len + 1])
        which = randint(2, random[:, seq_len + 2 :])  # (batch, 2): X or Y
        x.scatter_(1, torch.stack((first, second), 1), 6 + which)
        return x, 2 * which[:, 0] + which[:, 1]


class ParityData(SyntheticData):
    """Whether the number of ones so far is even or odd, at every step: the smallest automaton that forgets nothing.

    A network that has found the rule is also right for longer sequences, which the further test sets show. A linear
    recurrence with factors between 0 and 1 cannot express it (Merrill et al. 2024, Grazzi et al. 2024).
    """

    min_seq_len = 1
    input_size = output_size = 2
    classes = ("even", "odd")
    every_step = True

    def sample(self, uniform: Callable[[int], Tensor], seq_len: int) -> tuple[Tensor, Tensor]:
        bits = randint(2, uniform(seq_len))
        return bits, bits.cumsum(1) % 2


class EchoData(SyntheticData):
    """The symbol `lag` steps ago, at every step: y_t = x_{t - lag}."""

    every_step = True

    def __init__(self, seq_len: int, lag: int = 10, symbols: int = 8, **settings: Any):
        self.min_seq_len = lag + 1
        super().__init__(seq_len, **settings)
        self.lag = lag
        self.input_size = self.output_size = symbols

    def sample(self, uniform: Callable[[int], Tensor], seq_len: int) -> tuple[Tensor, Tensor]:
        x = randint(self.input_size, uniform(seq_len))
        y = torch.full_like(x, IGNORED)
        y[:, self.lag :] = x[:, : -self.lag]
        return x, y


class CopyData(SyntheticData):
    """Symbols repeated after a delay (after Hochreiter & Schmidhuber 1997, as in Arjovsky et al. 2016).

    x are `length` of `symbols`, then blanks, with a start signal before the last `length` steps, at which y are the
    symbols in order.
    """

    every_step = True

    def __init__(self, seq_len: int, length: int = 5, symbols: int = 8, **settings: Any):
        self.min_seq_len = 2 * length + 1
        super().__init__(seq_len, **settings)
        self.length = length
        self.input_size, self.output_size = symbols + 2, symbols

    def sample(self, uniform: Callable[[int], Tensor], seq_len: int) -> tuple[Tensor, Tensor]:
        positions, random = self.place(uniform, seq_len)
        symbols = randint(self.output_size, random)
        x = torch.full((len(symbols), seq_len), self.output_size)
        y = torch.full_like(x, IGNORED)
        x.scatter_(1, positions, symbols)
        x[:, -self.length - 1] = self.output_size + 1
        y[:, -self.length :] = symbols
        return x, y

    def place(self, uniform: Callable[[int], Tensor], seq_len: int) -> tuple[Tensor, Tensor]:
        """The steps of the symbols and random numbers to choose them, (batch, length) each."""
        random = uniform(self.length)
        return torch.arange(self.length).expand_as(random), random


class SelectiveCopyData(CopyData):
    """`CopyData` with the symbols at random steps before the start signal (Gu & Dao 2023): counting does not help."""

    def place(self, uniform: Callable[[int], Tensor], seq_len: int) -> tuple[Tensor, Tensor]:
        random, places = uniform(seq_len - 1).tensor_split([self.length], 1)
        return places.argsort(1)[:, : self.length].sort(1).values, random
