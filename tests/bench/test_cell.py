"""A cell's work inside this process: facts, probes, own models, rehearsal, pictures."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vitxai.bench.cell import CellWork, load_cell
from vitxai.bench.cell_plan import CellPlan, cells_of, plan_cell
from vitxai.bench.contract import BadInputError, Batch, Model, Spec, UnsupportedError, datasets
from vitxai.bench.display import pictures
from vitxai.bench.memory import is_out_of_memory, keep_freed_memory, row_bytes, rows_per_pass
from vitxai.bench.probes import packed, unpacked
from vitxai.bench.rehearsal import rehearse
from vitxai.bench.run import resolve_suite
from vitxai.bench.scoring import add_scores, checked
from vitxai.bench.tasks import Clean, Explain, Fit, Outcome, Rehearse, Score
from vitxai.models.handle import wrap

MISBEHAVING = Path(__file__).parent / "plugins" / "misbehaving.py"
HARMLESS = ("tiny_gradient", "tiny_attention", "tiny_noise", "tiny_fitted")
CAUGHT = ("bad_raises", "bad_nan", "bad_shape", "bad_parameters", "bad_raises_and_hooks", "refuses")


@pytest.fixture
def prepare(
    make_suite: Callable, tiny_plugins: tuple[Path, ...], tmp_path: Path
) -> Callable[..., tuple[CellWork, CellPlan]]:
    """The work and the plan of the one cell of a tiny suite."""

    def make(**settings: object) -> tuple[CellWork, CellPlan]:
        plugins = (*tiny_plugins, MISBEHAVING)
        suite = resolve_suite(make_suite(**settings), plugins)
        ((board, cell),) = cells_of(suite, store=tmp_path, device="cpu", plugins=plugins)
        work, facts = load_cell(cell)
        return work, plan_cell(suite, board, cell, facts)

    return make


def run_all(work: CellWork, plan: CellPlan) -> dict[str, Outcome]:
    return {task.label: work.run(task) for task in plan.tasks if task.refusal is None}


def test_labels_of_another_set_of_classes_count_as_unknown(
    prepare: Callable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model of 4 classes on data of 5: equal numbers mean nothing."""
    squares = datasets.get("tiny_squares")
    four = squares.info
    monkeypatch.setattr(squares, "info", lambda self: replace(four(self), classes=("a", "b", "c", "d", "e")))
    work, plan = prepare(n=4, chunk=4)
    said = r"tiny_0.pt has 4 classes and tiny_squares 5: .*bench train"
    assert re.search(said, caplog.text)
    assert re.search(said, dict(plan.facts.provenance)["labels"])
    assert "labels" in plan.facts.missing_truths
    clean = work.run(next(task for task in plan.tasks if isinstance(task, Clean)))
    assert clean.header.status == "ok"
    assert (work.samples.collate(plan.facts.ids).labels == -1).all()
    with pytest.raises(UnsupportedError, match=f"learns from labels.*{said}"):
        work.samples.fit_data("fit", 4, labels=True)
    assert (work.samples.fit_data("fit", 4, labels=False).labels == -1).all()


def test_facts_of_a_cell(prepare: Callable) -> None:
    work, plan = prepare(n=6, chunk=4)
    facts = plan.facts
    assert facts.ids == tuple(f"test/{i:03d}" for i in range(6))
    assert [len(ids) for ids in plan.chunks] == [4, 2]
    assert (facts.channels, facts.input_size, facts.device, facts.dtype) == (3, (16, 16), "cpu", "float32")
    assert facts.no_attention == ""
    assert {"bands", "healed", "leaf", "distractors", "spectrum"} == facts.missing_truths
    assert facts.max_rows == 64
    assert work.frozen.model.weights_hash == facts.weights_hash


def test_a_model_of_other_channels_is_refused(prepare: Callable, make_suite: Callable, tmp_path: Path) -> None:
    work, _ = prepare()
    cell = replace(work.cell, dataset=Spec("leaves"))
    with pytest.raises(BadInputError, match=r"eats 3 channels; leaves has \d+"):
        load_cell(cell)


def test_every_task_of_harmless_plug_ins_ends_well(prepare: Callable) -> None:
    work, plan = prepare(n=6, chunk=4, batch_size=2, explainers=HARMLESS)
    outcomes = run_all(work, plan)
    assert {outcome.header.status for outcome in outcomes.values()} == {"ok"}
    assert not any(outcome.recycle for outcome in outcomes.values())
    kinds = Counter(type(task) for task in plan.tasks if task.refusal is None)
    assert kinds[Clean] == 2
    assert kinds[Fit] == 1
    assert kinds[Explain] == 2 * len(HARMLESS)
    for task in plan.tasks:
        if task.refusal is None:
            assert work.store.peek(task.kind, task.key) is not None


