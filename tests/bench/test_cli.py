"""The command line: what each command prints and leaves, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner, Result

from vitxai.bench import cli, cli_run
from vitxai.bench.cli import app
from vitxai.bench.contract import BadInputError

PLUGINS = Path(__file__).parent / "plugins"
COMMANDS = (
    "all",
    "run",
    "plan",
    "list",
    "report",
    "train",
    "fit",
    "claims",
    "layers",
    "prototypes",
    "explain",
    "new",
    "check",
    "gate",
    "compare",
    "doctor",
    "cache",
    "data",
)
FAILING = """
from vitxai.bench.contract import Explainer, explainer

@explainer("always_fails")
class AlwaysFails(Explainer):
    '''Raises.'''

    def explain(self, model, batch, ctx):
        raise RuntimeError("as ever")
"""


def bench(*words: object) -> Result:
    """The command in this process; errors that are no exit propagate."""
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``main(*words)``: exit code and standard error of the installed command."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def suite_file(tiny_models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.toml"
    path.write_text(
        f"""
        name = "tiny"
        n = 4
        chunk = 4
        batch_size = 4
        memory_gb = 2
        validation_n = 4
        costs = false
        explainers = ["tiny_gradient", "tiny_noise"]
        metrics = ["tiny_mass", "tiny_accuracy"]
        [[boards]]
        name = "squares"
        dataset = "tiny_squares"
        kind = "tiny ViT"
        models = ["{tiny_models[0]}"]
        """
    )
    return path


@pytest.fixture(scope="module")
def world(suite_file: Path) -> tuple[object, ...]:
    """Options that name the tiny suite and its plug-ins."""
    files = (PLUGINS / "tiny_squares.py", PLUGINS / "tiny_methods.py")
    return ("--suite", suite_file, *(word for file in files for word in ("--plugin", file)))


@pytest.fixture(scope="module")
def first(world: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder with `out` and `store` of a first `bench all`, and what that said."""
    folder = tmp_path_factory.mktemp("first")
    return folder, bench("all", *world, "--out", folder / "out", "--store", folder / "store")


