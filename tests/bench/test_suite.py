"""Suites: what is read, what is refused and in which words."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from vitxai.bench.cli import app
from vitxai.bench.cli_options import chosen_suite
from vitxai.bench.contract import BadInputError, Spec, UnknownNameError, datasets
from vitxai.bench.recipes import recipe
from vitxai.bench.suite import SUITES, load_suite, parse_suite, suite_names

MINIMAL = """
name = "mine"
n = 4
explainers = ["rollout"]
metrics = ["sparseness"]
[[boards]]
name = "glyphs"
dataset = "glyphs"
models = ["builtin,id=glyphs,seed=0"]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_shipped_suites_are_read_and_name_three_boards() -> None:
    assert {"default", "smoke"} <= set(suite_names())
    default, smoke = load_suite("default"), load_suite("smoke")
    assert [board.name for board in default.boards] == [board.name for board in smoke.boards]
    assert default.n >= 64
    assert all(len(board.models) >= 3 for board in default.boards)  # charter 7


def test_defaults_and_specs_in_both_spellings(tmp_path: Path) -> None:
    table = '{ name = "integrated_gradients", steps = 20 }'
    suite = load_suite(written(tmp_path, MINIMAL.replace('["rollout"]', f'["rollout", {table}]')))
    assert (suite.chunk, suite.batch_size, suite.threads, suite.target) == (16, 16, 1, "prediction")
    assert suite.explainers[1] == Spec("integrated_gradients", {"steps": 20})
    assert suite.explainers_of(suite.boards[0]) == suite.explainers


def test_a_board_may_have_lists_of_its_own(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, MINIMAL + 'explainers = ["random"]\n'))
    assert [str(spec) for spec in suite.explainers_of(suite.boards[0])] == ["random"]
    assert suite.metrics_of(suite.boards[0]) == suite.metrics


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("n = 4", "n = 0", ["mine.toml", "'n'", "0", "greater than 0"]),
        ("n = 4", 'n = "many"', ["'n'", "many", "integer"]),
        ("n = 4", "", ["'n' is missing"]),
        ("n = 4", "n = 4\nchunks = 3", ["unknown key 'chunks'", "Did you mean 'chunk'", "batch_size"]),
        ("n = 4", 'n = 4\ntarget = "guess"', ["'target'", "guess", "prediction", "label", "runner_up"]),
        ('["rollout"]', '["rollout,steps"]', ["explainers.0", "key=value"]),
        ('["rollout"]', '["rollout", "rollout"]', ["rollout", "twice", "explainers"]),
        ('["sparseness"]', '["sparseness", "sparseness"]', ["sparseness", "twice", "metrics"]),
        ('["rollout"]', '["rollout@1"]', ["explainers", "rollout@1", "another draw of rollout"]),
        ('["rollout"]', '["*", "*@1"]', ["explainers.1", "name the explainers"]),
        ('["sparseness"]', '["sparseness@1"]', ["metrics.0", "only an explainer", "write sparseness"]),
        ('["builtin,id=glyphs,seed=0"]', '["builtin@1,id=glyphs"]', ["models.0", "only an explainer"]),
        ('name = "glyphs"', 'name = "Glyphs!"', ["boards.0.name", "Glyphs!"]),
        ('["builtin,id=glyphs,seed=0"]', "[]", ["boards.0.models"]),
        ("n = 4", "n = = 4", ["mine.toml", "not valid TOML", "line 3"]),
    ],
)
def test_errors_name_file_key_value_and_what_is_allowed(
    tmp_path: Path, before: str, after: str, told: list[str]
) -> None:
    with pytest.raises(BadInputError) as caught:
        load_suite(written(tmp_path, MINIMAL.replace(before, after, 1)))
    for text in told:
        assert text in str(caught.value)


def test_unknown_suite_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'defualt'.*Did you mean default"):
        load_suite("defualt")
    with pytest.raises(BadInputError, match=r"no suite file at nowhere\.toml"):
        load_suite("nowhere.toml")


class TestOtherData:
    """`--dataset` and `--model`: the suite's protocol on other data."""

    def test_one_board_a_data_set_each_with_all_models(self, tmp_path: Path) -> None:
        suite = load_suite(written(tmp_path, MINIMAL))
        swapped = suite.on(["leaves,seed=1", "leaves,seed=2", "voc,path=here"], ["file,path=a", "file,path=b"], n=9)
        assert [(board.name, str(board.dataset)) for board in swapped.boards] == [
            ("leaves_1", "leaves,seed=1"),
            ("leaves_2", "leaves,seed=2"),
            ("voc", "voc,path=here"),
        ]
        assert all([str(model) for model in board.models] == ["file,path=a", "file,path=b"] for board in swapped.boards)
        assert (swapped.n, suite.n) == (9, 4)
        assert (swapped.explainers, swapped.metrics, swapped.name) == (suite.explainers, suite.metrics, suite.name)

    def test_without_data_only_the_number_of_samples_changes(self, tmp_path: Path) -> None:
        suite = load_suite(written(tmp_path, MINIMAL))
        assert suite.on([]) is suite
        assert suite.on([], n=3) == suite.model_copy(update={"n": 3})

    def test_data_without_models_and_models_without_data_are_errors_of_usage(self, tmp_path: Path) -> None:
        suite = load_suite(written(tmp_path, MINIMAL))
        for asked in ((["glyphs"], []), ([], ["builtin,id=glyphs"])):
            with pytest.raises(BadInputError, match="give both --dataset and --model"):
                suite.on(*asked)

    def test_boards_with_lists_of_their_own_are_not_swapped(self, tmp_path: Path) -> None:
        suite = load_suite(written(tmp_path, MINIMAL + 'explainers = ["random"]\n'))
        with pytest.raises(BadInputError, match=r"boards with lists of their own \(glyphs\).*mine\.toml"):
            suite.on(["leaves"], ["builtin,id=leaves_fused"])

    def test_the_options_of_the_command_line_do_so(self, tmp_path: Path) -> None:
        path = written(tmp_path, MINIMAL)
        swapped = chosen_suite(str(path), ["voc,path=here"], ["file,path=a"], 3)
        assert swapped == load_suite(path).on(["voc,path=here"], ["file,path=a"], 3)
        assert chosen_suite(str(path)) == load_suite(path)

    def test_what_is_wrong_with_the_new_boards_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match=r"on other data.*stands twice in models of board leaves"):
            load_suite(written(tmp_path, MINIMAL)).on(["leaves"], ["file,path=a", "file,path=a"])


