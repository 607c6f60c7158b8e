"""A text as a file of token indices: encoded once, then mapped into memory."""

import codecs
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import Progress

from rnnlab.errors import UserError, require
from rnnlab.vocabulary import UNKNOWN, Vocabulary, code_points

Unit = Literal["char", "byte"]
PIECE = 1 << 22  # bytes read at once
FORMAT = 1


@dataclass(frozen=True)
class Corpus:
    """An encoded text.

    - `tokens`: (characters,) indices, mapped from a file; reading some of them takes no more memory than these.
    - `vocabulary`: what they mean.
    - `first`: the position at which each sign of the vocabulary stands for the first time; -1 if it never does.
    """

    tokens: np.ndarray
    vocabulary: Vocabulary
    first: np.ndarray


def open_corpus(
    files: list[Path], unit: Unit, min_count: int, vocabulary: Vocabulary | None, cache: Path, what: str
) -> Corpus:
    """The corpus of some files, one after the other: from `cache`, or encoded into it.

    An entry of the cache is named after a fingerprint of path, size and time of every file and the settings. It is
    written beside and renamed when it is whole, so that a reader never meets half of one and the first of two runs that
    encode the same text wins. Entries of the same files as they were before a change are removed.

    **Arguments:**

    - `files`: UTF-8 text for characters, anything for bytes.
    - `unit`: what a token is.
    - `min_count`: characters that appear less often become the unknown sign.
    - `vocabulary`: to use in place of the text's own; `min_count` then has no meaning.
    - `cache`: a folder, made if there is none.
    - `what`: how to name the text to the user, such as `data.path=poems.txt`.

    **Raises:** `UserError` for text that is empty or not UTF-8, characters that `vocabulary` lacks, a file that changes
    while it is read, and a cache that cannot be written.
    """
    source = _source(files)
    settings = {"unit": unit, "min_count": min_count, "signs": vocabulary and vocabulary.signs, "format": FORMAT}
    try:
        home = cache / _digest([name for name, _, _ in source])
        entry = home / _digest([source, settings])
        own = home / _digest([source, settings | {"signs": None}])
        if vocabulary and own.exists() and _load(own).vocabulary.signs == vocabulary.signs:
            return _load(own)
        if not entry.exists():
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home, prefix="partial-", ignore_cleanup_errors=True) as partial:
                _encode(files, unit, min_count, vocabulary, Path(partial), what)
                require(_source(files) == source, f"{what} changed while it was read. Start again.")
                (Path(partial) / "source.json").write_text(json.dumps(source))
                try:
                    Path(partial).rename(entry)
                except OSError:
                    if not entry.exists():  # else another run was faster
                        raise
            for other in home.glob("*/source.json"):
                if json.loads(other.read_text()) != source:
                    shutil.rmtree(other.parent, ignore_errors=True)
        return _load(entry)
    except OSError as error:
        raise UserError(
            f"The encoded text cannot be kept in {cache}: {error.strerror or error}. Choose a folder with data.cache=."
        ) from error


def _load(entry: Path) -> Corpus:
    about = json.loads((entry / "vocabulary.json").read_text(encoding="utf-8"))
    vocabulary = Vocabulary(about["signs"])
    tokens = np.memmap(entry / "tokens.bin", dtype=vocabulary.dtype, mode="r")
    return Corpus(tokens, vocabulary, np.array(about["first"]))


def _encode(
    files: list[Path], unit: Unit, min_count: int, vocabulary: Vocabulary | None, folder: Path, what: str
) -> None:
    """Write `tokens.bin` and `vocabulary.json`: one pass over the files to count characters, one to write tokens."""
    counts = np.zeros(0x110000, dtype=np.int64)
    first = np.full(0x110000, -1, dtype=np.int64)
    length = 0
    for codes in _watched(_pieces(files, unit, what), files, "reading"):
        here = np.bincount(codes)
        for code in np.flatnonzero((here > 0) & (counts[: len(here)] == 0)):
            first[code] = length + np.argmax(codes == code)
        counts[: len(here)] += here
        length += len(codes)
    require(length > 0, f"{what} is empty.")
    if unit == "byte":
        vocabulary, table = Vocabulary(), np.arange(256)
    else:
        vocabulary = vocabulary or _vocabulary(counts, min_count)
        table = vocabulary.lookup()
        missing = np.flatnonzero((counts > 0) & (table == len(vocabulary)))
        require(
            not len(missing),
            f"{what} has characters that the model's vocabulary lacks: "
            f"{''.join(map(chr, missing[:40]))!r} ({counts[missing].sum():,} in all).",
        )
    with (folder / "tokens.bin").open("wb") as file:
        for codes in _watched(_pieces(files, unit, what), files, "encoding"):
            file.write(table[codes].astype(vocabulary.dtype))
        file.flush()
        os.fsync(file.fileno())
    order = np.arange(256) if unit == "byte" else vocabulary.codes
    about: dict[str, Any] = {"signs": vocabulary.signs, "first": first[order].tolist()}
    if vocabulary.unknown is not None:
        folded = first[(first >= 0) & (table == vocabulary.unknown)]
        about["first"][vocabulary.unknown] = int(folded.min()) if len(folded) else -1
    (folder / "vocabulary.json").write_text(json.dumps(about), encoding="utf-8")


def _vocabulary(counts: np.ndarray, min_count: int) -> Vocabulary:
    """The characters that appear often enough, by code point; the unknown sign is there if some do not."""
    signs = set(map(chr, np.flatnonzero(counts >= min_count)))
    if (counts > 0).sum() > len(signs):
        signs.add(UNKNOWN)
    return Vocabulary(sorted(signs))


def _pieces(files: Iterable[Path], unit: Unit, what: str) -> Iterator[np.ndarray]:
    """The code points or bytes of all files, a few million at a time."""
    for path in files:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        with path.open("rb") as file:
            while raw := file.read(PIECE):
                if unit == "byte":
                    yield np.frombuffer(raw, dtype=np.uint8)
                else:
                    yield code_points(_decoded(decoder, raw, path, file.tell() - len(raw), what))
        if unit == "char":
            _decoded(decoder, b"", path, path.stat().st_size, what)


def _decoded(decoder: codecs.IncrementalDecoder, raw: bytes, path: Path, position: int, what: str) -> str:
    waiting = len(decoder.getstate()[0])
    try:
        return decoder.decode(raw, final=not raw)
    except UnicodeDecodeError as error:
        at = position - waiting + error.start
        raise UserError(
            f"{what}: byte {at:,} of {path} (0x{error.object[error.start]:02x}) is not UTF-8. "
            "Convert the file, or use data.unit=byte, which reads any."
        ) from error


def _watched(pieces: Iterable[np.ndarray], files: list[Path], doing: str) -> Iterator[np.ndarray]:
    """A bar with the time left while a text is read, where there is a terminal."""
    total = sum(path.stat().st_size for path in files)
    with Progress(transient=True, disable=total < 10 * PIECE) as bar:
        task = bar.add_task(f"{doing} {total / 2**20:,.0f} MiB of text", total=total)
        for piece in pieces:
            yield piece
            bar.advance(task, len(piece))  # characters, which are bytes in most texts


def _source(files: list[Path]) -> list[list[Any]]:
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
