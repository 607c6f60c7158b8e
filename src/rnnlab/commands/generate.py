"""What a trained language model is for: to write, and to tell how likely a text is."""

import csv
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from rnnlab.config.validate import check_parts
from rnnlab.data.spec import IGNORED
from rnnlab.data.text import Pieces, WholeText
from rnnlab.data.vocabulary import Decoder
from rnnlab.tasks.char import CharModel
from rnnlab.training import checkpoint
from rnnlab.training.devices import use_tf32
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, printable, require, require_other_file
from rnnlab.utils.files import available_memory, decode, read_pieces, require_memory

STREAMS, PIECE = 32, 256  # sequences and characters that are scored at once


def generate(cfg: DictConfig, literal: dict[str, str]) -> None:
    """Continue a prompt with the model of a checkpoint, or score a text.

    **Arguments:**

    - `cfg`: the composed `generate.yaml`.
    - `literal`: values of `ckpt`, `prompt`, `out` and `score`, as they stand on the command line.

    **Raises:** `UserError` for a checkpoint of another task, characters that the model does not know, and files that
    cannot be read or written.
    """
    given: Any = OmegaConf.to_container(cfg)
    check_parts(OmegaConf.create({key: value for key, value in given.items() if value != "???"}))
    how = SimpleNamespace(**{**given, **literal})  # type: ignore[dict-item]
    require(how.ckpt != "???", "ckpt is needed: give ckpt=PATH. --help shows examples.")
    require(how.device == "cpu" or torch.cuda.is_available(), f"device={how.device}: torch finds no GPU. Use cpu.")
    use_tf32(False)
    require_other_file("out", how.out, ckpt=how.ckpt, score=how.score)
    model = _load(how.ckpt).to(how.device)
    try:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        if how.score is not None:
            _score(model, how)
        elif how.num_samples == 1:
            _stream(model, how)
        else:
            _batch(model, how)
    except BrokenPipeError:  # whoever reads has enough; what Python still wants to flush goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)


def _load(path: str) -> CharModel:
    saved = checkpoint.load(path)
    model = checkpoint.load_model(saved, path)
    if not isinstance(model, CharModel):
        raise UserError(f"ckpt={path} holds a {type(model).__name__}; text is written by a run of model=char.")
    return model.eval()


def _draw(model: CharModel, prompt: str, how: SimpleNamespace) -> Iterator[Tensor]:
    """`how.num_samples` continuations of a prompt, (samples,) tokens at a time."""
    start = prompt or ("\n" if not model.spec.vocab or "\n" in model.spec.vocab else model.spec.vocab[0])
    tokens = torch.from_numpy(model.vocabulary.encode(start, "prompt")).to(how.device)
    require_memory(
        how.num_samples * max(4 * len(tokens) * len(model.vocabulary), 8 * how.length * (how.num_samples > 1)),
        f"num_samples={how.num_samples:,} texts of length={how.length:,}",
    )
    generator = torch.Generator(how.device).manual_seed(how.seed)
    chances = {name: getattr(how, name) for name in ("temperature", "top_k", "top_p")}
    return model.write(tokens.expand(how.num_samples, -1), how.length, generator=generator, **chances)


def _stream(model: CharModel, how: SimpleNamespace) -> None:
    """One text, printed as it is made."""
    prompt = _prompt(model, how)
    tokens = _draw(model, prompt, how)
    with _open(how.out) as file:
        for piece in chain([prompt], _decode(model, tokens), ["\n"]):
            print(_shown(piece), end="", flush=True)
            file.write(piece)


def _decode(model: CharModel, tokens: Iterator[Tensor]) -> Iterator[str]:
    decoder = Decoder(model.vocabulary)
    for token in tokens:
        yield decoder(token.tolist())
    yield decoder([], final=True)


def _batch(model: CharModel, how: SimpleNamespace) -> None:
    """Many texts, printed when all are made."""
    prompt = _prompt(model, how)
    tokens = _draw(model, prompt, how)
    with _open(how.out) as file:
        drawn = torch.stack(list(_watched(tokens, how.length, f"writing {how.num_samples} texts")))
        for number, sample in enumerate(drawn.T.tolist(), 1):
            text = f"--- {number} of {how.num_samples} ---\n{prompt}{model.vocabulary.decode(sample)}\n"
            print(_shown(text), end="")
            file.write(text)


@torch.inference_mode()
def _score(model: CharModel, how: SimpleNamespace) -> None:
    """How well each character of a text is predicted from all before it."""
    signs, tokens = _tokens(model, Path(how.score))
    unit = "character" if model.spec.vocab else "byte"
    text, cuts, state = Pieces(tokens), WholeText(len(tokens), STREAMS, PIECE), None
    nats = torch.empty(len(tokens) - 1)
    with _open(how.out) as file:
        for cut in _watched(cuts, len(cuts), "scoring"):
            x, y, *_ = text[cut]
            out, state = model(x.to(how.device), state)
            costs = F.cross_entropy(out.mT, y.to(how.device), ignore_index=IGNORED, reduction="none").cpu()
            positions = torch.from_numpy(cut.starts)[:, None] + torch.arange(cut.steps)
            nats[positions[y != IGNORED]] = costs[y != IGNORED]
        if how.out is not None:
            rows = csv.writer(file)
            rows.writerow([unit, "nats"])
            rows.writerows(zip(signs[1:], nats.tolist(), strict=True))
    mean = nats.double().mean().item()
    table = Table("score", how.score)
    table.add_row(f"{unit}s predicted, all but the first", f"{len(nats):,}")
    table.add_row(f"nats per {unit}", repr(mean))
    for name, value in model.derived(mean).items():
        table.add_row(name.replace("_", " ").replace("character", unit), repr(value))
    tell(table)


def _tokens(model: CharModel, path: Path) -> tuple[str | bytes, np.ndarray]:
    """The characters or bytes of a file, and what the model reads in them."""
    what = f"score={path}"
    raw: Any = read_pieces(path, what)
    text = model.spec.vocab
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    require_memory(6 * size, f"The {'characters' if text else 'bytes'} of {what}", "Score a part of it.")
    signs = "".join(decode(raw, what, "Convert it.")) if text else b"".join(raw)
    require(len(signs) >= 2, f"{what} is too short: each {'character' if text else 'byte'} but the first is predicted.")
    if isinstance(signs, str):
        return signs, model.vocabulary.encode(signs, what)
    return signs, np.frombuffer(signs, dtype=np.uint8).astype(np.int64)


def _prompt(model: CharModel, how: SimpleNamespace) -> str:
    if how.prompt != "-":
        return how.prompt
    most = available_memory() // (4 * how.num_samples * len(model.vocabulary))  # bytes that it can read
    raw = sys.stdin.buffer.read(most + 1)
    require(len(raw) <= most, f"prompt=- does not end within {most:,} bytes, which is what fits into memory.")
    return "".join(decode([raw], "prompt=-", "Convert it.")).removesuffix("\n")  # which echo adds


def _shown(text: str) -> str:
    """Text for standard output: a terminal is not steered by it, a file or program gets it as it is."""
    return printable(text, "\n\t") if sys.stdout.isatty() else text


def _open(out: str | None) -> TextIO:
    try:
        return open(os.devnull if out is None else out, "w", encoding="utf-8", errors="replace", newline="")
    except OSError as error:
        raise UserError(f"out={out} cannot be written: {error.strerror}.") from error


def _watched(steps: Iterable[Any], total: int, doing: str) -> Iterable[Any]:
    """A bar with the time left, where there is a terminal."""
    return track(steps, doing, total, transient=True, console=Console(stderr=True))
