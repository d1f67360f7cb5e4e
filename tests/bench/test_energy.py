"""Energy: counters that begin anew, machines without one, and the columns that appear only where there is one."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vitxai.bench import profile
from vitxai.bench.collect import _plain_costs
from vitxai.bench.context import EngineContext
from vitxai.bench.contract import Batch, explainers
from vitxai.bench.energy import energy_counter, joules_of
from vitxai.models.load import load_model

CPU = torch.device("cpu")


def package(root: Path, folder_name: str, microjoules: int, most: int = 999_999, name: str = "package") -> Path:
    folder = root / folder_name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_packages_are_summed_without_their_parts_and_may_begin_anew(tmp_path: Path) -> None:
    first = package(tmp_path, "intel-rapl:0", 900_000, name="package-0")
    second = package(tmp_path, "intel-rapl:1", 100, name="package-1")
    part, all_of_it = (
        package(tmp_path, "intel-rapl:0:0", 5, name="core"),
        package(tmp_path, "intel-rapl:2", 7, name="psys"),
    )
    counter = energy_counter(CPU, tmp_path)
    assert counter is not None
    assert counter() == 0
    first.write_text("950000")
    part.write_text("900000")
    all_of_it.write_text("900000")
    assert counter() == pytest.approx(0.05)
    first.write_text("50000")  # past 999,999
    second.write_text("200100")
    assert counter() == pytest.approx(0.05 + 0.1 + 0.2)


def test_without_a_readable_counter_there_is_none(tmp_path: Path) -> None:
    assert energy_counter(CPU, tmp_path) is None
    package(tmp_path, "intel-rapl:0", 1).unlink()
    assert energy_counter(CPU, tmp_path) is None
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("what")
    assert energy_counter(CPU, tmp_path) is None


def test_calls_are_repeated_for_a_while_and_at_least_once() -> None:
    spent, calls = [0.0], []

    def call() -> None:
        calls.append(1)
        spent[0] += 2.0
        time.sleep(0.01)

    assert joules_of(call, lambda: spent[0], CPU, seconds=0.05) == pytest.approx(2.0)
    assert len(calls) > 1
    calls.clear()
    joules_of(call, lambda: spent[0], CPU, seconds=0.0)
    assert len(calls) == 1


def test_an_nvidia_device_tells_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    told = SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: {"GPU-abc": 2500}[handle],
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", told)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    counter = energy_counter(torch.device("cuda"))
    assert counter is not None
    assert counter() == 2.5

    def silent(handle: str) -> int:
        raise NVMLError("not supported")

    told.nvmlDeviceGetTotalEnergyConsumption = silent
    assert energy_counter(torch.device("cuda")) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_counter(torch.device("cuda")) is None


def test_costs_have_energy_only_where_a_driver_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("builtin,id=glyphs")
    batch = Batch(("a", "b"), torch.zeros(2, 3, *model.input_size), torch.zeros(2).long(), torch.zeros(2).long())

    def costs() -> dict[str, float]:
        method = explainers.create("rollout")
        return profile.profile_explainer(method, model, batch, EngineContext, pairs=1)

    monkeypatch.setattr(profile, "energy_counter", lambda device: None)
    without = costs()
    assert not {"energy_joules", "energy_ratio"} & set(without)
    assert "energy_joules" not in _plain_costs([without], 1)
    told = iter([6.0, 18.0])
    monkeypatch.setattr(profile, "energy_counter", lambda device: lambda: 0.0)
    monkeypatch.setattr(profile, "joules_of", lambda call, counter, device: next(told))
    found = costs()
    assert (found["energy_joules"], found["energy_ratio"]) == (9.0, 3.0)
    plain = _plain_costs([found], 1)
    assert (plain["energy_joules"], plain["energy_ratio"]) == (3.0, 1.0)
