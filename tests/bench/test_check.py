"""`bench check`: every rule of the contract catches the plug-in that breaks it, and says how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitxai.bench.check import check, check_file
from vitxai.bench.check_findings import Verdict
from vitxai.bench.contract import BadInputError, UnknownNameError

EXPLAINER = """
import torch
from vitxai.bench.contract import Explainer, Explanation, UnsupportedError, explainer

@explainer("{name}", needs={needs})
class Plugin(Explainer):
    {docstring}

    {field}

    def explain(self, model, batch, ctx):
        geometry = model.geometry
        if geometry is None:
            raise UnsupportedError("no grid")
        values = batch.inputs.mean(1).flatten(1)[:, :1].repeat(1, geometry.tokens)
        {body}
        return Explanation.of_tokens(values, geometry)
"""

METRIC = """
import numpy as np
import torch
from vitxai.bench.contract import Column, Metric, Values, metric

@metric("{name}", columns=({columns},), version=1)
class Plugin(Metric):
    '''Mean of the map.'''

    def score(self, model, batch, explanation, ctx):
        values = explanation.native.flatten(1).mean(1).sigmoid()
        {body}
        return {{"{name}": Values.of(values)}}
"""

DATASET = """
import hashlib
import numpy as np
from vitxai.bench.contract import BadInputError, Dataset, DatasetInfo, Sample, dataset

IDS = {{"fit": ["f0", "f1"], "validation": ["v0"], "test": ["t0", "t1"]}}
calls = []

@dataset("{name}")
class Plugin(Dataset):
    '''Noise.'''

    def info(self):
        return DatasetInfo(("a", "b"), 3, frozenset({{"labels", "mask"}}), "CC0-1.0", "noise")

    def ids(self, split, count=None):
        return IDS[split][:count]

    def sample(self, id):
        if id not in sum(IDS.values(), []):
            raise BadInputError(id)
        seed = list(hashlib.sha256(id.encode()).digest())
        image = np.random.default_rng(seed).random((3, 8, 8), dtype=np.float32)
        sample = dict(id=id, input=image, label=0, mask=np.ones((8, 8), dtype=bool))
        calls.append(id)
        {body}
        return Sample(**sample)

    def content_hash(self):
        return "1"
