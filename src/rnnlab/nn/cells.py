"""Recurrences: those that torch.nn lacks, and what all have in common."""

import inspect
from typing import Any

from hydra.utils import get_class, instantiate

from rnnlab.nn.init import initialise
from rnnlab.nn.stack import Stack


def make_cell(config: dict[str, Any], input_size: int) -> Any:
    """Build a cell from its config.

    `init`, `forget_bias` and `chrono` are taken out for `initialise`. With `residual`, or if the class does not know
    what `num_layers`, `dropout` and `bidirectional` mean, these are taken out for a `Stack` of cells of one layer. The
    class that `_target_` names gets the rest, `input_size` and `batch_first=True`.

    **Raises:** `UserError` if the weights cannot begin as they should.
    """
    cell = dict(config)
    start = {name: cell.pop(name) for name in ("init", "forget_bias", "chrono") if name in cell}
    residual = cell.pop("residual", False)
    known = inspect.signature(get_class(cell["_target_"])).parameters.values()
    has_layers = any(given.name == "num_layers" or given.kind == given.VAR_KEYWORD for given in known)
    layers = {name: cell[name] for name in ("num_layers", "dropout", "bidirectional") if name in cell}
    if residual or (layers and not has_layers):
        one = {name: value for name, value in cell.items() if name not in layers}
        module: Any = Stack(one, input_size, residual=residual, **layers)
    else:
        module = instantiate(cell, input_size=input_size, batch_first=True, _convert_="all")
    initialise(module, **start)
    return module
