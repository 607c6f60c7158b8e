"""What values may be: a rule for each name of a setting."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

Rule = Callable[[Any], str]  # what would be right; empty for a value that is
UNKNOWN = object()  # a value that cannot be found out


def shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{shown(child)}' for key, child in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _whole(low: int, high: int = 10**9) -> Rule:
    """Whole numbers; what is above `high` can only be a slip."""

    def rule(value: Any) -> str:
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            return f"a whole number, {low} or more"
        return "" if value <= high else f"a whole number, at most {high:,}"

    return rule


def _number(holds: Callable[[float], bool], right: str) -> Rule:
    def rule(value: Any) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if is_number and abs(value) < 1e300 and holds(value) else right  # nor infinite, nor not a number

    return rule


def _choice(*choices: Any) -> Rule:
    *others, last = map(shown, choices)
    right = f"{', '.join(others)} or {last}"
    return lambda value: "" if any(type(value) is type(choice) and value == choice for choice in choices) else right


def _or(rule: Rule, other: Any, words: str = "") -> Rule:
    """What a rule allows, or one value more."""

    def either(value: Any) -> str:
        right = rule(value)
        same = type(value) is type(other) and value == other
        return f"{right}, or {words or shown(other)}" if right and not same else ""

    return either


def _or_target(rule: Rule, what: str) -> Rule:
    """What a rule allows, or a node that makes it."""

    def either(value: Any) -> str:
        right = "" if isinstance(value, dict) and "_target_" in value else rule(value)
        return right and f"{right}, or {what} with a _target_"

    return either


def _list(rule: Rule, right: str, least: int = 0) -> Rule:
    """Lists of so many values or more, all of which a rule allows."""
    return lambda value: "" if isinstance(value, list) and len(value) >= least and not any(map(rule, value)) else right


def _text(right: str) -> Rule:
    """Text that is not empty; digits arrive as numbers."""
    return lambda value: "" if isinstance(value, str | int | float) and str(value).strip() else right


def _split(value: Any) -> str:
    shares = not _list(_AMOUNT, "wrong")(value) and len(value) == 3
    return "" if shares and abs(sum(value) - 1) < 1e-6 else "three shares of sum 1, such as [0.9,0.05,0.05]"


def _quantiles(value: Any) -> str:
    inside = not _list(_BETWEEN, "wrong")(value) and 0.5 in value
    rising = inside and all(low < high for low, high in pairwise(value))
    return "" if rising else "numbers between 0 and 1, rising, 0.5 among them"


def _part(value: Any) -> str:
    return "" if not _SHARE(value) or not _whole(1)(value) else "a share from 0 to below 1, or a whole number of steps"


def _share(value: Any) -> str:
    return "" if isinstance(value, float) and not _SHARE(value) else "a number with a point from 0.0 to below 1"


def _batches(value: Any) -> str:
    """Of limit_train_batches and the like."""
    share = isinstance(value, float) and 0 <= value <= 1
    return "" if value is None or share or not _whole(0)(value) else "a whole number, a share from 0.0 to 1.0, or null"


def _devices(value: Any) -> str:
    listed = not _list(_whole(0, 10**5), "wrong", 1)(value) and len(set(value)) == len(value)
    return "" if listed else _or(_or(_whole(1, 10**5), "auto"), -1, "-1 for all")(value)


def _time(value: Any) -> str:
    if isinstance(value, dict):
        right = not set(value) - {"days", "hours", "minutes", "seconds"} and not any(map(_AMOUNT, value.values()))
    else:
        right = isinstance(value, str) and bool(re.fullmatch(r"\d\d:\d\d:\d\d:\d\d", value, re.ASCII))
    return "" if right else "DD:HH:MM:SS, such as 00:01:30:00"


def _interval(value: Any) -> str:
    share = isinstance(value, float) and 0 < value <= 1
    known = value is None or share or not _whole(1)(value) or not _time(value)
    return "" if known else f"a whole number, 1 or more, a share from above 0.0 to 1.0, {_time(value)}, or null"


def _names(least: int) -> Rule:
    return _list(lambda value: "" if isinstance(value, str) else "a column", "a list of columns", least)


_SWITCH = _choice(True, False)
_AMOUNT = _number(lambda value: value >= 0, "a number, 0 or more")
_ABOVE_0 = _number(lambda value: value > 0, "a number above 0")
_SHARE = _number(lambda value: 0 <= value < 1, "a number from 0 to below 1")
_BETWEEN = _number(lambda value: 0 < value < 1, "a number between 0 and 1")
_LONG = _whole(1)
_STEPS = _whole(1, 10**6)

# by name, whatever the group: a name means the same in every cell and every dataset
RULES: dict[str, Rule] = {
    **dict.fromkeys(("hidden_size", "batch_size", "seq_len", "input_size", "lag", "num_series", "repeats"), _STEPS),
    **dict.fromkeys(("output_size", "num_samples"), _whole(1, 10**5)),
    **dict.fromkeys(("context", "horizon", "season", "stride"), _STEPS),
    **dict.fromkeys(("num_train", "length", "min_count"), _LONG),
    **dict.fromkeys(("log_every_n_steps", "accumulate_grad_batches", "num_nodes"), _LONG),
    "check_val_every_n_epoch": _or(_LONG, None),
    **dict.fromkeys(("num_val", "num_test"), _whole(2)),
    "symbols": _whole(2, 10**5),
    "num_layers": _whole(1, 1000),
    "num_waves": _whole(1, 10**4),
    "proj_size": _whole(0, 10**6),
    "test_lengths": _list(_STEPS, "a list of whole numbers"),
    **dict.fromkeys(("momentum", "weight_decay", "noise", "shift", "trend"), _AMOUNT),
    **dict.fromkeys(("epoch_steps", "patch", "embedding"), _or(_STEPS, None)),
    **dict.fromkeys(("val", "test"), _part),
    **dict.fromkeys(("covariates", "future_covariates"), _names(0)),
    "features": _or(_names(1), None),
    **dict.fromkeys(("sequence_id", "label"), _text("a column")),
    **dict.fromkeys(("time", "series_id"), _or(_text("a column"), None)),
    "target": lambda value: _text("wrong")(value) and _names(1)(value) and "a column, or a list of columns",
    "quantiles": _quantiles,
    "loss": _choice("pinball", "mae", "huber", "mse"),
    "norm": _choice("last", "std", "mean", "none"),
    "head": _choice("direct", "recursive"),
    **dict.fromkeys(("log", "dayfirst"), _choice(True, False, None)),
    "fill": _choice("linear", "ffill", None),
    "calendar": _list(
        _choice("hour", "day_of_week", "month", "day_of_year"), "a list of hour, day_of_week, month, day_of_year"
    ),
    "lr": _ABOVE_0,
    "betas": _list(_SHARE, "two numbers from 0 to below 1", 2),
    **dict.fromkeys(("dropout", "label_smoothing", "warmup"), _SHARE),
    "final": _AMOUNT,
    "device": _choice("cpu", "cuda"),
    "unit": _choice("char", "byte"),
    "split": _split,
    **dict.fromkeys(("path", "pattern"), _text("a path")),
    "cache": _or(_text("a folder"), None),
    "temperature": _number(lambda value: value > 0, "a number above 0; top_k=1 is the likeliest text"),
    "top_k": lambda value: _whole(0)(value) and "a whole number, 0 or more; 0 keeps all",
    "top_p": _number(lambda value: 0 < value <= 1, "a number above 0, at most 1"),
    "seed": lambda value: _whole(0, 2**32 - 1)(value) and "a whole number, 0 or more and below 2^32",
    **dict.fromkeys(("bidirectional", "tied", "backtest", "residual", "tf32", "compile", "bias"), _SWITCH),
    "readout": _choice("last", "mean"),
    "init": _choice("default", "identity", "orthogonal"),
    "forget_bias": _or(_number(lambda value: abs(value) < 100, "a number"), None),
    "chrono": _or(_or(_whole(2), "auto"), None),
    "nonlinearity": _choice("tanh", "relu"),
    "interval": _choice("step", "epoch"),
    "max_epochs": lambda value: "" if value is None else _or(_whole(1, 10**6), -1, "-1 for no end")(value),
    "max_steps": _or(_whole(1, 10**12), -1, "-1 for no end"),
    "gradient_clip_val": _or(_AMOUNT, None),
    "gradient_clip_algorithm": _choice("norm", "value", None),
    **dict.fromkeys((*(f"limit_{part}_batches" for part in ("val", "test", "predict")), "overfit_batches"), _batches),
    "limit_train_batches": lambda value: "more than 0" if value == 0 else _batches(value),
    **dict.fromkeys(("min_epochs", "min_steps"), _or(_whole(0), None)),
    "max_time": _or(_time, None),
    "val_check_interval": _interval,
    "fast_dev_run": lambda value: _SWITCH(value) and _whole(0)(value) and "true, false or a number of batches",
    "reload_dataloaders_every_n_epochs": _whole(0),
    "num_sanity_val_steps": _whole(-1),
    "precision": _choice(
        "32-true",
        "bf16-mixed",
        "16-mixed",
        "64-true",
        "bf16-true",
        "16-true",
        32,
        64,
        16,
        "32",
        "64",
        "16",
        "bf16",
        None,
    ),
    "barebones": lambda value: "" if value is False else "false: it would leave out loggers and checkpoints",
    "enable_checkpointing": lambda value: "" if value in (True, None) else "true: a run ends with its best checkpoint",
    "accelerator": _choice("auto", "cpu", "gpu", "cuda", "mps"),
    "devices": _devices,
    "use_distributed_sampler": lambda value: "" if value is False else "false: the data are shared out by themselves",
    "monitor": _text("a metric, such as val/loss"),
    "mode": _choice("min", "max"),
    **dict.fromkeys(("_partial_", "_recursive_"), _SWITCH),
    "_convert_": _choice("none", "partial", "object", "all"),
    "strategy": _or_target(_choice("auto", "ddp"), "a strategy"),
    "profiler": _or_target(_choice("simple", "advanced", "pytorch", None), "a profiler"),
}
# by the whole key
KEYS: dict[str, Rule] = {
    "name": _text("text"),
    **dict.fromkeys(("ckpt", "init_from"), _or(_text("a path"), None)),
    "checkpoint": lambda value: "" if isinstance(value, dict) else "a section with every_minutes",
    "checkpoint.every_minutes": _ABOVE_0,
    "trial": _or(_whole(0), None),
    "callbacks.progress.every": _ABOVE_0,
    **dict.fromkeys(("callbacks.gradient_flow.every", "callbacks.gradient_flow.batch_size"), _LONG),
}
