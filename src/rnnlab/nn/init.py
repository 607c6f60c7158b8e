"""How a cell begins: what its weights are before the first step."""

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
    """Set the weights of every recurrent layer within a module.

    **Arguments:**

    - `init`: of the recurrent weights, gate by gate. `default` leaves all as torch draws it, uniform within 1 /
      sqrt(hidden_size). `identity`, with ReLU, keeps a state as it is (Le et al. 2015), `orthogonal` keeps its length
      (Saxe et al. 2014). Both draw the input weights after Glorot & Bengio (2010) and set the biases to 0.
    - `forget_bias`: of the gate that keeps the state; 1 keeps 73 % of it at each step, before anything is learnt
      (Jozefowicz et al. 2015).
    - `chrono`: steps that the longest memory is to last, T. The bias of that gate becomes log u with u uniform in
      [1, T - 1] for each unit, that of the input gate its negative, so that units remember for u steps (Tallec &
      Ollivier 2018).

    **Raises:** `UserError` if a layer has no such weights, gates or biases.
    """
    require(forget_bias is None or chrono is None, "cell.forget_bias and cell.chrono set the same: leave one at null.")
    layers: list[nn.Module] = [part for part in module.modules() if isinstance(part, nn.RNNBase | LinearRNN)] or [
        module
    ]
    for layer in layers:
        if init != "default":
            _weights(layer, init)
        if forget_bias is not None:
            _biases(layer, "forget_bias", lambda bias: bias.fill_(forget_bias))
        if chrono is not None:
            _biases(layer, "chrono", lambda bias: bias.uniform_(1, max(1, chrono - 1)).log_())


@torch.no_grad()
def _weights(layer: nn.Module, init: Init) -> None:
    if not isinstance(layer, nn.RNNBase):
        raise UserError(
            f"cell.init={init} is about recurrent weights, of which {type(layer).__name__} has none: use default."
        )
    gates = len(GATES.get(layer.mode, ("",)))
    for name, parameter in layer.named_parameters():
        if name.startswith("bias"):
            parameter.zero_()
        for block in parameter.chunk(gates) if name.startswith("weight_") else ():
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(block)
            elif name.startswith("weight_hh"):
                {"identity": nn.init.eye_, "orthogonal": nn.init.orthogonal_}[init](block)


@torch.no_grad()
def _biases(layer: nn.Module, key: str, draw: Callable[[Tensor], Tensor]) -> None:
    """Fill the biases of the gate that keeps the state by `draw`; for chrono, of the input gate with the opposite."""
    gates = layer.gates if isinstance(layer, LinearRNN) else GATES.get(getattr(layer, "mode", ""), ())
    kind = type(layer).__name__
    require(bool(gates), f"cell.{key} is about gates, of which {kind} has none: use cell=lstm, gru, mingru or minlstm.")
    biases = {name: parameter for name, parameter in layer.named_parameters() if "bias" in name}
    require(bool(biases), f"cell.{key} sets a bias, and cell.bias=false leaves {kind} none.")
    for name, bias in biases.items():
        of_gate = dict(zip(gates, bias.chunk(len(gates)), strict=True))
        keeps = of_gate["forget"] if "forget" in gates else of_gate["update"]
        value = draw(torch.empty_like(keeps))
        if name.startswith("bias_hh"):  # torch adds two biases
            value.zero_()
        keeps.copy_(-value if isinstance(layer, MinGRU) else value)  # its update gate lets the new in
        if "input" in gates and (key == "chrono" or isinstance(layer, MinLSTM)):  # where the two add up to 1
            of_gate["input"].copy_(-value)
