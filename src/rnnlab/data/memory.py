"""Standard tasks that test the memory of a recurrent network; the yaml of each says what is reached without memory."""

from typing import Any

import torch
from torch import Tensor

from rnnlab.data.spec import IGNORED
from rnnlab.data.synthetic import SyntheticData
from rnnlab.utils.errors import require


def randint(high: int, random: Tensor) -> Tensor:
    """Integers in [0, high), from random numbers in [0, 1)."""
    return (random * high).long()


class AddingData(SyntheticData):
    """The sum of two marked values (Hochreiter & Schmidhuber 1997, experiment 4, as in Le et al. 2015).

    x is (batch, seq_len, 2): values uniform in [0, 1), and a marker that is 1 at one step of each half and 0
    elsewhere. y is (batch, 1), the sum of the values at the marked steps.
    """

    kinds = ("values",)
    input_size, output_size = 2, 1

    def num_random(self, seq_len: int) -> int:
        return seq_len + 2

    def sample(self, random: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        values, half = random[:, :seq_len], seq_len // 2
        first = randint(half, random[:, seq_len])
        second = half + randint(seq_len - half, random[:, seq_len + 1])
        marked = torch.stack((first, second), 1)
        markers = torch.zeros_like(values).scatter_(1, marked, 1.0)
        return torch.stack((values, markers), -1), values.gather(1, marked).sum(1, keepdim=True)


class LatchData(SyntheticData):
    """The first symbol, recalled at the end (the latch of Bengio et al. 1994 with more symbols).

    x is (batch, seq_len) integers: one of `symbols`, then distractors, each one of `symbols` others. y is (batch,), the
    first symbol.
    """

    def __init__(self, seq_len: int, symbols: int = 8, **settings: Any):
        super().__init__(seq_len, **settings)
        self.symbols = symbols
        self.input_size, self.output_size = 2 * symbols, symbols

    def sample(self, random: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        x = randint(self.symbols, random)
        y = x[:, 0].clone()
        x[:, 1:] += self.symbols
        return x, y


class TemporalOrderData(SyntheticData):
    """The order of two symbols, each X or Y, among distractors (Hochreiter & Schmidhuber 1997, experiment 6a).

    x is (batch, seq_len) indices into EBabcdXY: a start symbol, distractors a to d, an end symbol. The first X or Y is
    between steps T/10 and T/5, the second between T/2 and 6T/10. y is (batch,): XX, XY, YX, YY. All sequences have
    `seq_len` steps, not between 100 and 110 as in the paper.
    """

    min_seq_len = 10
    input_size, output_size = len("EBabcdXY"), 4
    classes = ("XX", "XY", "YX", "YY")

    def num_random(self, seq_len: int) -> int:
        return seq_len + 4

    def sample(self, random: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        x = 2 + randint(4, random[:, :seq_len])
        x[:, 0], x[:, -1] = 0, 1
        first = seq_len // 10 + randint(seq_len // 10 + 1, random[:, seq_len])
        second = seq_len // 2 + randint(seq_len // 10 + 1, random[:, seq_len + 1])
        which = randint(2, random[:, seq_len + 2 :])  # (batch, 2): X or Y
        x.scatter_(1, torch.stack((first, second), 1), 6 + which)
        return x, 2 * which[:, 0] + which[:, 1]


class ParityData(SyntheticData):
    """Whether the number of ones so far is even or odd, at every step: the smallest automaton that forgets nothing.

    x is (batch, seq_len) bits, y is (batch, seq_len), their running XOR. A network that has found the rule is also
    right for longer sequences, which the further test sets show. A linear recurrence with factors between 0 and 1
    cannot express it (Merrill et al. 2024, Grazzi et al. 2024).
    """

    min_seq_len = 1
    input_size = output_size = 2
    classes = ("even", "odd")
    every_step = True

    def sample(self, random: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        bits = randint(2, random)
        return bits, bits.cumsum(1) % 2


class EchoData(SyntheticData):
    """The symbol `lag` steps ago, at every step.

    x is (batch, seq_len) integers, each one of `symbols`; y_t = x_{t - lag}, without a target at the first `lag` steps.
    """

    every_step = True

    def __init__(self, seq_len: int, lag: int = 10, symbols: int = 8, **settings: Any):
        super().__init__(seq_len, **settings)
        require(lag < seq_len, f"data.lag={lag} reaches beyond the sequence: use less than data.seq_len={seq_len}.")
        self.lag = lag
        self.symbols = self.input_size = self.output_size = symbols

    def sample(self, random: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        x = randint(self.symbols, random)
        y = torch.full_like(x, IGNORED)
        y[:, self.lag :] = x[:, : seq_len - self.lag]
        return x, y


class CopyData(SyntheticData):
    """Symbols repeated after a delay (after Hochreiter & Schmidhuber 1997, as in Arjovsky et al. 2016).

    x is (batch, seq_len) integers: `length` symbols, each one of `symbols`, then blanks, with a start signal before the
    last `length` steps. y is (batch, seq_len), the symbols in order at the last `length` steps, without a target
    before.
    """

    every_step = True

    def __init__(self, seq_len: int, length: int = 5, symbols: int = 8, **settings: Any):
        super().__init__(seq_len, **settings)
        require(
            2 * length < seq_len,
            f"data.length={length} symbols, a start signal and the recall need a longer data.seq_len.",
        )
        self.length = length
        self.symbols = symbols
        self.input_size, self.output_size = symbols + 2, symbols

    def num_random(self, seq_len: int) -> int:
        return self.length

    def sample(self, random: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
        symbols = randint(self.symbols, random[:, : self.length])
        x = torch.full((len(random), seq_len), self.symbols)
        y = torch.full_like(x, IGNORED)
        x.scatter_(1, self.positions(random[:, self.length :]), symbols)
        x[:, -self.length - 1] = self.symbols + 1
        y[:, -self.length :] = symbols
        return x, y

    def positions(self, random: Tensor) -> Tensor:
        """The steps of the symbols, (batch, length)."""
        return torch.arange(self.length).expand(len(random), -1)


class SelectiveCopyData(CopyData):
    """`CopyData` with the symbols at random steps among the blanks, so that counting steps is not enough.

    As in Gu & Dao 2023; the symbols are before the start signal, in order.
    """

    def num_random(self, seq_len: int) -> int:
        return seq_len - 1

    def positions(self, random: Tensor) -> Tensor:
        return random.argsort(1)[:, : self.length].sort(1).values
