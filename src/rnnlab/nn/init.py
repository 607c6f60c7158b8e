"""Weight initialisation of recurrent layers."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from rnnlab.nn.min_rnn import LinearRNN, MinGRU, MinLSTM
from rnnlab.utils.errors import UserError, require

Init = Literal["default", "identity", "orthogonal"]
GATES = {"LSTM": ("input", "forget", "candidate", "output"), "GRU": ("reset", "update", "candidate")}  # torch's order


def initialise(
    module: nn.Module, init: Init = "default", forget_bias: float | None = None, chrono: int | None = None
) -> None:
    """Initialise every recurrent layer within a module.

    **Arguments:**

    - `init`: recurrent weights of each gate. `"identity"` (for ReLU, Le et al. 2015) and `"orthogonal"` (Saxe et al.
      2014) also set the input weights after Glorot & Bengio (2010) and the biases to 0.
    - `forget_bias`: bias of the gate that keeps the state (Jozefowicz et al. 2015).
    - `chrono`: T steps, for a bias of log u with u uniform in [1, T - 1] for each unit, and its negative for the
      input gate (Tallec & Ollivier 2018).

    **Raises:** `UserError` if a layer has no such weights, gates or biases.
    """
    require(forget_bias is None or chrono is None, "cell.forget_bias and cell.chrono set the same: leave one at null.")
    layers: list[nn.Module] = [part for part in module.modules() if isinstance(part, nn.RNNBase | LinearRNN)]
    for layer in layers or [module]:
        if init != "default":
            _init_weights(layer, init)
        if forget_bias is not None:
            _init_biases(layer, "forget_bias", lambda bias: bias.fill_(forget_bias))
        if chrono is not None:
            _init_biases(layer, "chrono", lambda bias: bias.uniform_(1, max(1, chrono - 1)).log_())


@torch.no_grad()
def _init_weights(layer: nn.Module, init: Init) -> None:
    if not isinstance(layer, nn.RNNBase):
        raise UserError(f"cell.init={init} sets recurrent weights, which {type(layer).__name__} lacks: use default.")
    gates = len(GATES.get(layer.mode, ("",)))
    for name, parameter in layer.named_parameters():
        for block in parameter.chunk(gates):
            if name.startswith("bias"):
                block.zero_()
            elif name.startswith("weight_ih"):
                nn.init.xavier_uniform_(block)
            elif name.startswith("weight_hh"):
                {"identity": nn.init.eye_, "orthogonal": nn.init.orthogonal_}[init](block)


@torch.no_grad()
def _init_biases(layer: nn.Module, key: str, fill: Callable[[Tensor], Tensor]) -> None:
    """Fill the biases of the gate that keeps the state; for chrono, those of the input gate with the negative."""
    gates = layer.gates if isinstance(layer, LinearRNN) else GATES.get(getattr(layer, "mode", ""), ())
    kind = type(layer).__name__
    require(bool(gates), f"cell.{key} sets a gate, and {kind} has none: use cell=lstm, gru, mingru or minlstm.")
    biases = [(name, parameter) for name, parameter in layer.named_parameters() if "bias" in name]
    require(bool(biases), f"cell.{key} sets a bias, and with cell.bias=false {kind} has none.")
    for name, bias in biases:
        by_gate = dict(zip(gates, bias.chunk(len(gates)), strict=True))
        keep_gate = by_gate["forget"] if "forget" in gates else by_gate["update"]
        value = fill(torch.empty_like(keep_gate))
        if name.startswith("bias_hh"):  # torch adds it to bias_ih
            value.zero_()
        # MinGRU keeps the state by 1 - update
        keep_gate.copy_(-value if isinstance(layer, MinGRU) else value)
        # MinLSTM keeps it by forget / (forget + input)
        if "input" in gates and (key == "chrono" or isinstance(layer, MinLSTM)):
            by_gate["input"].copy_(-value)
