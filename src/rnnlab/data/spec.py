"""What a dataset says of itself, so that sizes are written in one place only."""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal, get_args

from rnnlab.utils.errors import require

Kind = Literal["tokens", "labels", "values", "series"]
MOST_TESTS = 100  # test parts of other lengths
IGNORED = -100  # a target that does not count: what torch's cross entropy leaves out


@dataclass(frozen=True)
class SequenceSpec:
    """Everything a task needs to know of its data; a checkpoint carries it as a plain dict.

    **Arguments:**

    - `kind`: what the targets are. `tokens`: the next sign at every step, x and y are (batch, time) integers.
      `labels`: a class for each sequence or step, x is (batch, time, features) or (batch, time) integer symbols, y is
      (batch,) or (batch, time) integers, `IGNORED` where none is asked for.
      `values`: x is (batch, time, features), y is (batch, values).
      `series`: x is (batch, time, features), of which the first are the targets so far, and y their next steps,
      (batch, horizon, targets).
    - `input_size`: features a step; for tokens and symbols how many there are.
    - `output_size`: classes or values to predict.
    - `seq_len`: steps of a sequence.
    - `vocab`: for tokens, the sign of every index; empty if tokens are bytes.
    - `classes`: for labels, their names; empty if they are numbers.
    - `every_step`: for labels, whether each step has one.
    - `test_lengths`: steps of the sequences of further test parts, each a split `test_STEPS`.
    - `horizon`, `season`: for series, the steps to forecast, and those after which a series repeats itself.
    - `targets`, `covariates`: for series, the names of what is forecast, and of what else is known; for labels out of
      tables, `covariates` names the features.
    - `scale`: for series, and for labels out of files, (mean, standard deviation) of each column in the training part.
    - `log_scale`: for series, the same of each target's logarithm; empty for a target that is not always positive.
    - `grows`: for series, whether a target's swings grow with its level.
    - `num_windows`: for series, how many whole windows the training part has.
    - `freq`: for series, the step of the time column, as pandas writes it.
    """

    kind: Kind
    input_size: int
    output_size: int
    seq_len: int
    vocab: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    every_step: bool = False
    test_lengths: tuple[int, ...] = ()
    horizon: int = 0
    season: int = 1
    targets: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()
    scale: tuple[tuple[float, ...], ...] = ()
    log_scale: tuple[tuple[float, ...], ...] = ()
    grows: tuple[bool, ...] = ()
    num_windows: int = 0
    freq: str | None = None

    def __post_init__(self) -> None:
        for name in ("classes", "test_lengths", "vocab", "targets", "covariates", "grows"):  # a checkpoint gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("scale", "log_scale"):
            object.__setattr__(self, name, tuple(map(tuple, getattr(self, name))))
        sizes = (self.input_size, self.output_size, self.seq_len, self.horizon, self.season, self.num_windows)
        names = (*self.classes, *self.targets, *self.covariates)
        numbers = [number for row in (*self.scale, *self.log_scale) for number in row]
        require(
            self.kind in get_args(Kind)
            and all(type(size) is int and 0 <= size < 2**63 for size in (*sizes, *self.test_lengths))
            and len(self.test_lengths) <= MOST_TESTS
            and all(isinstance(name, str) for name in names)
            and all(type(number) in (int, float) and isfinite(number) for number in numbers),
            "what it says of its data cannot be: kinds, sizes, names or scales.",
        )
        if self.kind == "tokens" and self.vocab:
            signs = {sign for sign in self.vocab if isinstance(sign, str) and len(sign) == 1}
            require(
                len(signs) == len(self.vocab) == self.input_size,
                f"A vocabulary of {self.input_size} signs has to be as many different characters, not {len(signs)}.",
            )

    def as_dict(self) -> dict[str, Any]:
        """The fields, plain: what `SequenceSpec(**fields)` takes."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
