"""What a dataset says of itself, so that sizes are written in one place only."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from rnnlab.errors import require

Kind = Literal["tokens", "labels", "values"]
IGNORED = -100  # a target that does not count: what torch's cross entropy leaves out


@dataclass(frozen=True)
class SequenceSpec:
    """Everything a task needs to know of its data; a checkpoint carries it as a plain dict.

    **Arguments:**

    - `kind`: what the targets are. `tokens`: the next sign at every step, x and y are (batch, time) integers.
      `labels`: one class a sequence, x is (batch, time, features), y is (batch,) integers.
      `values`: x is (batch, time, features), y is (batch, values).
    - `input_size`: features a step; for tokens the size of the vocabulary.
    - `output_size`: classes or values to predict.
    - `seq_len`: steps of a sequence.
    - `vocab`: for tokens, the sign of every index; empty if tokens are bytes.
    - `scale`: for standardised values, (mean, standard deviation) of the training part on the original scale.
    """

    kind: Kind
    input_size: int
    output_size: int
    seq_len: int
    vocab: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("vocab", "scale"):  # a config gives lists
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(value))
        if self.kind == "tokens" and self.vocab:
            signs = {sign for sign in self.vocab if isinstance(sign, str) and len(sign) == 1}
            require(
                len(signs) == len(self.vocab) == self.input_size,
                f"A vocabulary of {self.input_size} signs has to be as many different characters, not {len(signs)}.",
            )

    def as_dict(self) -> dict[str, Any]:
        """The fields, plain: what `SequenceSpec(**fields)` takes."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