class TestEnd:
    """The process ends with the command's code, output whole, exit functions run."""

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["--version"], 0, "vitxai"),
            (["plan", "--suite", "nothing"], 2, "nothing"),
            (["no-such-command"], 2, "no-such-command"),
            (["list", "sparks"], 2, "sparks"),
        ],
    )
    def test_codes_and_output(self, arguments: list[str], code: int, said: str) -> None:
        start = f"import atexit, sys; sys.argv = ['bench', *{arguments}]; from vitxai.bench.cli import command\n"
        done = subprocess.run(
            [sys.executable, "-P", "-c", start + "atexit.register(print, 'the end'); command(); print('never')"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code
        assert said in done.stdout + done.stderr
        assert done.stdout.endswith("the end\n")

    def test_an_unexpected_error_keeps_its_traceback(self) -> None:
        code = (
            "from vitxai.bench import cli\ndef app(**_): raise RuntimeError('surprise')\ncli.app = app; cli.command()"
        )
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "surprise" in done.stderr


class TestHelp:
    """`--help`."""

    def test_it_imports_nothing_heavy(self) -> None:
        code = (
            "import atexit, sys; sys.argv = ['bench', '--help']\n"
            "from vitxai.bench.cli import command\n"
            "heavy = {'torch', 'numpy', 'pandas', 'timm', 'pydantic', 'rich', 'matplotlib', 'quantus', 'jinja2'}\n"
            "atexit.register(lambda: print('heavy:', sorted(heavy & set(sys.modules))))\n"
            "command()"
        )
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
        assert "heavy: []" in done.stdout
        assert all(f"  {name} " in done.stdout for name in COMMANDS)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_shows_an_example(self, name: str) -> None:
        result = bench(name, "--help")
        assert result.exit_code == 0
        assert "Example" in result.output
        assert f"bench {name}" in result.output

    def test_examples_parse(self) -> None:
        group = get_command(app)
        for name, command in group.commands.items():  # type: ignore[attr-defined]
            lines = [line.strip() for line in (command.help or "").splitlines() if line.strip().startswith("bench ")]
            assert lines, name
            for line in lines:
                words = shlex.split(line, comments=True)[1:]
                group.commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]


class TestErrors:
    """Wrong usage ends with code 2 and one message."""

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["run", "--suite", "smoky"], "unknown suite 'smoky'. Did you mean smoke"),
            (["run", "--suite", "gone.toml"], "no suite file at gone.toml"),
            (["run", "--plugin", "gone.py"], "no such file; `bench new explainer NAME`"),
            (["check", "rolout"], "Did you mean rollout"),
            (["check"], "name plug-ins or files to check, or pass --all"),
            (["explain", "--model", "builtin,id=glyphs"], "pass either --dataset SPEC or --image FILE"),
            (["report", "--out", "gone"], "gone"),
            (["train", "resnet"], "'resnet' cannot be trained"),
            (["gate", "--baseline", "gone"], "no baseline at gone"),
            (["compare", "gone", "gone"], "gone is no folder of a finished run (it holds no run.json). To compare two"),
            (["compare", "rollout", "random", "--run", "gone"], "no run.json in gone"),
            (["new", "explainer", "Not-Snake"], "snake_case"),
        ],
    )
    def test_deliberate_errors(
        self,
        main: Callable[..., tuple[int, str]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        words: list[str],
        text: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        code, said = main(*words)
        assert code == 2
        assert text in said
        assert said.startswith("bench: ")
        assert "Traceback" not in said

    def test_unknown_options(self, main: Callable[..., tuple[int, str]]) -> None:
        code, said = main("run", "--sweet", "smoke")
        assert code == 2
        assert "--sweet" in said

    def test_bugs_keep_their_traceback(
        self, main: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(name: str) -> None:
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr("vitxai.bench.suite.load_suite", broken)
        monkeypatch.setattr(sys, "argv", ["bench", "run"])
        with pytest.raises(ZeroDivisionError):
            cli.main()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux lists them")
@pytest.mark.parametrize(("chosen", "threads"), [({}, 1), ({"OPENBLAS_NUM_THREADS": "2"}, 2)])
def test_boards_have_one_blas_thread_each_and_workers_what_the_user_chose(chosen: dict, threads: int) -> None:
    code = (
        "import os\n"
        "from vitxai.bench.cli_run import _one_blas_thread\n"
        "_one_blas_thread()\n"
        "import numpy\n"
        "print(min(os.cpu_count(), len(os.listdir('/proc/self/task'))), os.environ.get('OPENBLAS_NUM_THREADS'))"
    )
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=free | chosen, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(min(threads, os.cpu_count() or 1)), str(chosen.get("OPENBLAS_NUM_THREADS"))]


class TestRun:
    """`all`, `run`, `plan`, `report`."""

    def test_all_leaves_scores_leaderboards_and_page(self, first: tuple[Path, Result]) -> None:
        folder, result = first
        assert result.exit_code == 0, result.output
        names = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file()}
        assert {"scores.parquet", "costs.parquet", "run.json", "index.html"} <= names
        assert {f"leaderboards/squares.{suffix}" for suffix in ("csv", "md", "json")} <= names
        assert "index.html" in result.output

    def test_a_second_run_computes_nothing(self, first: tuple[Path, Result], world: tuple[object, ...]) -> None:
        folder, _ = first
        again = bench("run", *world, "--out", folder / "again", "--store", folder / "store")
        assert again.exit_code == 0
        assert "computed" not in again.output
        assert "reused" in again.output
        old, new = (pd.read_parquet(folder / name / "scores.parquet") for name in ("out", "again"))
        pd.testing.assert_frame_equal(old, new)

    def test_a_failing_plugin_is_told_and_makes_code_4(
        self, first: tuple[Path, Result], world: tuple[object, ...], tmp_path: Path
    ) -> None:
        folder, _ = first
        plugin = tmp_path / "always_fails.py"
        plugin.write_text(FAILING)
        words = ("all", *world, "--plugin", plugin, "--out", tmp_path / "out", "--store", folder / "store")
        result = bench(*words)
        assert result.exit_code == 4
        assert "RuntimeError: as ever" in result.output
        assert (tmp_path / "out" / "leaderboards" / "squares.md").is_file()
        rows = pd.read_parquet(tmp_path / "out" / "scores.parquet")
        mass = rows[rows["metric"] == "tiny_mass"]
        assert set(mass.loc[mass["explainer"] == "always_fails", "status"]) == {"error"}
        assert "ok" in set(rows.loc[rows["explainer"] == "tiny_gradient", "status"])

    def test_plan_says_what_is_stored(self, first: tuple[Path, Result], world: tuple[object, ...]) -> None:
        folder, _ = first
        result = bench("plan", *world, "--store", folder / "store")
        assert result.exit_code == 0
        assert "tiny_gradient" in result.output
        total = next(line for line in result.output.splitlines() if line.startswith("in all:"))
        jobs, stored = map(int, re.findall(r"(\d+) (?:jobs|of them stored)", total))
        assert 0 < stored <= jobs

    def test_an_interrupted_run_says_how_to_go_on(
        self, world: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vitxai.bench.run import RunResult

        def interrupted(suite: object, out: Path, store: Path, **options: object) -> RunResult:
            facts = {"counts": {"kinds": {}, "explainers": {}}}
            return RunResult(out, pd.DataFrame(), pd.DataFrame(), facts, (), interrupted=True)

        monkeypatch.setattr("vitxai.bench.run.run_suite", interrupted)
        monkeypatch.setattr(sys, "argv", ["bench", "all", "--suite", "smoke"])
        result = bench("all", *world, "--out", tmp_path)
        assert result.exit_code == cli_run.EXIT_INTERRUPTED
        assert "go on with the same command: bench all --suite smoke" in result.output

    def test_report_reads_files_only(self, first: tuple[Path, Result]) -> None:
        folder, _ = first
        page = folder / "out" / "index.html"
        page.unlink()
        assert bench("report", "--out", folder / "out").exit_code == 0
        assert page.is_file()


class TestGate:
    """`gate`."""

    def test_baseline_agreement_and_regression(
        self, first: tuple[Path, Result], world: tuple[object, ...], tmp_path: Path
    ) -> None:
        folder, _ = first
        words = ("gate", *world, "--store", folder / "store", "--baseline", tmp_path / "baseline")
        assert bench(*words, "--update-baseline").exit_code == 0

        same = bench(*words, "--junit", tmp_path / "gate.xml", "--markdown", tmp_path / "ci" / "gate.md")
        assert same.exit_code == 0, same.output
        assert "No regression" in (tmp_path / "ci" / "gate.md").read_text()
        assert 'failures="0"' in (tmp_path / "gate.xml").read_text()

        scores = pd.read_parquet(tmp_path / "baseline" / "scores.parquet")
        scores.loc[scores["metric"] == "tiny_mass", "value"] += 0.5
        scores.to_parquet(tmp_path / "baseline" / "scores.parquet", index=False)
        worse = bench(*words)
        assert worse.exit_code == 1
        assert "tiny_mass" in worse.output
        assert "Regression" in worse.output

    def test_another_suite_is_not_comparable(
        self, first: tuple[Path, Result], world: tuple[object, ...], suite_file: Path, tmp_path: Path
    ) -> None:
        folder, _ = first
        store = ("--store", folder / "store", "--baseline", tmp_path / "baseline")
        bench("gate", *world, *store, "--update-baseline")
        other = tmp_path / "other.toml"
        other.write_text(
            suite_file.read_text().replace("n = 4\n        chunk", "seed = 1\n        n = 4\n        chunk")
        )
        result = bench("gate", "--suite", other, *world[2:], *store)
        assert result.exit_code == 3, result.output


class TestList:
    """`list`."""

    def test_kinds(self) -> None:
        assert "arXiv:2005.00928" in bench("list", "explainers").output
        assert "insertion_auc" in bench("list", "metrics").output
        assert "labels=mask" in bench("list", "datasets").output
        assert "builtin,id=leaves_spectral,seed=2" in bench("list", "models").output
        assert "smoke" in bench("list", "suites").output

    def test_a_plugin_of_the_command_line_is_listed(self) -> None:
        assert "tiny_noise" in bench("list", "explainers", "--plugin", PLUGINS / "tiny_methods.py").output

    def test_broken_plugins_are_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from vitxai.bench.contract import Broken, metrics

        bad = Broken("bad", "vitxai.metrics.bad", "SyntaxError: invalid syntax", "...")
        monkeypatch.setitem(metrics.broken, "bad", bad)
        row = next(line for line in bench("list", "metrics").output.splitlines() if line.startswith("bad "))
        assert "BROKEN" in row
        assert "SyntaxError" in row


class TestAuthoring:
    """`new`, `check`."""

    def test_from_new_to_check(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        written = bench("new", "metric", "from_cli")
        assert written.exit_code == 0
        assert "bench check from_cli.py" in written.output
        checked = bench("check", "from_cli.py")
        assert checked.exit_code == 0
        assert "rules hold" in checked.output

    def test_a_broken_rule_makes_code_1_and_says_how_to_mend(self, tmp_path: Path) -> None:
        plugin = tmp_path / "always_fails_too.py"
        plugin.write_text(FAILING.replace("always_fails", "always_fails_too"))
        result = bench("check", plugin)
        assert result.exit_code == 1
        assert "RuntimeError: as ever (always_fails_too.py, line 9)" in result.output
        assert "mend" in result.output


class TestExplain:
    """`explain`."""

    def test_samples_of_a_data_set(self, tiny_models: tuple[str, str], tmp_path: Path) -> None:
        import numpy as np

        words = ["--dataset", "tiny_squares", "--plugin", PLUGINS / "tiny_squares.py", "--count", 2]
        out, maps = tmp_path / "sheet.png", tmp_path / "maps.npz"
        result = bench("explain", "--model", tiny_models[0], *words, "-e", "rollout", "--out", out, "--maps", maps)
        assert result.exit_code == 0, result.output
        assert Image.open(out).size[1] > 300
        stored = np.load(maps)
        assert stored["native"].shape == (2, 4, 4)
        assert str(stored["layout"]) == "token"

    def test_several_explainers_side_by_side(self, tiny_models: tuple[str, str], tmp_path: Path) -> None:
        import numpy as np

        words = ["--dataset", "tiny_squares", "--plugin", PLUGINS / "tiny_squares.py", "--count", 2]
        methods = ["-e", "rollout", "-e", "integrated_gradients,steps=7", "-e", "spectral_lift", "-e", "random"]
        methods += ["-e", "prompt_cam,epochs=1,samples=8"]
        out = tmp_path / "sheet.png"
        result = bench("explain", "--model", tiny_models[0], *words, *methods, "-o", out, "--maps", tmp_path / "m.npz")
        assert result.exit_code == 0, result.output
        assert "rollout: 1 inputs forward a sample" in result.output
        assert "integrated_gradients,steps=7: 7 inputs forward a sample" in result.output
        assert "random: 0 inputs" in result.output
        assert "prompt_cam,epochs=1,samples=8: 1 inputs forward a sample" in result.output
        assert "spectral_lift: refused: this explainer needs spectrum" in result.output
        found = {path.name for path in tmp_path.glob("*.npz")}
        assert found == {
            "m_rollout.npz", "m_integrated_gradients-steps-7.npz", "m_random.npz",
            "m_prompt_cam-epochs-1-samples-8.npz",
        }  # fmt: skip
        assert np.load(tmp_path / "m_integrated_gradients-steps-7.npz")["native"].ndim == 4
        width, height = Image.open(out).size
        assert width > 1.8 * height  # four panels a row, two rows

    def test_a_cube_of_ones_own(self, tmp_path: Path) -> None:
        import numpy as np

        np.save(tmp_path / "cube.npy", np.full((56, 48, 48), 0.3))
        np.save(tmp_path / "thin.npy", np.zeros((3, 48, 48)))
        words = ["explain", "--model", "builtin,id=leaves_fused", "-e", "spectral_lift", "-o", tmp_path / "out.png"]
        result = bench(*words, "--image", tmp_path / "cube.npy")
        assert result.exit_code == 0, result.output
        assert (tmp_path / "out.png").stat().st_size > 1000
        with pytest.raises(BadInputError, match=r"eats cubes \[C,H,W\] with C = 56"):
            bench(*words, "--image", tmp_path / "thin.npy")

    def test_a_picture(self, tiny_models: tuple[str, str], tmp_path: Path) -> None:
        Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "red.png")
        out = tmp_path / "out.png"
        words = ["--image", tmp_path / "red.png", "-e", "input_x_gradient", "--target", 1, "--out", out]
        assert bench("explain", "--model", tiny_models[0], *words).exit_code == 0
        assert out.stat().st_size > 1000

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["--image", "gone.png"], "no picture at gone.png"),
            (["--dataset", "tiny_squares", "--target", "9"], "--target 9, but the model has 4 classes"),
            (["--dataset", "tiny_squares", "-e", "healed_difference"], "needs healed"),
            (["--dataset", "tiny_squares", "--out", "map.txt"], "is no picture"),
        ],
    )
    def test_refusals(
        self,
        tiny_models: tuple[str, str],
        tiny_plugins: tuple[Path, ...],
        main: Callable[..., tuple[int, str]],
        words: list[str],
        text: str,
    ) -> None:
        code, said = main("explain", "--model", tiny_models[0], *words)
        assert code == 2
        assert text in said