def test_failures_are_stored_with_status_and_the_worker_asks_to_be_replaced(prepare: Callable) -> None:
    expected = {
        "bad_raises": ("error", False, False),
        "bad_nan": ("error", False, False),
        "bad_shape": ("error", False, False),
        "bad_parameters": ("error", True, True),
        "bad_raises_and_hooks": ("error", False, True),
        "refuses": ("unsupported", False, False),
    }
    for name, (status, fatal, recycle) in expected.items():
        work, plan = prepare(n=2, chunk=2, explainers=(name,))
        clean = next(task for task in plan.tasks if isinstance(task, Clean))
        task = next(task for task in plan.tasks if isinstance(task, Explain) and task.explainer == Spec(name))
        work.run(clean)
        outcome = work.run(task)
        assert (outcome.header.status, outcome.header.fatal, outcome.recycle) == (status, fatal, recycle), name
        stored = work.store.read("explanation", task.key)
        assert stored == outcome.header


def test_probes_are_shared_by_methods_and_outlive_the_worker(prepare: Callable) -> None:
    work, plan = prepare(n=4, chunk=4, explainers=("tiny_gradient", "tiny_noise"))
    outcomes = run_all(work, plan)
    computed = {label: o.probes_computed for label, o in outcomes.items() if o.probes_computed}
    assert computed == {"tiny_drop of tiny_gradient, chunk 0": 1, "tiny_drop of tiny_fitted, chunk 0": 1}
    again, _ = prepare(n=4, chunk=4, explainers=("tiny_gradient", "tiny_noise"))
    task = next(t for t in plan.tasks if isinstance(t, Score) and t.label == "tiny_drop of tiny_noise, chunk 0")
    outcome = again.run(task)
    assert (outcome.probes_computed, outcome.probes_reused) == (0, 1)
    assert outcome.header.record == outcomes[task.label].header.record


def test_a_missing_explanation_is_told_not_guessed(prepare: Callable) -> None:
    work, plan = prepare(n=2, chunk=2, explainers=("tiny_noise",))
    work.run(next(task for task in plan.tasks if isinstance(task, Clean)))
    outcome = work.run(next(task for task in plan.tasks if isinstance(task, Score) and task.explanation))
    assert outcome.header.status == "error"
    assert "is gone or damaged" in outcome.header.reason


def test_fit_data_hide_labels_unless_asked_for(prepare: Callable) -> None:
    work, _ = prepare(validation_n=5)
    ctx = work.context()
    assert set(ctx.data("validation", 8).labels.tolist()) == {-1}
    shown = ctx.data("validation", 8, labels=True)
    assert shown.labels.tolist() == [0, 1, 2, 3, 0]  # the suite's validation_n
    assert len(ctx.data("fit", 8)) == 8
    with torch.no_grad():
        assert torch.equal(shown.targets, work.frozen.model(shown.inputs).argmax(1))
    shown.inputs.zero_()
    assert work.samples.changed()
    assert not work.samples.changed()


def test_a_rehearsal_counts_rows_and_stores_nothing(prepare: Callable) -> None:
    work, _ = prepare()
    request = Rehearse(
        tuple(Spec(name) for name in (*HARMLESS, "bad_raises")), (Spec("tiny_drop"), Spec("tiny_accuracy"))
    )
    found = rehearse(work, request)
    assert set(found.explainers) == {Spec("tiny_gradient"), Spec("tiny_attention"), Spec("tiny_noise")}
    gradient = found.explainers[Spec("tiny_gradient")]
    assert (gradient.forwards, gradient.backwards) == (1, 1)
    assert found.metrics[Spec("tiny_drop")].forwards == 2
    assert found.metrics_again[Spec("tiny_accuracy")].forwards == 1
    assert found.forward_s > 0
    assert list(work.store.root.rglob("*.*")) == []


class TestMemory:
    def test_rows_grow_with_memory_in_powers_of_two(self) -> None:
        assert rows_per_pass(10**6, 0.04, "cpu") == 8
        assert rows_per_pass(10**6, 100, "cpu") == 64
        assert rows_per_pass(10**7, 100, "cpu") == 8  # beyond the caches more rows are no faster
        assert rows_per_pass(10**6, 100, "cuda") == 512
        assert rows_per_pass(10**12, 1, "cpu") == 1

    def test_bytes_of_a_row_count_attention_matrices(self, tiny_models: tuple[str, str]) -> None:
        from vitxai.models.load import load_model

        model = load_model(tiny_models[0])
        tokens, heads, blocks = 17, 2, 2
        outputs = []
        parts = [part for part in model.module.modules() if part is not model.module]
        hooks = [part.register_forward_hook(lambda _, __, output: outputs.append(output.nbytes)) for part in parts]
        model(torch.zeros(1, model.channels, *model.input_size))
        for hook in hooks:
            hook.remove()
        assert row_bytes(model) == sum(outputs) + 2 * blocks * heads * tokens**2 * 4
        assert not any(part._forward_hooks for part in model.module.modules())

    @pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
    def test_freed_memory_is_used_again_instead_of_coming_fresh_from_the_kernel(self) -> None:
        # A process of its own: the setting is for good.
        faults = """
import resource, torch
from vitxai.bench.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
torch.set_num_threads(1)
fresh = faults()
assert keep_freed_memory()
faults()
print(fresh, faults())
"""
        # Without its options glibc would adjust itself to the first blocks that it frees.
        command = [sys.executable, "-c", faults]
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
        )
        fresh, kept = map(int, said.stdout.split())
        assert fresh > 20 * 1000
        assert kept < 100

    def test_elsewhere_nothing_is_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vitxai.bench.memory.ctypes.CDLL", lambda name: object())
        assert not keep_freed_memory()

    def test_which_errors_mean_memory(self) -> None:
        assert is_out_of_memory(MemoryError())
        assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
        assert not is_out_of_memory(RuntimeError("shapes do not match"))
        assert not is_out_of_memory(ValueError("out of memory"))


