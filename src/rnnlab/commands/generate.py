"""Generates text with a character model, or scores how well the model predicts a text."""

import csv
import os
import sys
from collections.abc import Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rnnlab.config.validate import check_parts
from rnnlab.data.spec import IGNORED
from rnnlab.data.streams import StatefulEvalBatches, TextBatches
from rnnlab.tasks.char import CharModel
from rnnlab.training import checkpoint
from rnnlab.training.devices import use_tf32
from rnnlab.utils.console import tell
from rnnlab.utils.errors import UserError, printable, require, require_other_file
from rnnlab.utils.files import read_text, reading

STREAMS, SEQ_LEN = 32, 256  # sequences and characters that are scored at once
progress = partial(track, transient=True, console=Console(stderr=True))


def generate(cfg: DictConfig, literal: dict[str, str]) -> None:
    """Continue a prompt with the model of a checkpoint, or score a text.

    **Arguments:** the composed `generate.yaml`; `ckpt`, `prompt`, `out` and `score` as they are on the command line.
    """
    check_parts(cfg)
    options = SimpleNamespace(**{**OmegaConf.to_container(cfg), **literal})  # type: ignore[dict-item]
    require(options.ckpt != "???", "ckpt is needed: give ckpt=PATH. --help shows examples.")
    require(options.device == "cpu" or torch.cuda.is_available(), "device=cuda: torch finds no GPU. Use cpu.")
    use_tf32(False)
    require_other_file("out", options.out, ckpt=options.ckpt, score=options.score)
    model = checkpoint.load_model(checkpoint.load(options.ckpt), options.ckpt)
    if not isinstance(model, CharModel):
        raise UserError(f"ckpt={options.ckpt} holds a {type(model).__name__}: give that of a run of model=char.")
    model.eval().to(options.device)
    try:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        if options.score is not None:
            _score(model, options)
        else:
            _generate(model, options)
    except BrokenPipeError:  # the reader has enough; what Python still wants to flush goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)


def _generate(model: CharModel, options: SimpleNamespace) -> None:
    """Print texts, and write them to `out`, too: one as it is sampled, several when all are complete."""
    prompt, number = options.prompt, options.num_samples
    if prompt == "-":
        with reading("prompt=-"):
            prompt = sys.stdin.buffer.read().decode("utf-8-sig").removesuffix("\n")  # which echo adds
    characters = model.spec.vocab
    start = prompt or ("\n" if not characters or "\n" in characters else characters[0])
    encoded = torch.from_numpy(model.vocabulary.encode(start, "prompt")).to(options.device)
    generator = torch.Generator(options.device).manual_seed(options.seed)
    how = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p")}
    tokens = model.write(encoded.expand(number, -1), options.length, generator=generator, **how)
    texts: Iterable[str]
    with _open(options.out) as file:
        if number == 1:
            texts = chain([prompt], model.vocabulary.iterdecode(int(token) for token in tokens), ["\n"])
        else:
            samples = torch.stack(list(progress(tokens, f"generating {number} texts", options.length))).T.tolist()
            decoded = map(model.vocabulary.decode, samples)
            texts = (f"--- {k} of {number} ---\n{prompt}{text}\n" for k, text in enumerate(decoded, 1))
        for text in texts:
            print(_shown(text), end="", flush=True)
            file.write(text)


@torch.inference_mode()
def _score(model: CharModel, options: SimpleNamespace) -> None:
    """How well each character of a text is predicted from all before it."""
    path, what = Path(options.score), f"score={options.score}"
    content: str | bytes
    unit = "character" if model.spec.vocab else "byte"
    if unit == "character":
        content = "".join(read_text(path, what, "Convert it."))
        tokens = model.vocabulary.encode(content, what)
    else:
        with reading(what):
            content = path.read_bytes()
        tokens = np.frombuffer(content, dtype=np.uint8)
    require(len(tokens) >= 2, f"{what} is too short: each {unit} but the first is predicted.")
    text = TextBatches(tokens, np.arange(len(model.vocabulary)))
    batches = StatefulEvalBatches(len(tokens), STREAMS, SEQ_LEN)
    state, nats = None, torch.empty(len(tokens) - 1)
    with _open(options.out) as file:
        for slices in progress(batches, "scoring", len(batches)):
            x, y, *_ = text[slices].to(options.device)
            out, state = model(x, state)
            losses = F.cross_entropy(out.mT, y, ignore_index=IGNORED, reduction="none").cpu()
            positions = torch.from_numpy(slices.starts)[:, None] + torch.arange(slices.steps)
            scored = y.cpu() != IGNORED
            nats[positions[scored]] = losses[scored]
        rows = csv.writer(file)
        rows.writerow([unit, "nats"])
        rows.writerows(zip(content[1:], nats.tolist(), strict=True))
    mean = nats.double().mean().item()
    table = Table("score", options.score)
    table.add_row(f"{unit}s predicted, all but the first", f"{len(nats):,}")
    table.add_row(f"nats per {unit}", repr(mean))
    for name, value in model.derived(mean).items():
        table.add_row(name.replace("_", " ").replace("character", unit), repr(value))
    tell(table)


def _shown(text: str) -> str:
    """Text for standard output; on a terminal, control characters are escaped."""
    return printable(text, "\n\t") if sys.stdout.isatty() else text


def _open(out: str | None) -> TextIO:
    try:
        return open(os.devnull if out is None else out, "w", encoding="utf-8", errors="replace", newline="")
    except OSError as error:
        raise UserError(f"out={out} cannot be written: {error.strerror}.") from error