class TestCompare:
    """`compare`: the tiny run against copies of itself."""

    @pytest.fixture
    def runs(self, first: tuple[Path, Result], tmp_path: Path) -> tuple[Path, Path]:
        shutil.copytree(first[0] / "out", tmp_path / "after")
        return first[0] / "out", tmp_path / "after"

    def test_the_same_run(self, runs: tuple[Path, Path], tmp_path: Path) -> None:
        files = {name: tmp_path / "written" / f"compare.{name}" for name in ("markdown", "json", "junit")}
        words = [word for name, path in files.items() for word in (f"--{name}", path)]
        result = bench("compare", *runs, *words)
        assert result.exit_code == 0, result.output
        assert "nothing regressed" in result.output
        assert "identical on every sample" in result.output
        assert json.loads(files["json"].read_text())["status"] == "ok"
        assert "## " in files["markdown"].read_text()
        assert "<testsuite" in files["junit"].read_text()

    def test_a_job_that_fails_now(self, runs: tuple[Path, Path]) -> None:
        scores = pd.read_parquet(runs[1] / "scores.parquet")
        scores.loc[scores.explainer == "tiny_noise", ["value", "status", "reason"]] = [float("nan"), "error", "[boom]"]
        scores.to_parquet(runs[1] / "scores.parquet")
        result = bench("compare", *runs)
        assert result.exit_code == 1, result.output
        assert "[boom]" in result.output

    def test_an_explainer_that_is_gone(self, runs: tuple[Path, Path]) -> None:
        scores = pd.read_parquet(runs[1] / "scores.parquet")
        scores[scores.explainer != "tiny_noise"].to_parquet(runs[1] / "scores.parquet")
        result = bench("compare", *runs)
        assert result.exit_code == 0, result.output
        assert "In one of the runs only, so not compared: tiny_noise." in result.output

    def test_a_file_that_cannot_be_written(self, runs: tuple[Path, Path], tmp_path: Path, main) -> None:
        code, said = main("compare", *runs, "--json", tmp_path)
        assert (code, said.count("\n")) == (2, 1)
        assert f"{tmp_path} cannot be written: Is a directory." in said

    def test_two_explainers(self, runs: tuple[Path, Path]) -> None:
        result = bench("compare", "tiny_gradient", "tiny_noise", "--run", runs[0], "--bayes", "--rope", 0.02)
        assert result.exit_code == 0, result.output
        assert re.search(r"tiny_noise.* against tiny_gradient", result.output)
        assert "fewer than 6 samples" in result.output
        assert "P(worse, same, better)" in result.output

    def test_another_suite(self, runs: tuple[Path, Path]) -> None:
        facts = json.loads((runs[1] / "run.json").read_text())
        facts["suite"]["seed"] = 9
        (runs[1] / "run.json").write_text(json.dumps(facts))
        result = bench("compare", *runs)
        assert result.exit_code == 3
        assert "suite seed: 0 in the baseline, 9 now" in result.output


