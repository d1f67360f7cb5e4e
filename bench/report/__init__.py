"""Leaderboards and the page, from a run's files only; no model is run."""

from __future__ import annotations

import logging
from pathlib import Path

from ..across_boards import across_boards
from . import across
from .gallery import gallery, read_gallery
from .leaderboard import as_csv, as_json, as_markdown
from .page import page
from .run_files import RunFiles, leaderboards, read_run

__all__ = ["RunFiles", "leaderboards", "read_run", "write_report"]

log = logging.getLogger(__name__)


def write_report(out: Path, run: RunFiles | None = None) -> tuple[Path, ...]:
    """Writes ``leaderboards/<board>.{csv,md,json}`` and ``index.html`` beside the run's files; returns their paths.

    A run of several boards also gets ``leaderboards/across_boards.{md,json}``.

    Args:
        run: its files where they are in memory already; read from ``out`` when None.

    Raises:
        BadInputError: the folder holds no finished run.
    """
    run = run or read_run(out)
    boards = leaderboards(run)
    folder = out / "leaderboards"
    folder.mkdir(exist_ok=True)
    written = []
    galleries = {}
    for board in boards:
        for suffix, text in (("csv", as_csv(board)), ("md", as_markdown(board)), ("json", as_json(board))):
            written.append(folder / f"{board.board}.{suffix}")
            written[-1].write_text(text, encoding="utf-8")
        pictures = out / "gallery" / f"{board.board}.npz"
        if pictures.is_file():
            galleries[board.board] = gallery(read_gallery(pictures), board, run.boards[board.board][0])
    together = across_boards(boards)
    if together:
        for suffix, text in (("md", across.as_markdown(together)), ("json", across.as_json(together))):
            written.append(folder / f"across_boards.{suffix}")
            written[-1].write_text(text, encoding="utf-8")
    written.append(out / "index.html")
    claims = (out / "claims.html").is_file()
    written[-1].write_text(page(boards, galleries, run.facts, together, claims), encoding="utf-8")
    log.info("wrote %d leaderboards to %s", len(boards), folder)
    return tuple(written)