class TestResolution:
    """Names become plug-ins before anything runs."""

    @staticmethod
    def suite(explainers: list[str], metrics: tuple[str, ...] = ("tiny_mass",)) -> object:
        board = {"name": "b", "dataset": "tiny_squares", "models": ["file,path=x"]}
        return parse_suite({"name": "s", "n": 1, "explainers": explainers, "metrics": metrics, "boards": [board]})

    def test_a_misspelt_explainer_is_an_error_of_usage(self, tiny_plugins: object) -> None:
        with pytest.raises(UnknownNameError, match=r"tiny_gradeint.*Did you mean tiny_gradient"):
            self.suite(["tiny_gradeint"]).resolved()  # type: ignore[attr-defined]

    def test_so_is_a_wrong_parameter(self, tiny_plugins: object) -> None:
        with pytest.raises(BadInputError, match=r"tiny_gradient.*scale.*big"):
            self.suite(["tiny_gradient,scale=big"]).resolved()  # type: ignore[attr-defined]

    def test_plug_ins_of_the_command_line_join_every_board_once(self, tiny_plugins: object) -> None:
        resolved = self.suite(["tiny_noise"]).resolved(["tiny_noise", "tiny_gradient"], ["tiny_drop"])  # type: ignore[attr-defined]
        (board,) = resolved.boards
        assert [str(spec) for spec in board.explainers] == ["tiny_noise", "tiny_gradient"]
        assert [str(spec) for spec in board.metrics] == ["tiny_mass", "tiny_drop"]

    def test_a_star_adds_what_works_without_parameters(self, tiny_plugins: object) -> None:
        resolved = self.suite(["tiny_gradient,scale=2", "*"]).resolved()  # type: ignore[attr-defined]
        names = [spec.name for spec in resolved.boards[0].explainers]
        assert names[0] == "tiny_gradient"
        assert names.count("tiny_gradient") == 1
        assert {"tiny_noise", "rollout", "random"} <= set(names)
        assert "precomputed" not in names  # needs a path
        assert "attention_flow" not in names  # its cost class is slow

    def test_a_star_leaves_out_what_the_suite_excludes(self, tiny_plugins: object) -> None:
        suite = self.suite(["*"], ("*",)).model_copy(update={"exclude": ("rollout", "sparseness")})  # type: ignore[attr-defined]
        (board,) = suite.resolved().boards
        names = {spec.name for spec in board.explainers}
        assert {"raw_attention", "random"} <= names
        assert "rollout" not in names
        assert "sparseness" not in {spec.name for spec in board.metrics}

    def test_excluding_what_nothing_bears_is_an_error_of_usage(self, tiny_plugins: object) -> None:
        suite = self.suite(["*"]).model_copy(update={"exclude": ("rolout",)})  # type: ignore[attr-defined]
        with pytest.raises(UnknownNameError, match=r"rolout.*Did you mean rollout"):
            suite.resolved()


class TestShippedSuites:
    """Every suite of the project is readable, and what it names exists."""

    @pytest.mark.parametrize("name", suite_names())
    def test_every_plug_in_and_parameter_resolves(self, name: str) -> None:
        suite = load_suite(name)
        assert suite.name == name
        for board in suite.resolved().boards:
            if "path" in board.dataset.params:
                assert name.endswith("-paper"), "what needs no download comes first"
                with pytest.raises(BadInputError, match="needs a folder, and there is none"):
                    datasets.create(board.dataset).ids("test", 1)
            else:
                datasets.create(board.dataset)

    @pytest.mark.parametrize("name", suite_names())
    def test_the_trainings_that_a_suite_names_are_those_of_bench_train(self, name: str) -> None:
        """Also: the files that boards want are the commands' own, or others of their kind beside them."""
        text = (SUITES / f"{name}.toml").read_text()
        joined = re.sub(r" \\\n#\s*", " ", text)
        commands = re.findall(r"^#\s+bench (train .*)$", joined, re.MULTILINE)
        wanted = {str(model.params["path"]) for board in load_suite(name).boards for model in board.models
                  if model.name == "file"}  # fmt: skip
        made = set()
        for words in map(shlex.split, commands):
            given = get_command(app).commands["train"].make_context("train", words[1:]).params
            changes = {key: given[key] for key in ("preset", "freeze", "epochs", "fit", "validation", "test", "seed")}
            recipe(given["model"], given["data"], **changes)
            made.add(str(given["out"]))
        if wanted:
            assert made <= wanted
            assert {Path(file).parent for file in made} == {Path(file).parent for file in wanted}

    @pytest.mark.parametrize(
        "name", [name for name in suite_names() if name.startswith(("focus", "selective", "agcam"))]
    )
    def test_a_suite_of_a_paper_says_what_it_regenerates_and_how_it_is_run(self, name: str) -> None:
        text = (SUITES / f"{name}.toml").read_text()
        header = [line for line in text.splitlines() if line.startswith("#")]
        assert len(header) >= 5
        assert f"--suite {name}" in text
