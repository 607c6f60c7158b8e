"""What a run tells people: on standard output, and in the run's log."""

import io
import logging

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console, RenderableType

log = logging.getLogger(__name__)


@rank_zero_only
def tell(content: RenderableType) -> None:
    """Print text or a table, and log it, on the first rank only; the log goes to the run's folder only."""
    _print(content, Console())
    record = Console(file=io.StringIO(), width=120)
    _print(content, record)
    log.info("%s", record.file.getvalue().strip())  # type: ignore[attr-defined]


def _print(content: RenderableType, console: Console) -> None:
    console.print(content, highlight=False, markup=False, soft_wrap=isinstance(content, str))
