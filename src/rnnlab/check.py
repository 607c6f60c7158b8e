"""The composed config, checked before anything is read or started."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rnnlab.conf import leaves
from rnnlab.errors import UserError


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _number(low: float, high: float = float("inf")) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value < high


def _is_split(value: Any) -> bool:
    shares = value if isinstance(value, list) and len(value) == 3 else [-1]
    return all(map(_number(0), shares)) and abs(sum(shares) - 1) < 1e-6


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_part(value: Any) -> bool:
    return _number(0, 1)(value) or _whole(1)(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_levels(value: Any) -> bool:
    inside = isinstance(value, list) and len(value) > 0 and all(_number(0, 1)(level) and level > 0 for level in value)
    return inside and 0.5 in value and all(low < high for low, high in pairwise(value))


_SIZE = (_whole(1), "a whole number, 1 or more")
_PAIR = (_whole(2), "a whole number, 2 or more")
_AMOUNT = (_number(0), "a number, 0 or more")

# by name, whatever the group: a name means the same in every cell and every dataset
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("hidden_size", "num_layers", "batch_size", "seq_len", "input_size", "output_size"), _SIZE),
    **dict.fromkeys(("num_train", "num_series", "num_waves", "length", "repeats"), _SIZE),
    **dict.fromkeys(("min_count", "num_samples", "context", "horizon", "season", "stride"), _SIZE),
    **dict.fromkeys(("log_every_n_steps", "accumulate_grad_batches", "check_val_every_n_epoch", "num_nodes"), _SIZE),
    **dict.fromkeys(("num_val", "num_test", "symbols"), _PAIR),
    "lag": _SIZE,
    "test_lengths": (lambda value: isinstance(value, list) and all(map(_SIZE[0], value)), "a list of whole numbers"),
    **dict.fromkeys(("momentum", "weight_decay", "noise", "shift", "trend"), _AMOUNT),
    **dict.fromkeys(("epoch_steps", "patch"), (lambda value: value is None or _SIZE[0](value), f"{_SIZE[1]}, or null")),
    **dict.fromkeys(("val", "test"), (_is_part, "a share from 0 to below 1, or a whole number of steps")),
    **dict.fromkeys(("covariates", "future_covariates"), (_are_names, "a list of columns")),
    "features": (lambda value: value is None or (_are_names(value) and value), "a list of columns, or null"),
    **dict.fromkeys(("sequence_id", "label"), (lambda value: value is not None, "a column")),
    "target": (lambda value: isinstance(value, str) or (_are_names(value) and value), "a column, or a list of columns"),
    "quantiles": (_are_levels, "numbers between 0 and 1, rising, 0.5 among them"),
    "loss": (lambda value: value in ("pinball", "mae", "huber", "mse"), "pinball, mae, huber or mse"),
    "norm": (lambda value: value in ("last", "std", "mean", "none"), "last, std, mean or none"),
    "head": (lambda value: value in ("direct", "recursive"), "direct or recursive"),
    **dict.fromkeys(
        ("log", "dayfirst"), (lambda value: value is None or isinstance(value, bool), "true, false or null")
    ),
    "fill": (lambda value: value in (None, "linear", "ffill"), "linear, ffill or null"),
    "calendar": (
        lambda value: isinstance(value, list) and set(value) <= {"hour", "day_of_week", "month", "day_of_year"},
        "a list of hour, day_of_week, month, day_of_year",
    ),
    "lr": (lambda value: _number(0)(value) and value > 0, "a number above 0"),
    **dict.fromkeys(("dropout", "label_smoothing", "warmup"), (_number(0, 1), "a number from 0 to below 1")),
    "embedding": (lambda value: value is None or _SIZE[0](value), f"{_SIZE[1]}, or null"),
    "device": (lambda value: value in ("cpu", "cuda"), "cpu or cuda"),
    "unit": (lambda value: value in ("char", "byte"), "char or byte"),
    "split": (_is_split, "three shares of sum 1, such as [0.9,0.05,0.05]"),
    "temperature": (lambda value: _number(0)(value) and value > 0, "a number above 0; top_k=1 is the likeliest text"),
    "top_k": (_whole(0), "a whole number; 0 keeps all"),
    "top_p": (lambda value: _number(0)(value) and 0 < value <= 1, "a number above 0, at most 1"),
    "seed": (lambda value: _whole(0)(value) and value < 2**32, "a whole number, 0 or more and below 2^32"),
    **dict.fromkeys(
        ("bidirectional", "tied", "backtest", "residual", "tf32", "compile"), (_is_switch, "true or false")
    ),
    "readout": (lambda value: value in ("last", "mean"), "last or mean"),
    "init": (lambda value: value in ("default", "identity", "orthogonal"), "default, identity or orthogonal"),
    "forget_bias": (lambda value: value is None or _number(-100, 100)(value), "a number, or null"),
    "chrono": (lambda value: value in (None, "auto") or _PAIR[0](value), f"{_PAIR[1]}, auto or null"),
    "nonlinearity": (lambda value: value in ("tanh", "relu"), "tanh or relu"),
    "interval": (lambda value: value in ("step", "epoch"), "step or epoch"),
    "max_epochs": (lambda value: value is None or value == -1 or _SIZE[0](value), f"{_SIZE[1]}, or -1 for no end"),
    "max_steps": (lambda value: value == -1 or _SIZE[0](value), f"{_SIZE[1]}, or -1 for no end"),
    "gradient_clip_val": (lambda value: value is None or _number(0)(value), f"{_AMOUNT[1]}, or null"),
}


def check(cfg: DictConfig) -> None:
    """Check sizes, types and ranges of a composed config.

    **Raises:** `UserError` with a line for every fault: the key, its value, and what would be right.
    """
    content: Any = OmegaConf.to_container(cfg)
    sections = {key: value for key, value in content.items() if key not in ("callbacks", "logger")}
    faults = [] if cfg.get("mode", "min") in ("min", "max") else [f"mode={cfg.mode} must be min or max."]
    for key, value in leaves(sections):
        holds, right = RULES.get(key.split(".")[-1], (None, ""))
        elsewhere = isinstance(value, str) and value.startswith("${")  # what it refers to is checked where it stands
        if holds is not None and not elsewhere and not holds(value):
            shown = str(value).lower() if isinstance(value, bool) else "null" if value is None else value
            faults.append(f"{key}={shown} must be {right}.")
    if faults:
        raise UserError("\n".join(faults))
