"""What a run tells people: on standard output, and in the run's log."""

import io
import logging
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console, RenderableType
from rich.text import Text

from rnnlab.utils.errors import printable

log = logging.getLogger(__name__)


class PlainConsole(Console):
    """Shows text as it is, without markup; control characters, also in the cells of a table, are escaped."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text.replace("\r\n", "\n"), "\n\t"), **{**options, "emoji": False})

    def show(self, content: RenderableType) -> None:
        self.print(content, highlight=False, markup=False, soft_wrap=isinstance(content, str))


@rank_zero_only
def tell(content: RenderableType) -> None:
    """Print text or a table on the first rank, and write it to the log of the run's folder."""
    PlainConsole().show(content)
    file = io.StringIO()
    PlainConsole(file=file, width=120).show(content)
    log.info("%s", file.getvalue().strip())
