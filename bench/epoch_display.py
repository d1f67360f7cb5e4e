"""The live display of a training: a line an epoch, and below them a bar with the time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console

from ..models.optimise import EpochRecord
from .progress_bar import progress_bar


class EpochDisplay:
    """Context manager whose ``show`` takes the records of a training; no bar where the console is no terminal.

    Args:
        epochs: that will run at most; None where that is unknown.
    """

    def __init__(self, console: Console, epochs: int | None) -> None:
        self._bar = progress_bar(console)
        self._task = self._bar.add_task("training", total=epochs)

    def __enter__(self) -> EpochDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, record: EpochRecord) -> None:
        """Takes one record."""
        self._bar.console.print(epoch_line(record), markup=False)
        self._bar.update(self._task, advance=1, description=f"accuracy {record.validation_accuracy:.4f}")


def epoch_line(record: EpochRecord) -> str:
    """Losses, accuracy (R² of a regression), and what the objective tells besides."""
    figures = "".join(f"  {name.replace('_', ' ')} {value:.4f}" for name, value in record.figures.items())
    return (
        f"epoch {record.epoch:3d}  fit loss {record.fit_loss:.4f}  validation loss {record.validation_loss:.4f}  "
        f"accuracy {record.validation_accuracy:.4f}{figures}  {record.seconds:6.0f} s"
    )
