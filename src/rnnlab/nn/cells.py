"""Builds recurrent cells from their configs."""

import inspect
from typing import Any

from hydra.utils import get_class, instantiate

from rnnlab.nn.init import initialise
from rnnlab.nn.stack import Stack


def make_cell(config: dict[str, Any], input_size: int) -> Any:
    """Build a cell with the interface of `torch.nn.RNN` and `batch_first=True`.

    **Arguments:**

    - `config`: a plain dict, see `conf/cell`. `init`, `forget_bias` and `chrono` are arguments of `initialise`. With
      `residual`, or if the class takes no `num_layers`, a `Stack` of cells of one layer takes `num_layers`, `dropout`
      and `bidirectional`. All other keys are arguments of the class that `_target_` names.
    - `input_size`: features of a step.
    """
    cell = dict(config)
    init = {name: cell.pop(name) for name in ("init", "forget_bias", "chrono") if name in cell}
    residual = cell.pop("residual", False)
    layers = {name: cell[name] for name in ("num_layers", "dropout", "bidirectional") if name in cell}
    parameters = inspect.signature(get_class(cell["_target_"])).parameters.values()
    takes_layers = any(part.name == "num_layers" or part.kind == part.VAR_KEYWORD for part in parameters)
    if residual or (layers and not takes_layers):
        layer = {name: value for name, value in cell.items() if name not in layers}
        module: Any = Stack(layer, input_size, residual=residual, **layers)
    else:
        module = instantiate(cell, input_size=input_size, batch_first=True, _convert_="all")
    initialise(module, **init)
    return module