class TestTrain:
    """`train`."""

    def test_options_reach_the_recipe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from vitxai.bench.recipes import TrainConfig
        from vitxai.models.optimise import EpochRecord

        seen: list[TrainConfig] = []

        def fake(config: TrainConfig, progress: Callable[[EpochRecord], None]) -> Path:
            seen.append(config)
            progress(EpochRecord(1, 1e-3, 0.5, 0.25, 0.75, 2.0))
            return config.path

        monkeypatch.setattr("vitxai.bench.train.train", fake)
        out = tmp_path / "mine.safetensors"
        result = bench("train", "glyphs", "--seed", 2, "--epochs", 3, "--fit", 64, "--out", out)
        assert result.exit_code == 0, result.output
        assert (seen[0].seed, seen[0].fit, seen[0].schedule.epochs, seen[0].path) == (2, 64, 3, out)
        assert "accuracy 0.7500" in result.output
        assert f"file,path={out}" in result.output

    def test_recorded_commands_are_commands(self) -> None:
        from vitxai.bench.recipes import command, recipe

        config = recipe(
            "timm,id=test_vit,random=true", "folder,path=x", epochs=2, learning_rate=0.1, patience=3, clip=2.0
        )
        words = shlex.split(command(config))[1:]
        context = get_command(app).commands["train"].make_context("train", words[1:])  # type: ignore[attr-defined]
        assert context.params["data"] == "folder,path=x"
        assert context.params["learning_rate"] == 0.1
        assert context.params["clip"] == 2.0


