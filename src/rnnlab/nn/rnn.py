"""The network of all tasks: a recurrent cell with a linear head."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnnlab.nn.cells import make_cell
from rnnlab.nn.stack import Stack, call_cell, inside

Readout = Literal["last", "mean", "all"]
MAX_STEP_BATCH = 16  # sequences up to which `SimpleRNN.step` is faster by the kernels of a single step


class SimpleRNN(nn.Module):
    """A recurrent cell with a linear head on its last hidden state, on the mean of all, or on each.

        >>> net = SimpleRNN({"_target_": "torch.nn.RNN", "hidden_size": 8}, input_size=5, output_size=2)
        >>> out, state = net(torch.randn(3, 7, 5))
        >>> out.shape, state.shape
        (torch.Size([3, 2]), torch.Size([1, 3, 8]))

    **Arguments:**

    - `cell`: config of the cell, see `make_cell`.
    - `input_size`: features of a step, or the number of tokens.
    - `output_size`: size of each prediction.
    - `readout`: `"last"` and `"mean"` predict once for a sequence, `"all"` at every step.
    - `embedding`: width of the token embedding; `None` encodes tokens as one-hot vectors.
    - `tied`: share one weight between embedding and head (Press & Wolf 2017); needs an embedding of the cell's width.
    - `dropout`: of the head's input, with one mask for all steps (Gal & Ghahramani 2016).
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
        if tied:
            self.embed.weight = self.head.weight  # type: ignore[union-attr]  # with the initialisation of the head

    def forward(self, x: Tensor, state: Any = None, lengths: Sequence[int] | None = None) -> tuple[Tensor, Any]:
        """Predict from sequences: (batch, time, input_size) features, or (batch, time) integer tokens.

        **Arguments:**

        - `state`: the state that an earlier call returned; zeros by default.
        - `lengths`: (batch,) of the sequences, if they are padded at their end; padding changes no prediction.

        **Returns:** predictions, (batch, output_size), for `"all"` (batch, time, output_size), and the new state as the
        cell returns it, `None` with `lengths`.
        """
        out, state = self._run(self._encode(x), state, lengths)
        if self.dropout and self.training:
            out = out * F.dropout(torch.ones_like(out[:, :1]), self.dropout)
        return self.head(self._read_out(out, lengths)), state

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Predict from a single step, (batch, input_size) or (batch,), with the same result as `forward`.

        For torch's own cells and few sequences it calls the kernel of a single step: `torch.nn.LSTM` prepares its
        weights in every call on a CPU, which takes longer than the step.
        """
        cell = self.cell
        has_kernel = type(cell) in (nn.RNN, nn.LSTM, nn.GRU) and not cell.bidirectional and not cell.proj_size
        if len(x) > MAX_STEP_BATCH or not has_kernel:
            out, state = self(x[:, None], state)
            return (out[:, -1] if self.readout == "all" else out), state
        kernel = getattr(torch, f"{cell.mode.lower()}_cell")  # lstm_cell, gru_cell, rnn_tanh_cell or rnn_relu_cell
        is_lstm = isinstance(state, tuple)
        out, new_states = self._encode(x), []
        for layer_state, weights in zip(zip(*state, strict=True) if is_lstm else state, cell.all_weights, strict=True):
            new_states.append(kernel(out, layer_state, *weights))
            out = new_states[-1][0] if is_lstm else new_states[-1]
        new = tuple(map(torch.stack, zip(*new_states, strict=True))) if is_lstm else torch.stack(new_states)
        return self.head(out), new

    def _encode(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            return x.to(self.head.weight.dtype)
        return F.one_hot(x, self.input_size).to(self.head.weight.dtype) if self.embed is None else self.embed(x)

    def _run(self, x: Tensor, state: Any, lengths: Sequence[int] | None) -> tuple[Tensor, Any]:
        if lengths is None or not self.bidirectional:  # padding comes after all that is read out
            out, state = call_cell(self.cell, x, state)
            return out, state if lengths is None else None
        if isinstance(self.cell, Stack):
            return self.cell(x, None, torch.as_tensor(lengths))[0], None
        packed = pack_padded_sequence(x, torch.as_tensor(lengths), batch_first=True, enforce_sorted=False)
        packed, _ = call_cell(self.cell, packed)
        return pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0], None

    def _read_out(self, out: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """What the head reads of all hidden states."""
        if self.readout == "all":
            return out
        if self.readout == "mean":
            if lengths is None:
                return out.mean(1)
            ends = torch.as_tensor(lengths)
            return (out * inside(ends, out)[..., None]).sum(1) / ends.to(out.device)[:, None]
        last = out[:, -1] if lengths is None else out[torch.arange(len(out)), torch.as_tensor(lengths) - 1]
        if not self.bidirectional:
            return last
        width = out.shape[-1] // 2  # the backward direction ends at the first step
        return torch.cat((last[:, :width], out[:, 0, width:]), dim=-1)


def map_state(state: Any, function: Callable[[Tensor], Any]) -> Any:
    """Apply a function to every tensor of a state, a tensor or nested tuples of tensors."""
    if isinstance(state, Tensor):
        return function(state)
    return tuple(map_state(part, function) for part in state) if isinstance(state, tuple | list) else state
