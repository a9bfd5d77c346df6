"""What a person sees while a run goes on: stages, a live table on a terminal, a line a step elsewhere.

Numbers and paths only; never a report's text (promise 9).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

_RECENT_STEPS = 8  # rows of the live table
_LOG_WIDTH = 140
_EVERY_S = 5.0  # between two lines of a warm start where there is no terminal


class Display:
    """A run's terminal output."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        if not self._console.is_terminal:
            self._console.width = _LOG_WIDTH  # of a file or a pipe; rich would cut tables at 80
        self._live: Live | None = None
        self._rows: list[Mapping[str, float | int | None]] = []
        self._steps = 0
        self._started = 0.0
        self._first_step: int | None = None
        self._last_line = 0.0

    def note(self, text: str) -> None:
        """One line about what happens now."""
        self._console.print(f"[bold]overread[/] {escape(text)}")

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """A stage without steps: its name at once, a spinner on a terminal, and its seconds at the end."""
        started = time.monotonic()
        self.note(f"{text} ...")
        if self._console.is_terminal:
            with self._console.status(escape(text)):
                yield
        else:
            yield
        self.note(f"{text}: done in {time.monotonic() - started:.1f} s")

    @contextmanager
    def warm_start(self, steps: int) -> Iterator[WarmStartBar]:
        """A bar for supervised steps."""
        columns = (TextColumn("warm start"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                   TextColumn("loss {task.fields[loss]}"), TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
        if self._console.is_terminal:
            with Progress(*columns, console=self._console) as progress:
                yield WarmStartBar(self, progress, steps)
        else:
            yield WarmStartBar(self, None, steps)

    @contextmanager
    def training(self, steps: int) -> Iterator[None]:
        """A live table of the last steps."""
        self._steps, self._started, self._rows = steps, time.monotonic(), []
        self._first_step = None
        if not self._console.is_terminal:
            yield
            return
        with Live(self._table(), console=self._console, refresh_per_second=4) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def step(self, line: Mapping[str, float | int | None]) -> None:
        """Show a step's metrics."""
        if self._first_step is None:
            self._first_step = int(line["step"] or 0)
        self._rows = [*self._rows, line][-_RECENT_STEPS:]
        if self._live is not None:
            self._live.update(self._table())
        else:
            cells = self._cells(line)
            self._console.print("  ".join(f"{name} {value}" for name, value in zip(_HEADINGS, cells, strict=True)))

    def _eta(self, step: int) -> str:
        assert self._first_step is not None
        done = step - self._first_step + 1
        seconds = (time.monotonic() - self._started) / done * (self._steps - step)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _cells(self, line: Mapping[str, float | int | None]) -> list[str]:
        step = int(line["step"] or 0)
        return [
            f"{step}/{self._steps}",
            _number(line["reward/mean"], "{:.3f}"),
            _number(line["reward/std"], "{:.3f}"),
            _number(line["rollout/tokens_per_s"], "{:.0f}"),
            _number(line.get("staleness/mean"), "{:.2f}"),
            _number(line.get("staleness/max"), "{:.0f}"),
            _number(line.get("logprob_gap/max"), "{:.1e}"),
            _number(line["time/step_s"], "{:.2f}"),
            self._eta(step),
        ]

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for heading in _HEADINGS:
            table.add_column(heading, justify="right")
        for line in self._rows:
            table.add_row(*self._cells(line))
        return table

    def rows(self, title: str, headings: list[str], rows: list[list[str]]) -> None:
        """A titled table that stays on the screen."""
        table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
        for index, heading in enumerate(headings):
            table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*map(escape, row))
        self._console.print(table)


_HEADINGS = ["step", "reward", "std", "tokens/s", "staleness", "max", "gap", "s/step", "left"]


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)


class WarmStartBar:
    """Shows supervised steps on a bar, or as a line every few seconds."""

    def __init__(self, display: Display, progress: Progress | None, steps: int) -> None:
        self._display = display
        self._progress = progress
        self._task = progress.add_task("warm start", total=steps, loss="-") if progress else None
        self._last = 0.0

    def __call__(self, step: int, steps: int, metrics: Mapping[str, float | None]) -> None:
        loss = _number(metrics["loss"], "{:.3f}")
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step, loss=loss)
        elif step == steps or time.monotonic() - self._last > _EVERY_S:
            self._last = time.monotonic()
            self._display.note(f"warm start {step}/{steps}  loss {loss}")
