"""Not profiling, without paying for it."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning.pytorch.profilers import PassThroughProfiler

_NOTHING: AbstractContextManager = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, as Lightning's default does, but enters one shared context instead of making a new one.

    Lightning enters a profiling context for every hook of every callback, over 40 times a step. The default makes a
    generator each time, which costs a small network a twentieth of its speed.
    """

    def profile(self, action_name: str) -> Any:
        return _NOTHING
