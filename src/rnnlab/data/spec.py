"""What a dataset says of itself, so that sizes are written in one place only."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, FiniteFloat
from pydantic.dataclasses import dataclass

Kind = Literal["tokens", "labels", "values", "series"]
IGNORED = -100  # a target that does not count: `ignore_index` of torch's cross entropy
Size = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Scale = tuple[tuple[FiniteFloat, ...], ...]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SequenceSpec:
    """Everything a task needs to know about its data; a checkpoint holds it as a plain dict.

    `kind` tells the shapes of a batch:

    - `tokens`: the next token at every step; x and y are (batch, time) integers.
    - `labels`: a class for each sequence or step; x is (batch, time, features) or (batch, time) integers, y is
      (batch,) or (batch, time) integers, `IGNORED` where there is no target.
    - `values`: x is (batch, time, features), y is (batch, values).
    - `series`: the future of a series; x is (batch, time, features), the targets first, y is (batch, horizon, targets).

    **Raises:** `ValueError` for values of other types or out of range.
    """

    kind: Kind
    input_size: Size  # features of a step; of integers, how many there are
    output_size: Size  # classes or values to predict
    seq_len: Size  # steps of a sequence
    vocab: tuple[str, ...] = ()  # of tokens, the character of each index; empty if they are bytes
    classes: tuple[str, ...] = ()  # of labels, their names; empty if they are numbers
    every_step: bool = False  # whether each step has a label
    test_lengths: Annotated[tuple[Size, ...], Field(max_length=100)] = ()  # steps of further test sets
    horizon: Size = 0  # steps to forecast
    season: Size = 1  # period of a series, in steps
    targets: tuple[str, ...] = ()  # names of the columns to forecast
    covariates: tuple[str, ...] = ()  # names of the other columns
    scale: Scale = ()  # (mean, standard deviation) of each column in the training set
    log_scale: Scale = ()  # the same of each target's logarithm; empty for a target that is not always positive
    grows: tuple[bool, ...] = ()  # whether the variation of each target grows with its level
    num_windows: Size = 0  # complete windows in the training set
    freq: str | None = None  # pandas' name of the time step

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values, which `SequenceSpec(**fields)` takes."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
