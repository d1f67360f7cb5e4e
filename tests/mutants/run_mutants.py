"""How much the gate sees and how often it cries wolf: seeded mutants and A/A pairs, on the micro suite.

    python tests/mutants/run_mutants.py mutants --write docs/gate.md
    python tests/mutants/run_mutants.py pairs --write docs/gate.md

Mutants are applied to a copy of the source, never to the working tree. All their runs share one store: keys hold the
source, so that only what a mutant touches is computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ROOMS = ("bench", "explainers", "metrics", "datasets", "models")
PYTHON = """
import json, sys
from pathlib import Path
from vitxai.bench.run import run_suite
from vitxai.bench.suite import load_suite, parse_suite

suite, out, store, changes, options = sys.argv[1:]
suite = load_suite(suite)
suite = parse_suite({**suite.model_dump(mode="json", exclude_none=True), **json.loads(changes)})
result = run_suite(suite, Path(out), Path(store), device="cpu", **json.loads(options))
print(json.dumps(result.counts["kinds"]))
"""


@dataclass(frozen=True)
class Mutant:
    """A mistake: ``old``, which stands exactly once in ``file``, becomes ``new``.

    Attributes:
        batch: mistakes of one batch are made together.
        explainer, figure: where this one, and no other of its batch, must be seen.
    """

    name: str
    file: str
    old: str
    new: str
    batch: str
    explainer: str
    figure: str


@dataclass(frozen=True)
class Verdict:
    """What the gate said of a run.

    Attributes:
        status: see ``GateResult``.
        seen: (explainer, figure) of every finding that blocks.
        computed: artefacts that the run had to compute, by kind.
    """

    status: str
    seen: tuple[tuple[str, str], ...]
    computed: Mapping[str, int]


def mutants() -> tuple[Mutant, ...]:
    """The list in mutants.toml."""
    table = tomllib.loads((HERE / "mutants.toml").read_text(encoding="utf-8"))
    return tuple(Mutant(**entry) for entry in table["mutants"])


def copy_source(tree: Path) -> Path:
    """Copies the project's packages to ``tree/vitxai``; on the import path, they come before the installed ones."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tree / "vitxai" / room, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return tree


@contextmanager
def applied(batch: Sequence[Mutant], tree: Path) -> Iterator[None]:
    """The mutants in the copied source, taken back afterwards."""
    sound = {mutant.file: (tree / "vitxai" / mutant.file).read_text(encoding="utf-8") for mutant in batch}
    for mutant in batch:
        file = tree / "vitxai" / mutant.file
        text = file.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            raise ValueError(
                f"{mutant.name}: {mutant.old!r} stands {text.count(mutant.old)} times in {mutant.file}, not once."
            )
        file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        yield
    finally:
        for name, text in sound.items():
            (tree / "vitxai" / name).write_text(text, encoding="utf-8")


def run(tree: Path, out: Path, store: Path, changes: Mapping[str, Any] | None = None, **options: Any) -> dict[str, int]:
    """Runs the micro suite on the source in ``tree`` in a process of its own; returns what was computed, by kind."""
    arguments = [str(HERE / "micro.toml"), str(out), str(store), json.dumps(changes or {}), json.dumps(options)]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PYTHON, *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(f"the run in {tree} failed:\n{done.stderr[-4000:]}")
    kinds = json.loads(done.stdout.splitlines()[-1])
    return {kind: counts.get("computed", 0) for kind, counts in kinds.items() if counts.get("computed")}


def judged(baseline: Path, fresh: Path, computed: Mapping[str, int]) -> Verdict:
    """The gate's verdict on a fresh run."""
    from vitxai.bench.gate import compare
    from vitxai.bench.gate_findings import BLOCKING

    result = compare(baseline, fresh)
    seen = tuple((f.explainer, f.column) for f in result.findings if f.kind in (*BLOCKING, "failed", "not_comparable"))
    return Verdict(result.status, seen, computed)


def hunt(workplace: Path) -> Iterator[tuple[Mutant, Verdict]]:
    """Runs the sound source once, then every batch of mutants against it; each with the part that is its own."""
    tree = copy_source(workplace / "source")
    baseline, store = workplace / "baseline", workplace / "store"
    run(tree, baseline, store)
    batches: dict[str, list[Mutant]] = {}
    for mutant in mutants():
        batches.setdefault(mutant.batch, []).append(mutant)
    for name, batch in batches.items():
        with applied(batch, tree):
            fresh = workplace / f"batch_{name}"
            verdict = judged(baseline, fresh, run(tree, fresh, store))
        for mutant in batch:
            seen = tuple(place for place in verdict.seen if place == (mutant.explainer, mutant.figure))
            yield mutant, Verdict(verdict.status if seen else "ok", seen, verdict.computed)


