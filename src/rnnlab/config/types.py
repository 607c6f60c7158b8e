"""Ranges and choices of settings by name, as types that pydantic checks."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

UNKNOWN = object()  # in place of a value that cannot be resolved


def shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{shown(child)}' for key, child in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def words(hint: Any) -> str:
    """A type in words: `a whole number, 1 or more, or null`."""
    arguments = get_args(hint)
    if get_origin(hint) is Annotated:
        return next(item.description or "" for item in reversed(arguments) if isinstance(item, FieldInfo))
    if get_origin(hint) is Literal:
        *others, last = map(shown, arguments)
        return f"{', '.join(others)} or {last}" if others else last
    return ", or ".join(map(words, arguments)) if get_origin(hint) in (Union, UnionType) else "null"


@cache
def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type."""
    try:
        _adapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


def typed(hint: Any, description: str, **bounds: Any) -> Any:
    """A type within bounds, with words for people."""
    return Annotated[hint, Field(description=description, **bounds)]


def whole(low: int, high: int = 10**9) -> Any:
    """Whole numbers; what is above `high` can only be a typing error."""
    return typed(int, f"a whole number, {low} or more, at most {high:,}", strict=True, ge=low, le=high)


def number(description: str, **bounds: float) -> Any:
    return typed(float, description, strict=True, allow_inf_nan=False, **bounds)


def text(description: str, shortest: int = 1) -> Any:
    """Text; Hydra reads digits as numbers."""
    return typed(str, description, min_length=shortest, coerce_numbers_to_str=True)


def holds(condition: Callable[[Any], bool]) -> AfterValidator:
    """A condition on values of a type."""

    def check(value: Any) -> Any:
        if not condition(value):
            raise ValueError
        return value

    return AfterValidator(check)


NODE: Any = Annotated[typed(dict, "a section with a _target_"), holds(lambda section: "_target_" in section)]
SWITCH = typed(bool, "true or false", strict=True)
COUNT, SIZE = whole(1), whole(1, 10**6)
AMOUNT = number("a number, 0 or more", ge=0)
POSITIVE = number("a number above 0", gt=0)
SHARE = number("a number from 0 to below 1", ge=0, lt=1)
NO_END = typed(Literal[-1], "-1 for no end")
BATCHES = typed(whole(0) | number("", ge=0, le=1) | None, "a whole number, a share from 0.0 to 1.0, or null")
PATH = text("a path")
SOME_COLUMNS = typed(list[str], "a list of columns", min_length=1)
SHARES: Any = list[SHARE]  # type: ignore[valid-type]
AMOUNTS: Any = list[AMOUNT]  # type: ignore[valid-type]
SIZES: Any = list[SIZE]  # type: ignore[valid-type]

# A name means the same in every cell and every dataset. Choices that a signature lists need no entry.
TYPES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "num_layers", "batch_size", "seq_len", "input_size", "output_size"), SIZE),
    **dict.fromkeys(("lag", "context", "horizon", "season", "stride", "num_series", "num_waves", "repeats"), SIZE),
    **dict.fromkeys(("epoch_steps", "patch", "embedding"), SIZE | None),
    **dict.fromkeys(("num_train", "length", "min_count", "num_nodes"), COUNT),
    **dict.fromkeys(("accumulate_grad_batches", "log_every_n_steps"), COUNT),
    "check_val_every_n_epoch": COUNT | None,
    "num_samples": whole(1, 10**5),
    **dict.fromkeys(("num_val", "num_test", "symbols"), whole(2)),
    **dict.fromkeys(("dropout", "label_smoothing", "warmup"), SHARE),
    **dict.fromkeys(("momentum", "weight_decay", "noise", "shift", "trend", "final"), AMOUNT),
    **dict.fromkeys(("lr", "every", "every_minutes"), POSITIVE),
    **dict.fromkeys(("bidirectional", "residual", "backtest", "tf32", "compile"), SWITCH),
    **dict.fromkeys(("val", "test"), typed(SHARE | COUNT, "a share from 0 to below 1, or a whole number of steps")),
    **dict.fromkeys(("covariates", "future_covariates"), typed(list[str], "a list of columns")),
    **dict.fromkeys(("path", "pattern"), PATH),
    **dict.fromkeys(("ckpt", "init_from"), PATH | None),
    **dict.fromkeys(("limit_val_batches", "limit_test_batches", "overfit_batches"), BATCHES),
    "accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps"],
    "betas": typed(SHARES, "two numbers from 0 to below 1", min_length=2, max_length=2),
    "calendar": typed(
        list[Literal["hour", "day_of_week", "month", "day_of_year"]], "a list of hour, day_of_week, month, day_of_year"
    ),
    "checkpoint": typed(dict, "a section with every_minutes"),
    "chrono": whole(2) | Literal["auto"] | None,
    "device": Literal["cpu", "cuda"],
    "devices": COUNT | Literal["auto", -1] | typed(list[int], "a list of GPUs"),
    "features": SOME_COLUMNS | None,
    "fill": Literal["linear", "ffill", None],
    "forget_bias": number("a number") | None,
    "gradient_clip_val": AMOUNT | None,
    "init": Literal["default", "identity", "orthogonal"],
    "interval": Literal["step", "epoch"],
    "limit_train_batches": COUNT | number("a share from above 0.0 to 1.0", gt=0, le=1) | None,
    "max_epochs": SIZE | NO_END | None,
    "max_steps": whole(1, 10**12) | NO_END,
    "max_time": typed(str, "DD:HH:MM:SS, such as 00:01:30:00", pattern="^[0-9]{2}(:[0-9]{2}){3}$") | None,
    "mode": Literal["min", "max"],
    "monitor": text("a metric, such as val/loss"),
    "nonlinearity": Literal["tanh", "relu"],
    "optimizer": NODE,
    "precision": Literal["32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true", 32, "bf16"],
    "profiler": Literal["simple", "advanced", "pytorch", None] | NODE,
    "quantiles": Annotated[
        typed(AMOUNTS, "numbers between 0 and 1, rising, 0.5 among them"),
        holds(lambda levels: 0.5 in levels and all(low < high for low, high in pairwise([0, *levels, 1]))),
    ],
    "scheduler": NODE | None,
    "seed": typed(int, "a whole number, 0 or more and below 2^32", strict=True, ge=0, lt=2**32),
    "split": Annotated[
        typed(AMOUNTS, "three shares of sum 1, such as [0.9,0.05,0.05]", min_length=3, max_length=3),
        holds(lambda shares: abs(sum(shares) - 1) < 1e-6),
    ],
    "strategy": Literal["auto", "ddp"] | NODE,
    "target": typed(text("") | SOME_COLUMNS, "a column, or a list of columns"),
    "temperature": number("a number above 0; top_k=1 is the likeliest text", gt=0),
    "test_lengths": typed(SIZES, "a list of whole numbers"),
    "top_k": typed(whole(0), "a whole number, 0 or more; 0 keeps all"),
    "top_p": number("a number above 0, at most 1", gt=0, le=1),
    "trial": whole(0) | None,
    "use_distributed_sampler": typed(Literal[False], "false: the datasets share samples out by themselves"),
}