class TestMachine:
    """`doctor`, `cache`, `--version`."""

    def test_cache(self, first: tuple[Path, Result], tmp_path: Path) -> None:
        shutil.copytree(first[0] / "store", tmp_path / "store")
        listed = bench("cache", "list", "--store", tmp_path / "store").output
        assert "explanation" in listed
        freed = bench("cache", "clear", "--kind", "score", "--yes", "--store", tmp_path / "store")
        assert freed.output.startswith("freed ")
        assert "score              0" in bench("cache", "list", "--store", tmp_path / "store").output
        assert ": 0 artefacts" not in bench("cache", "size", "--store", tmp_path / "store").output

    def test_clearing_is_asked_for(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["cache", "clear", "--store", str(tmp_path)], input="n\n")
        assert "Remove all artefacts" in result.output
        assert "freed" not in result.output

    def test_doctor_says_what_fails(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from vitxai.bench.doctor import Symptom

        symptoms = [Symptom("torch", "ok", "2.9"), Symptom("store", "fail", "full")]
        monkeypatch.setattr("vitxai.bench.doctor.examine", lambda *args: iter(symptoms))
        result = bench("doctor", "--store", tmp_path)
        assert result.exit_code == 1
        assert "fail  store  full" in result.output

    def test_version(self) -> None:
        assert bench("--version").output.startswith("vitxai ")


def test_run_json_of_the_command_line_names_the_plugins_suite(first: tuple[Path, Result]) -> None:
    facts = json.loads((first[0] / "out" / "run.json").read_text())
    assert facts["suite"]["name"] == "tiny"
    assert facts["interrupted"] is False
