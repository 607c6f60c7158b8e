"""What a trained language model is for: to write, and to tell how likely a text is."""

import csv
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from rnnlab import checkpoint
from rnnlab.check import check
from rnnlab.console import tell
from rnnlab.data.text import Pieces, WholeText
from rnnlab.errors import UserError, require
from rnnlab.spec import IGNORED
from rnnlab.tasks.char import CharModel

STREAMS, PIECE = 32, 256  # sequences and characters that are scored at once


def generate(cfg: DictConfig) -> None:
    """Continue `cfg.prompt` with the model of `cfg.ckpt`, or score the text in `cfg.score`.

    **Raises:** `UserError` for a checkpoint of another task, characters that the model does not know, and files that
    cannot be read or written.
    """
    check(cfg)
    for key in ("ckpt", "score"):
        same = cfg.out is not None and cfg[key] is not None and Path(cfg.out).resolve() == Path(cfg[key]).resolve()
        require(not same, f"out={cfg.out} would replace {key}={cfg[key]}. Choose another file.")
    require(cfg.device == "cpu" or torch.cuda.is_available(), f"device={cfg.device}: torch finds no GPU. Use cpu.")
    model = _load(cfg.ckpt).to(cfg.device)
    if cfg.score is not None:
        _score(model, cfg)
    elif cfg.num_samples == 1:
        _stream(model, cfg)
    else:
        _batch(model, cfg)


def _load(path: str) -> CharModel:
    saved = checkpoint.load(path)
    model = checkpoint.build(saved["rnnlab"]["model"], path, spec=saved["hyper_parameters"]["spec"])
    if not isinstance(model, CharModel):
        raise UserError(f"ckpt={path} holds a {type(model).__name__}; text is written by a run of model=char.")
    checkpoint.load_weights(model, saved, path)
    return model.eval()


def _draw(model: CharModel, prompt: str, cfg: DictConfig) -> Iterator[Tensor]:
    """`cfg.num_samples` continuations of a prompt, (samples,) tokens at a time."""
    start = prompt or ("\n" if not model.spec.vocab or "\n" in model.spec.vocab else model.spec.vocab[0])
    tokens = torch.from_numpy(model.vocabulary.encode(start, "prompt")).to(cfg.device)
    generator = torch.Generator(cfg.device).manual_seed(cfg.seed)
    how = {name: cfg[name] for name in ("temperature", "top_k", "top_p")}
    return model.write(tokens.expand(cfg.num_samples, -1), cfg.length, generator=generator, **how)


def _stream(model: CharModel, cfg: DictConfig) -> None:
    """One text, printed as it is made."""
    prompt = _prompt(cfg.prompt)
    tokens = _draw(model, prompt, cfg)
    decoder = model.vocabulary.decoder()
    with _open(cfg.out) as file:
        for piece in chain([prompt], (decoder(token.tolist()) for token in tokens), [decoder([], final=True), "\n"]):
            print(piece, end="", flush=True)
            file.write(piece)


def _batch(model: CharModel, cfg: DictConfig) -> None:
    """Many texts, printed when all are made."""
    prompt = _prompt(cfg.prompt)
    tokens = _draw(model, prompt, cfg)
    with _open(cfg.out) as file:
        drawn = torch.stack(list(_watched(tokens, cfg.length, f"writing {cfg.num_samples} texts")))
        for number, sample in enumerate(drawn.T.tolist(), 1):
            text = f"--- {number} of {cfg.num_samples} ---\n{prompt}{model.vocabulary.decode(sample)}\n"
            print(text, end="")
            file.write(text)


@torch.inference_mode()
def _score(model: CharModel, cfg: DictConfig) -> None:
    """How well each character of a text is predicted from all before it."""
    tokens = _tokens(model, Path(cfg.score))
    text, cuts, state = Pieces(tokens), WholeText(len(tokens), STREAMS, PIECE), None
    nats = torch.empty(len(tokens) - 1)
    with _open(cfg.out) as file:
        for cut in _watched(cuts, len(cuts), "scoring"):
            x, y, _ = text[cut]
            out, state = model(x.to(cfg.device), state)
            costs = F.cross_entropy(out.mT, y.to(cfg.device), ignore_index=IGNORED, reduction="none").cpu()
            positions = torch.from_numpy(cut.starts)[:, None] + torch.arange(cut.steps)
            nats[positions[y != IGNORED]] = costs[y != IGNORED]
        if cfg.out is not None:
            rows = csv.writer(file)
            rows.writerow(["character", "nats"])
            signs = model.spec.vocab or range(256)
            rows.writerows((signs[token], cost) for token, cost in zip(tokens[1:].tolist(), nats.tolist(), strict=True))
    mean = nats.double().mean().item()
    table = Table("score", cfg.score)
    table.add_row("characters predicted, all but the first", f"{len(nats):,}")
    table.add_row("nats per character", repr(mean))
    for name, value in model.derived(mean).items():
        table.add_row(name.replace("_", " "), repr(value))
    tell(table)


def _tokens(model: CharModel, path: Path) -> np.ndarray:
    require(path.is_file(), f"score={path}: there is no such file.")
    raw = path.read_bytes()
    if model.spec.vocab:
        tokens = model.vocabulary.encode(_decoded(raw, f"score={path}", "utf-8-sig"), f"score={path}")
    else:
        tokens = np.frombuffer(raw, dtype=np.uint8).astype(np.int64)
    require(len(tokens) >= 2, f"score={path} is too short: each character but the first is predicted.")
    return tokens


def _prompt(prompt: Any) -> str:
    if prompt != "-":
        return str(prompt)
    return _decoded(sys.stdin.buffer.read(), "prompt=-", "utf-8").removesuffix("\n")  # which echo adds


def _decoded(raw: bytes, what: str, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: byte {error.start:,} is not UTF-8.") from error


def _open(out: str | None) -> TextIO:
    try:
        return open(os.devnull if out is None else out, "w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"out={out} cannot be written: {error.strerror}.") from error


def _watched(steps: Iterable[Any], total: int, doing: str) -> Iterable[Any]:
    """A bar with the time left, where there is a terminal."""
    return track(steps, doing, total, transient=True, console=Console(stderr=True))
