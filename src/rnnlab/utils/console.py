"""What a run tells people: on standard output, and in the run's log."""

import io
import logging
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console, RenderableType
from rich.text import Text

from rnnlab.utils.errors import printable

log = logging.getLogger(__name__)


class Plain(Console):
    """Shows text, that of a table's cells too, as it is, but for control characters, which it shows escaped."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text.replace("\r\n", "\n"), "\n\t"), **{**how, "emoji": False})


@rank_zero_only
def tell(content: RenderableType) -> None:
    """Print text or a table, and log it, on the first rank only; the log goes to the run's folder only."""
    _print(content, Plain())
    record = Plain(file=io.StringIO(), width=120)
    _print(content, record)
    log.info("%s", record.file.getvalue().strip())  # type: ignore[attr-defined]


def _print(content: RenderableType, console: Plain) -> None:
    console.print(content, highlight=False, markup=False, soft_wrap=isinstance(content, str))