"""


@pytest.fixture
def written(tmp_path: Path, request: pytest.FixtureRequest):
    """``written(template, body)``: the verdict on a plug-in with these lines in its main method."""

    def write(template: str, body: str = "pass", **words: str) -> Verdict:
        # Registries live as long as the process: every plug-in needs its own name.
        name = "plugin_" + "".join(c if c.isalnum() else "_" for c in request.node.name.lower())
        words = {
            "needs": "()",
            "docstring": "'''Mean input.'''",
            "field": "scale: float = 1.0",
            "columns": f'Column("{name}", "higher", (0, 1), "mean")',
            **words,
        }
        file = tmp_path / f"{name}.py"
        file.write_text(template.format(name=name, body=body, **words))
        (verdict,) = check_file(file)
        return verdict

    return write


def broken_rules(verdict: Verdict) -> dict[str, str]:
    assert all(finding.remedy for finding in verdict.failures)
    return {finding.rule: finding.problem for finding in verdict.failures}


@pytest.mark.parametrize("template", [EXPLAINER, METRIC, DATASET], ids=["explainer", "metric", "dataset"])
def test_good_plugins_break_no_rule(written, template: str) -> None:
    verdict = written(template)
    assert broken_rules(verdict) == {}
    assert str(verdict).endswith(": ok")


@pytest.mark.parametrize(
    ("body", "rule", "problem"),
    [
        ("values = values / 0", "one finite map a sample, detached", "NaN or infinite values on an RGB ViT"),
        ("values = values.long()", "one finite map a sample, detached", "dtype torch.int64"),
        ("values = values[:1]", "one finite map a sample, detached", "1 maps for 4 samples"),
        ("return values", "maps are made, or refused with a reason", "explain returned Tensor"),
        ("raise UnsupportedError('not today')", "maps are made, or refused with a reason", "refused everywhere"),
        ("1 / 0", "maps are made, or refused with a reason", "ZeroDivisionError"),
        ("values = values + torch.rand(1)", "the same seed gives the same map", "differ by up to"),
        ("values = values / values.abs().max()", "a sample's map does not depend on its batch", "one by one"),
        ("values = values + batch.inputs[0].mean()", "a sample's map does not depend on its batch", "one by one"),
        (
            "list(model.module.parameters())[0].data.mul_(1.0001)",
            "model, hooks, modes, random states and inputs are left as found",
            "parameters",
        ),
        (
            "model.module.register_forward_hook(lambda *a: None)",
            "model, hooks, modes, random states and inputs are left as found",
            "hooks",
        ),
        (
            "batch.inputs.mul_(1.0001)",
            "model, hooks, modes, random states and inputs are left as found",
            "the tensors that it was given",
        ),
        (
            "torch.rand(1)",
            "model, hooks, modes, random states and inputs are left as found",
            "torch's global random state",
        ),
    ],
)
def test_misbehaving_explainers(written, body: str, rule: str, problem: str) -> None:
    assert problem in broken_rules(written(EXPLAINER, body))[rule]


def test_a_made_up_grid_is_no_grid(written) -> None:
    template = EXPLAINER.replace(
        'raise UnsupportedError("no grid")',
        "from vitxai.bench.contract import TokenGeometry; geometry = TokenGeometry((4, 4), 1, 'token', (16, 16), 3)",
    )
    assert "geometry is None" in broken_rules(written(template))["a model without a token grid is refused"]


@pytest.mark.parametrize(
    ("words", "rule", "problem"),
    [
        ({"docstring": "pass"}, "the class says what it computes", "no docstring"),
        ({"field": "scale = 1.0"}, "parameters are typed and have defaults", "scale has no type"),
        ({"needs": "('attentions',)"}, "needs are known words", "attentions"),
    ],
)
def test_wrong_declarations(written, words: dict[str, str], rule: str, problem: str) -> None:
    assert problem in broken_rules(written(EXPLAINER, **words))[rule]


@pytest.mark.parametrize(
    ("body", "rule", "problem"),
    [
        ("values = values * 3", "values lie in the declared range", "outside [0, 1]"),
        ("values = values / 0", "values are given, or refused with a reason", "are not finite and no reason"),
        ("values = values / values.max()", "a sample's value does not depend on its batch", "in its batch"),
        ("values = (values + torch.rand(1)) / 2", "the same call gives the same values", "differs between two calls"),
        (
            "return {'other': Values.of(values)}",
            "exactly the declared columns, float64, one value a sample",
            "gave other; declared are",
        ),
        ("return {}", "exactly the declared columns, float64, one value a sample", "gave nothing"),
        (
            "explanation.native.mul_(0.5)",
            "model, hooks, modes, random states, maps and inputs are left as found",
            "the tensors that it was given",
        ),
    ],
)
def test_misbehaving_metrics(written, body: str, rule: str, problem: str) -> None:
    assert problem in broken_rules(written(METRIC, body))[rule]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("pass; return {list(d)[0]: Values(np.full(4, np.nan), ('',) * 4)}", "is nan without a reason"),
        ("pass; return {list(d)[0]: Values(np.zeros(4), ('why',) * 4)}", "and undefined: why"),
    ],
)
def test_reasons_belong_to_nan(written, body: str, problem: str) -> None:
    body = body.replace("pass; return {list(d)[0]", "return {self.columns[0].name")
    body = body.replace("4", "len(batch)")
    assert problem in broken_rules(written(METRIC, body))["every NaN has a reason, and no number has one"]


def test_a_metric_must_declare_sound_columns(written) -> None:
    verdict = written(METRIC, columns='Column("Bad-Name", "higher", (1, 0), "")')
    assert "snake_case" in broken_rules(verdict)["columns are declared with name, range and description"]


@pytest.mark.parametrize(
    ("body", "rule", "problem"),
    [
        (
            "sample['input'] = image.astype('float64')",
            "samples have the announced shapes and types",
            "float64 [3, 8, 8]",
        ),
        ("sample['input'] = image * np.nan", "samples have the announced shapes and types", "NaN or infinity"),
        ("sample['label'] = 2", "samples have the announced shapes and types", "label 2 of 2 classes"),
        ("sample['mask'] = np.ones((8, 8))", "samples have the announced shapes and types", "mask of f0 is float64"),
        ("sample['mask'] = None", "samples carry the announced truths", "carries nothing; announced is mask"),
        ("sample['id'] = 'x'", "samples have the announced shapes and types", "sample('f0') gave 'x'"),
        ("sample['input'] = image * len(calls)", "a sample is a pure function of its id", "input of f0 differs"),
    ],
)
def test_misbehaving_datasets(written, body: str, rule: str, problem: str) -> None:
    assert problem in broken_rules(written(DATASET, body))[rule]


@pytest.mark.parametrize(
    ("old", "new", "rule", "problem"),
    [
        ('["v0"]', '["f0"]', "ids are unique, stable, and splits share none", "fit and validation share 1 ids"),
        ('["t0", "t1"]', '["t0", "t0"]', "ids are unique, stable, and splits share none", "holds an id twice"),
        ("[:count]", "[:count][::-1]", "ids are unique, stable, and splits share none", "is not the beginning"),
        ("raise BadInputError(id)", "pass", "unknown ids are refused", "was answered"),
        ('return "1"', "return str(id(self))", "the content hash is stable", "changes though nothing did"),
        ('"CC0-1.0"', '""', "the facts are complete", "licence or citation is empty"),
    ],
)
def test_unsound_datasets(written, old: str, new: str, rule: str, problem: str) -> None:
    assert problem in broken_rules(written(DATASET.replace(old, new)))[rule]


def test_a_file_that_cannot_be_imported_is_a_verdict(tmp_path: Path) -> None:
    file = tmp_path / "typo.py"
    file.write_text("x = 1\ndef broken(:\n")
    (verdict,) = check(file)
    assert "SyntaxError" in str(verdict)
    assert "line 2" in str(verdict)
    file = tmp_path / "raises.py"
    file.write_text("x = 1\nx / 0\n")
    (verdict,) = check(file)
    assert "ZeroDivisionError: division by zero (raises.py, line 2)" in str(verdict)


def test_a_file_without_a_plugin_says_so(tmp_path: Path) -> None:
    file = tmp_path / "nothing.py"
    file.write_text("x = 1\n")
    (verdict,) = check(file)
    assert "none is defined here. Decorate a class with @explainer" in str(verdict)


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean rollout"):
        check("rolout")
    with pytest.raises(BadInputError, match="no plug-in file at"):
        check(tmp_path / "gone.py")


def test_a_file_of_the_project_is_checked_as_the_project_sees_it() -> None:
    import vitxai.explainers.raw_attention as module

    (verdict,) = check(module.__file__)
    assert verdict.passed, str(verdict)
    assert [f.outcome for f in verdict.findings if f.rule == "the file bears the plug-in's name"] == ["ok"]


def test_a_dataset_that_needs_a_path_is_skipped_without_one() -> None:
    (verdict,) = check("voc")
    assert verdict.passed
    assert [f.remedy for f in verdict.findings if f.rule == "it can be made"] == [
        "Give its parameters: bench check voc,key=value"
    ]