class TestProbes:
    @pytest.mark.parametrize(
        "value", [torch.arange(3), [torch.zeros(1), torch.ones(2)], (torch.ones(1),), {"a": torch.eye(2)}], ids=str
    )
    def test_forms_round_trip(self, value: object) -> None:
        artefact = packed(value)
        assert artefact is not None
        back = unpacked(artefact, torch.device("cpu"))
        assert type(back) is type(value)
        assert str(back) == str(value)

    @pytest.mark.parametrize("value", [3, [], {}, [torch.ones(1), 2], {"a": "b"}], ids=str)
    def test_anything_else_stays_in_memory(self, value: object) -> None:
        assert packed(value) is None


class TestScoring:
    def test_values_without_reasons_must_be_finite(self) -> None:
        import numpy as np

        from vitxai.bench.contract import Values

        bare = Values(np.array([np.nan]), ("",))
        with pytest.raises(BadInputError, match="'a' has values that are not finite"):
            add_scores({"a": ([], [])}, {"a": bare}, 1)
        with pytest.raises(BadInputError, match="1 values for 2 samples"):
            add_scores({"a": ([], [])}, {"a": Values(np.zeros(1), ("",))}, 2)
        with pytest.raises(BadInputError, match="'a' is a list"):
            add_scores({"a": ([], [])}, {"a": [0.0]}, 1)

    def test_only_explanations_of_this_batch_pass(self, tiny_models: tuple[str, str]) -> None:
        from vitxai.bench.contract import Explanation
        from vitxai.models.load import load_model

        model = load_model(tiny_models[0])
        assert model.geometry is not None
        batch = Batch(("a",), torch.zeros(1, 3, 16, 16), torch.zeros(1).long(), torch.zeros(1).long())
        good = Explanation(torch.zeros(1, 4, 4), "token", model.geometry)
        assert checked(good, batch, model) is good
        with pytest.raises(BadInputError, match="returned Tensor"):
            checked(good.native, batch, model)
        with pytest.raises(BadInputError, match="int64"):
            checked(replace(good, native=good.native.long()), batch, model)
        other = replace(model.geometry, head_tokens=(), pooling="avg")
        with pytest.raises(BadInputError, match="geometry of another model"):
            checked(replace(good, geometry=other), batch, model)


class TestPictures:
    @staticmethod
    def model(channels: int) -> Model:
        module = torch.nn.Conv2d(channels, 2, 1)
        return wrap(module, mean=(0.5,) * channels, std=(0.5,) * channels, input_size=(2, 2))

    def test_rgb_is_shown_as_it_was_before_normalisation(self) -> None:
        colour = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
        batch = Batch(("a",), (colour - 0.5) / 0.5, torch.zeros(1).long(), torch.zeros(1).long())
        shown = pictures(self.model(3), batch, ())
        assert set(shown) == {"image"}
        assert shown["image"][0, 0, 0].tolist() == [0, 128, 255]

    def test_bands_nearest_to_red_green_and_blue_stand_for_them(self) -> None:
        wavelengths = (450.0, 552.0, 640.0, 1200.0, 1450.0, 1655.0)
        cube = torch.linspace(0.1, 0.6, 6).view(1, 6, 1, 1).expand(1, 6, 2, 2)
        batch = Batch(("a",), (cube - 0.5) / 0.5, torch.zeros(1).long(), torch.zeros(1).long())
        shown = pictures(self.model(6), batch, wavelengths)
        assert shown["image"][0, 0, 0].tolist() == [255, 170, 85]  # 0.3, 0.2, 0.1 over 0.3
        assert shown["infrared"][0, 0, 0].tolist() == [255, 212, 170]  # 0.6, 0.5, 0.4 over 0.6

    def test_without_bands_near_enough_the_mean_is_shown_in_grey(self) -> None:
        cube = torch.linspace(0.1, 0.4, 4).view(1, 4, 1, 1).expand(1, 4, 2, 2)
        batch = Batch(("a",), (cube - 0.5) / 0.5, torch.zeros(1).long(), torch.zeros(1).long())
        shown = pictures(self.model(4), batch, (900.0, 920.0, 940.0, 960.0))
        assert shown["image"][0, 0, 0].tolist() == [255, 255, 255]
        assert "infrared" not in shown
