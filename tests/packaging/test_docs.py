"""Documentation that cannot rot in silence: links, commands, plug-ins and examples in it are real."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from vitxai.bench.check import check
from vitxai.bench.cli import app
from vitxai.bench.suite import parse_suite

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, list[str]]]:
    """Every `bench ...` line of a shell block, with the page that it stands on."""
    found = []
    for page in PAGES:
        for line in "\n".join(blocks(page, "sh")).splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words and Path(words[0]).name == "bench":
                    found.append((page.name, words[1:]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    ("page", "words"), commands(), ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_commands_in_the_documentation_parse(page: str, words: list[str]) -> None:
    group = get_command(app)
    context = group.make_context("bench", words[:1] or ["--help"], resilient_parsing=True)
    name, command, _ = group.resolve_command(context, words[:1])  # type: ignore[attr-defined]
    command.make_context(name, words[1:], parent=context)


def test_readme_has_the_two_commands() -> None:
    lines = "\n".join(blocks(ROOT / "README.md", "sh")).splitlines()
    assert 'python3 -m venv .venv && .venv/bin/pip install ".[quantus]" && .venv/bin/bench all' in lines
    tests = "python3 -m venv .tox/run && .tox/run/bin/pip install tox && .tox/run/bin/tox run"
    assert f"{tests} -e py" in lines
    assert tests in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs() -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["explanation"].native.shape == (2, 10, 10)  # type: ignore[attr-defined]


def test_the_explainer_on_one_screen_holds_the_contract(tmp_path: Path) -> None:
    file = tmp_path / "my_method.py"
    file.write_text(blocks(ROOT / "docs" / "plugins.md", "python")[0], encoding="utf-8")
    (verdict,) = check(file)
    assert verdict.passed, str(verdict)


def test_the_suite_of_the_documentation_is_valid() -> None:
    import tomllib

    (text,) = blocks(ROOT / "docs" / "cli.md", "toml")
    assert parse_suite(tomllib.loads(text)).name == "mine"


def test_every_command_stands_in_the_table() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [name for name in get_command(app).commands if f"`bench {name}" not in text] == []  # type: ignore[attr-defined]
