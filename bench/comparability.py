"""Why no figure of two runs may be compared: other settings, samples, weights or data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .contract import Spec
from .report.run_files import RunFiles


@dataclass(frozen=True)
class Obstacle:
    """One reason; ``board`` is empty where it concerns the runs as a whole."""

    board: str
    text: str


def obstacles(before: RunFiles, after: RunFiles) -> Iterable[Obstacle]:
    """All reasons, none where the runs may be compared; ``before`` is called the baseline."""
    for name, default in (("name", None), ("seed", None), ("n", None), ("target", None), ("split", "test")):
        old, new = before.suite.get(name, default), after.suite.get(name, default)
        if old != new:
            yield Obstacle("", f"suite {name}: {old} in the baseline, {new} now")
    yield from _other_content(before, after)
    yield from _other_parameters(before, after)
    old_samples, new_samples = _samples(before.scores), _samples(after.scores)
    for place in sorted(old_samples.keys() & new_samples.keys()):
        gone, come = old_samples[place] - new_samples[place], new_samples[place] - old_samples[place]
        if gone or come:
            yield Obstacle(place[0], f"{place[1]}: {len(gone)} samples of the baseline missing, {len(come)} new")
    for place in sorted(old_samples.keys() - new_samples.keys()):
        yield Obstacle(place[0], f"no scores on {place[1]} now; the baseline has them")


def _other_content(before: RunFiles, after: RunFiles) -> Iterable[Obstacle]:
    """Models and data sets that are no longer what they were."""
    old, new = _cells(before), _cells(after)
    for place in sorted(old.keys() & new.keys()):
        for name, title in (("weights_hash", "weights"), ("dataset_hash", "data set"), ("dtype", "dtype")):
            was, now = old[place].get(name), new[place].get(name)
            if was is not None and now is not None and was != now:
                yield Obstacle(place[0], f"{title} of {place[1]}: {was} in the baseline, {now} now")


def _other_parameters(before: RunFiles, after: RunFiles) -> Iterable[Obstacle]:
    """Metrics that bear one name in both runs and are not the same: tables leave parameters out where they can."""
    old, new = _metrics(before), _metrics(after)
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            yield Obstacle("", f"metric {name}: {old[name]} in the baseline, {new[name]} now")


def _metrics(run: RunFiles) -> dict[str, str]:
    """Name in the tables -> spec."""
    specs = dict.fromkeys(spec for board in run.suite.get("boards", ()) for spec in board.get("metrics") or ())
    names = Counter(Spec.parse(spec).name for spec in specs)
    found: dict[str, str] = {}
    for spec in specs:
        name = Spec.parse(spec).name
        found[name if names[name] == 1 else spec] = spec
    return found


def _cells(run: RunFiles) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(cell["board"], cell["model"]): cell for cell in run.facts["cells"]}


def _samples(scores: pd.DataFrame) -> dict[tuple[str, str], set[str]]:
    unique = scores[["board", "model", "sample"]].drop_duplicates()
    return {
        (str(board), str(model)): set(group["sample"])
        for (board, model), group in unique.groupby(["board", "model"], sort=False)
    }
