"""How far a run is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

__all__ = ["Progress"]

_log = logging.getLogger(__name__)


class Progress:
    """Shows progress with the remaining time; to be used in a ``with`` block.

    Args:
        total: Optimizer steps of the run.
        start: Steps done before.
        images: Images of a step.
        shown: Whether this process shows anything.
        refresh: Steps between two lines where there is no terminal.
    """

    def __init__(self, total: int, start: int, images: int, shown: bool, refresh: int) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = shown
        self._images = images
        self._refresh = refresh
        self._stack = ExitStack()
        # Without a terminal the bar is not drawn, but still measures time.
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            file=sys.stderr if shown and self._terminal else _Nowhere(),
            dynamic_ncols=True,
        )

    def __enter__(self) -> Progress:
        """Lets log lines pass above the bar."""
        self._stack.enter_context(self._bar)
        if self._terminal and self._shown:
            self._stack.enter_context(logging_redirect_tqdm([logging.getLogger("ndpp_dense")]))
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the bar on the terminal."""
        self._stack.close()

    def step(self, epoch: int, loss: float, lr: float) -> None:
        """Moves on by one optimizer step.

        Args:
            epoch: Number of the epoch, from 1.
            loss: Mean training loss of the epoch so far.
            lr: Learning rate.
        """
        self._bar.update()
        if not self._shown:
            return
        if self._terminal:
            self._bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}", lr=f"{lr:.4g}", refresh=False)
        elif self._bar.n % self._refresh == 0 or self._bar.n == self._bar.total:
            _log.info("epoch %d, %s, loss %.4f, lr %.4g", epoch, self._position(), loss, lr)

    def _position(self) -> str:
        figures = self._bar.format_dict
        done, total = figures["n"], figures["total"]
        rate = (done - figures["initial"]) / max(figures["elapsed"], 1e-9)
        left = tqdm.format_interval((total - done) / rate) if rate else "?"
        return f"step {done}/{total}, {rate * self._images:.0f} images/s, {left} left"


class _Nowhere:
    """A stream that forgets what is written to it."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass
