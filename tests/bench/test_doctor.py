"""`bench doctor`: what fails is named with what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from vitxai.bench import doctor
from vitxai.bench.cli import app
from vitxai.bench.contract import BadInputError
from vitxai.bench.doctor import Symptom, examine
from vitxai.bench.suite import SUITES, load_suite


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


def symptoms_of(table: str, folder: Path) -> dict[str, Symptom]:
    (folder / "mine.toml").write_text(table)
    return by_name(list(doctor._suite(load_suite(folder / "mine.toml"))))


SUITE = """
    name = "mine"
    n = 4
    explainers = ["rollout", "rollout@1", "rolout", "rollout,heads=3", "precomputed,path=no/maps.npz",
                  "focus,artefact=no/fit.safetensors", "*"]
    metrics = ["sparseness", "no_such_metric"]
    [[boards]]
    name = "here"
    dataset = "glyphs"
    models = ["timm,id=test_vit,random=true", "file,path=gone.safetensors"]
    [[boards]]
    name = "nowhere"
    dataset = "flowers102,path=no/such/folder"
    models = ["timm,id=test_vit,random=true", "timm,id=vit_tiny_patch16_224"]
"""


def test_a_suite_is_loaded_to_its_last_name(tmp_path: Path) -> None:
    found = symptoms_of(SUITE, tmp_path)
    assert found["data set glyphs"].state == "ok"
    there = found["model timm,id=test_vit,random=true"]
    assert there.state == "ok"
    assert there.text.startswith("input 3x160x160, 0.37 M parameters, weights ")
    gone = found["model file,path=gone.safetensors"].text
    assert "no checkpoint at gone.safetensors. The head of the suite's file may say how it is made." in gone
    assert found["data set flowers102,path=no/such/folder"].state == "fail"


def test_missing_plug_ins_of_a_suite_are_all_told_at_once(tmp_path: Path) -> None:
    found = symptoms_of(SUITE, tmp_path)
    assert "Did you mean rollout" in found["explainer rolout"].text
    assert "no parameter 'heads'" in found["explainer rollout,heads=3"].text
    assert "no/maps.npz" in found["explainer precomputed,path=no/maps.npz"].text
    assert "no artefact at no/fit.safetensors" in found["explainer focus,artefact=no/fit.safetensors"].text
    assert found["explainers of the suite"].text == "1 of 5 are there"
    assert found["metric no_such_metric"].state == "fail"
    assert found["metrics of the suite"].text == "1 of 2 are there"


def test_what_is_missing_comes_with_its_size_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = symptoms_of(SUITE, tmp_path)
    flowers = found["data set flowers102,path=no/such/folder"].text
    assert "no/such/folder" in flowers
    assert "MB" in flowers
    assert "robots.ox.ac.uk" in flowers
    assert "`bench data flowers102`" in flowers
    tiny = found["model timm,id=vit_tiny_patch16_224"].text
    assert "hf download timm/vit_tiny_patch16_224" in tiny
    assert "Their size: 23 MB" in tiny


def test_a_suite_that_lacks_nothing_has_no_complaint(tmp_path: Path) -> None:
    found = by_name(list(doctor._suite(load_suite("smoke"))))
    assert {symptom.state for symptom in found.values()} == {"ok"}


def test_the_command_looks_at_a_suite_on_other_data_too(tmp_path: Path) -> None:
    words = ["doctor", "--dataset", "voc,path=gone", "--model", "file,path=gone.safetensors", "--store", str(tmp_path)]
    with pytest.raises(BadInputError, match="name the --suite"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    result = CliRunner().invoke(app, [*words, "--suite", "smoke"], catch_exceptions=False)
    assert result.exit_code == 1
    assert f"no checkpoint at gone.safetensors. The head of {SUITES / 'smoke.toml'} may say" in result.output
    assert "data set voc,path=gone" in result.output
    assert "data set glyphs" not in result.output