def pairs(workplace: Path, seeds: int) -> Iterator[tuple[str, Verdict]]:
    """A/A pairs of the sound source on two models, every run in processes of its own and with an empty store."""
    tree = copy_source(workplace / "source")
    board = tomllib.loads((HERE / "micro.toml").read_text(encoding="utf-8"))["boards"][0]
    two_models = {"boards": [board | {"models": [f"builtin,id=leaves_spectral,seed={seed}" for seed in (0, 1)]}]}
    for seed in range(seeds):
        sound = workplace / f"seed{seed}"
        run(tree, sound, workplace / f"store{seed}", two_models | {"seed": seed, "threads": 1}, workers=1)
        others: tuple[tuple[str, int, dict[str, int]], ...] = (
            ("two processes, work shuffled", 1, {"workers": 2, "shuffle": seed + 1}),
            ("two threads", 2, {"workers": 1}),
        )
        for place, (what, threads, options) in enumerate(others):
            fresh = workplace / f"seed{seed}again{place}"
            changes = two_models | {"seed": seed, "threads": threads}
            computed = run(tree, fresh, workplace / f"store{seed}again{place}", changes, **options)
            yield f"seed {seed}, {what}", judged(sound, fresh, computed)


def mutants_table(found: list[tuple[Mutant, Verdict]]) -> str:
    """Markdown: detection rate, and where each was looked for."""
    caught = sum(verdict.status == "regression" for _, verdict in found)
    lines = [
        f"**{caught} of {len(found)} mutants detected.**",
        "",
        "| mutant | file | seen in | detected |",
        "| --- | --- | --- | --- |",
    ]
    for mutant, verdict in found:
        place = f"{mutant.figure} of {mutant.explainer}"
        lines.append(
            f"| {mutant.name} | `{mutant.file}` | {place} | {'yes' if verdict.status == 'regression' else 'no'} |"
        )
    return "\n".join(lines)


def pairs_table(found: list[tuple[str, Verdict]]) -> str:
    """Markdown: false alarms among A/A pairs."""
    alarms = [(what, verdict) for what, verdict in found if verdict.status != "ok"]
    lines = [f"**{len(alarms)} false alarms in {len(found)} A/A pairs.**", ""]
    lines += [f"- {what}: {verdict.status}, {verdict.seen[:3]}" for what, verdict in alarms]
    lines.append("Pairs: " + "; ".join(what for what, _ in found) + ".")
    return "\n".join(lines)


def write_between(path: Path, mark: str, text: str) -> None:
    """Replaces what stands between ``<!-- mark -->`` and ``<!-- /mark -->``."""
    page = path.read_text(encoding="utf-8")
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    head, _, rest = page.partition(start)
    if not rest or end not in rest:
        raise ValueError(f"{path} has no place for it: write {start} and {end} on lines of their own.")
    path.write_text(f"{head}{start}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> int:
    """Exit code 0 when every mutant was seen, or no pair raised an alarm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mutants", "pairs"))
    parser.add_argument("--write", type=Path, help="page with the place for the table")
    parser.add_argument("--seeds", type=int, default=10, help="of the A/A pairs, two pairs each")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vitxai-mutants-") as folder:
        workplace = Path(folder)
        if given.what == "mutants":
            seen = _told(hunt(workplace))
            table, sound = mutants_table(seen), all(v.status == "regression" for _, v in seen)
        else:
            quiet = _told(pairs(workplace, given.seeds))
            table, sound = pairs_table(quiet), all(v.status == "ok" for _, v in quiet)
    if given.write:
        write_between(given.write, given.what, table)
    print(table)
    return 0 if sound else 1


def _told(found: Iterator[tuple[Any, Verdict]]) -> list[tuple[Any, Verdict]]:
    told = []
    for what, verdict in found:
        told.append((what, verdict))
        name = what.name if isinstance(what, Mutant) else what
        print(f"{verdict.status:15} {name} ({dict(verdict.computed)})", file=sys.stderr, flush=True)
    return told


if __name__ == "__main__":
    sys.exit(main())
