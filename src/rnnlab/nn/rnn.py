"""The one network: a recurrent cell and a linear read-out."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnnlab.nn.autocast import call
from rnnlab.nn.cells import make_cell
from rnnlab.utils.errors import require

Readout = Literal["last", "mean", "all"]

FEW = 16  # sequences, up to which single steps are faster by the kernels of a step: 4 x for one, even at this number


def require_tied(tied: bool, embedding: int | None, width: int) -> None:
    """Raise `UserError` if `tied` weights are not those of an embedding as wide as the cell."""
    require(
        not tied or embedding == width,
        f"model.tied=true shares weights between embedding and read-out: set model.embedding={width}, the cell's "
        f"width; it is {'null' if embedding is None else embedding}.",
    )


class SimpleRNN(nn.Module):
    """Runs a cell over a sequence and reads its hidden states out: at the last step, their mean, or at all steps.

        >>> net = SimpleRNN({"_target_": "torch.nn.RNN", "hidden_size": 8}, input_size=5, output_size=2)
        >>> out, state = net(torch.randn(3, 7, 5))
        >>> out.shape, state.shape
        (torch.Size([3, 2]), torch.Size([1, 3, 8]))

    **Arguments:**

    - `cell`: the config of anything that speaks `torch.nn.RNN`'s interface with `batch_first=True`, see `make_cell`.
    - `input_size`: features a step, or the number of tokens.
    - `output_size`: size of each prediction.
    - `readout`: `"last"` predicts once, after the last step, `"mean"` once, from the mean of all hidden states, and
      `"all"` at every step.
    - `embedding`: size of a learned vector for each token; `None` reads tokens as one-hot vectors.
    - `tied`: let the read-out share the embedding's weights (Press & Wolf 2017), which then is as wide as the cell.
    - `dropout`: share of the hidden units that a read-out in training does not see, the same at every step of a
      sequence (Gal & Ghahramani 2016), which costs less than a new choice at each step.

    **Raises:** `UserError` for `tied` without an embedding of the cell's width.
    """

    def __init__(
        self,
        cell: dict[str, Any],
        input_size: int,
        output_size: int,
        readout: Readout = "last",
        embedding: int | None = None,
        tied: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.input_size = input_size
        self.readout = readout
        self.dropout = dropout
        self.embed = nn.Embedding(input_size, embedding) if embedding else None
        self.cell = make_cell(cell, embedding or input_size)
        self.bidirectional = getattr(self.cell, "bidirectional", False)
        width = getattr(self.cell, "proj_size", 0) or self.cell.hidden_size
        self.head = nn.Linear(2 * width if self.bidirectional else width, output_size)
        require_tied(tied, embedding, self.head.in_features)
        if tied:
            self.embed.weight = self.head.weight  # type: ignore[union-attr]  # and is initialised like it

    def forward(self, x: Tensor, state: Any = None, lengths: Sequence[int] | None = None) -> tuple[Tensor, Any]:
        """Predict from `x`, starting at `state`.

        **Arguments:**

        - `x`: (batch, time, input_size) features, or (batch, time) integer tokens.
        - `state`: what an earlier call returned, to go on from there; `None` starts from zeros on the device of `x`.
        - `lengths`: (batch,) steps of each sequence, if some are padded at their end; what is behind changes nothing.

        **Returns:**

        Predictions, (batch, output_size), for `"all"` (batch, time, output_size), and the new state:
        (num_layers, batch, hidden_size) for RNN and GRU, a pair of these for LSTM, a tuple of the cells' states for a
        `Stack`; `None` with `lengths`.
        """
        out, state = self._run(self._encode(x), state, lengths)
        if self.dropout and self.training:
            out = out * F.dropout(torch.ones_like(out[:, :1]), self.dropout)
        if self.readout == "last":
            out = self._last(out, lengths)
        elif self.readout == "mean":
            out = self._mean(out, lengths)
        return self.head(out), state

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Predict from a single step, with the same numbers as `forward` has.

        On a CPU `torch.nn.LSTM` prepares its weights anew in each call, which for a step of one sequence takes several
        times as long as the step itself. For torch's own cells and few sequences this calls the kernel of a step.

        **Arguments:**

        - `x`: (batch, input_size) features, or (batch,) integer tokens.
        - `state`: see `forward`; not `None`.

        **Returns:** predictions, (batch, output_size), and the new state.
        """
        cell = self.cell
        if len(x) > FEW or type(cell) not in (nn.RNN, nn.LSTM, nn.GRU) or cell.bidirectional or cell.proj_size:
            out, state = self(x[:, None], state)
            return (out[:, -1] if self.readout == "all" else out), state
        kernel = getattr(torch, f"{cell.mode.lower()}_cell")  # lstm_cell, gru_cell, rnn_tanh_cell or rnn_relu_cell
        pair = isinstance(state, tuple)
        before = zip(*state, strict=True) if pair else state
        out, after = self._encode(x), []
        for layer, weights in zip(before, cell.all_weights, strict=True):
            after.append(kernel(out, layer, *weights))
            out = after[-1][0] if pair else after[-1]
        return self.head(out), tuple(map(torch.stack, zip(*after, strict=True))) if pair else torch.stack(after)

    def _encode(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            return x.to(self.head.weight.dtype)
        return F.one_hot(x, self.input_size).to(self.head.weight.dtype) if self.embed is None else self.embed(x)

    def _run(self, x: Tensor, state: Any, lengths: Sequence[int] | None) -> tuple[Tensor, Any]:
        if lengths is None:
            return call(self.cell, x, state)
        if not self.bidirectional:  # what follows a sequence is read after it
            return call(self.cell, x, state)[0], None
        packed = pack_padded_sequence(x, torch.as_tensor(lengths), batch_first=True, enforce_sorted=False)
        packed, _ = call(self.cell, packed)
        return pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0], None

    def _last(self, out: Tensor, lengths: Sequence[int] | None) -> Tensor:
        last = out[:, -1] if lengths is None else out[torch.arange(len(out)), torch.as_tensor(lengths) - 1]
        if not self.bidirectional:
            return last
        # the backward direction has read everything when it arrives at the first step
        width = out.shape[-1] // 2
        return torch.cat((last[:, :width], out[:, 0, width:]), dim=-1)

    def _mean(self, out: Tensor, lengths: Sequence[int] | None) -> Tensor:
        if lengths is None:
            return out.mean(1)
        ends = torch.as_tensor(lengths).to(out.device)[:, None]
        inside = torch.arange(out.shape[1], device=out.device) < ends
        return (out * inside[..., None]).sum(1) / ends


def map_state(state: Any, function: Callable[[Tensor], Any]) -> Any:
    """A state, a tensor or nested tuples of them, with `function` applied to each; anything else stays."""
    if isinstance(state, Tensor):
        return function(state)
    return tuple(map_state(part, function) for part in state) if isinstance(state, tuple | list) else state
