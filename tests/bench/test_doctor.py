"""`bench doctor`: what fails is named with what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitxai.bench import doctor
from vitxai.bench.doctor import Symptom, examine


def by_name(symptoms: list[Symptom]) -> dict[str, Symptom]:
    return {symptom.what: symptom for symptom in symptoms}


def test_this_installation_is_well(tmp_path: Path) -> None:
    found = by_name(list(examine(tmp_path / "store")))
    assert [s for name, s in found.items() if s.state == "fail" and not name.startswith("builtin")] == []
    assert {"python", "torch", "timm", "processor", "store", "explainers", "metrics", "datasets"} <= set(found)
    assert "0 artefacts" in found["store"].text


def test_a_missing_requirement_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["no-such-package>=3", "torch>=999", 'quantus>=0.6; extra == "quantus"']
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    found = by_name(list(doctor._versions()))
    assert found["no-such-package"].state == "fail"
    assert "pip install 'no-such-package>=3'" in found["no-such-package"].text
    assert found["torch"].state == "fail"
    assert "is installed; pip install 'torch>=999'" in found["torch"].text
    assert found["quantus"].state in ("ok", "note")


def test_a_store_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    symptom = doctor._store(tmp_path / "file" / "store")
    assert symptom.state == "fail"
    assert "VITXAI_STORE" in symptom.text


def test_a_broken_plugin_file_fails(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("1 / 0")
    found = by_name(list(doctor._plugins([file])))
    assert found["bad.py"].state == "fail"
    assert "ZeroDivisionError" in found["bad.py"].text


def test_a_suite_is_loaded_to_its_last_name(tmp_path: Path) -> None:
    suite = tmp_path / "mine.toml"
    suite.write_text(
        """
        name = "mine"
        n = 4
        explainers = ["rollout"]
        metrics = ["sparseness"]
        [[boards]]
        name = "here"
        dataset = "glyphs"
        models = ["timm,id=test_vit,random=true", "file,path=gone.safetensors"]
        [[boards]]
        name = "nowhere"
        dataset = "voc,path=no/such/folder"
        models = ["timm,id=test_vit,random=true"]
        """
    )
    found = by_name(list(doctor._suite(str(suite))))
    assert found["here: glyphs"].state == "ok"
    assert found["here: timm,id=test_vit,random=true"].text == "input 3x160x160"
    assert "no checkpoint at gone.safetensors" in found["here: file,path=gone.safetensors"].text
    assert found["nowhere: voc,path=no/such/folder"].state == "fail"
