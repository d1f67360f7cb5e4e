"""The written leaderboards and the page: complete, self-contained, honest about what is missing."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vitxai.bench.contract import BadInputError
from vitxai.bench.report import figures_text, write_report
from vitxai.bench.report.heatmaps import data_uri, heat_map, outlined

BOARD = "leaves_spectral"


def with_own_model_and_failure(scores: pd.DataFrame) -> pd.DataFrame:
    """focusvit fails everywhere; rollout brings a second, own model."""
    broken = scores.explainer == "focusvit"
    scores.loc[broken, ["value", "status", "reason"]] = [np.nan, "error", "RuntimeError: <boom> | & more"]
    own = scores[scores.explainer == "rollout"].assign(own_model=True)
    return pd.concat([scores, own], ignore_index=True)


@pytest.fixture(scope="module")
def out(made_once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("run")
    made_once.facts = {"fits": [{"explainer": "raw_attention", "facts": {"criterion": "deletion"}}]}
    made_once.write(folder, with_own_model_and_failure)
    write_report(folder)
    return folder


class Page(HTMLParser):
    """Checks nesting and collects what the tests ask about."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.fragments: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        for name in ("src", "href"):
            if given.get(name):
                self.addresses.append(str(given[name]))
        if "id" in given:
            self.ids.append(str(given["id"]))
        if str(given.get("href", "")).startswith("#"):
            self.fragments.append(str(given["href"])[1:])
        if tag == "img":
            self.images.append(given)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class TestFiles:
    def test_every_board_has_three_files_and_all_share_a_page(self, made, tmp_path: Path) -> None:
        made.boards = ("one", "two")
        written = write_report(made.write(tmp_path))
        names = sorted(str(path.relative_to(tmp_path)) for path in written)
        assert names == [
            "index.html",
            *(f"leaderboards/across_boards.{s}" for s in ("json", "md")),
            *(f"leaderboards/{b}.{s}" for b in ("one", "two") for s in ("csv", "json", "md")),
        ]
        assert all(path.is_file() for path in written)

    def test_the_same_run_gives_the_same_bytes(self, out: Path) -> None:
        before = {path: path.read_bytes() for path in (out / "index.html", *(out / "leaderboards").iterdir())}
        write_report(out)
        assert before == {path: path.read_bytes() for path in before}

    def test_csv_json_and_markdown_agree(self, out: Path) -> None:
        lines = list(csv.DictReader(io.StringIO((out / f"leaderboards/{BOARD}.csv").read_text())))
        cell = next(
            x for x in lines if (x["explainer"], x["column"], x["own_model"]) == ("chefer_lrp", "auprc", "False")
        )
        board = json.loads((out / f"leaderboards/{BOARD}.json").read_text())
        row = next(r for r in board["rows"] if r["entry"]["explainer"] == "chefer_lrp")
        headline = row["figures"]["auprc"]["headline"]
        assert float(cell["mean"]) == headline["mean"]
        assert (int(cell["n_ok"]), int(cell["n"])) == (headline["n_ok"], headline["n"])
        assert (cell["rank_low"], cell["rank_high"]) == ("1", "1")
        spelled = f"{headline['mean']:.3f} [{headline['low']:.3f}, {headline['high']:.3f}]"
        assert spelled in (out / f"leaderboards/{BOARD}.md").read_text()
        assert spelled.replace(" [", "").split("[")[0][:5] in (out / "index.html").read_text()

    def test_csv_is_tidy(self, out: Path) -> None:
        frame = pd.read_csv(out / f"leaderboards/{BOARD}.csv")
        assert not frame.duplicated(["board", "explainer", "own_model", "metric", "column"]).any()
        failed = frame[(frame.explainer == "focusvit") & (frame.metric == "localisation")]
        assert (failed.status == "error").all()
        assert failed["mean"].isna().all()
        assert set(frame[frame.metric == "cost"].column) == {"forwards", "gflops", "latency_ms"}

    def test_markdown_says_what_a_table_must_say(self, out: Path) -> None:
        text = (out / f"leaderboards/{BOARD}.md").read_text()
        for needed in (
            "the frozen model's prediction", "correctly classified", "class's probability: 95.0 %", "tuned on it",
            "smallest separable difference",
            "unfit for ranking", "rank 1", "± ", "33/37", "`focusvit` (reconstruction)", "(floor)", "(oracle)",
            "own model", "RuntimeError", "plain forward",
        ):  # fmt: skip
            assert needed in text, needed

    def test_markdown_tables_are_rectangular(self, out: Path) -> None:
        blocks = re.findall(r"(?:^\|.*\|\n)+", (out / f"leaderboards/{BOARD}.md").read_text(), re.MULTILINE)
        assert len(blocks) >= 3
        for block in blocks:
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1


class TestPage:
    def test_it_is_well_formed_and_its_links_lead_somewhere(self, out: Path) -> None:
        page = Page((out / "index.html").read_text())
        assert set(page.fragments) <= set(page.ids)
        assert len(page.ids) == len(set(page.ids))

    def test_it_needs_nothing_from_elsewhere(self, out: Path) -> None:
        text = (out / "index.html").read_text()
        assert {"#" if address.startswith("#") else address[:5] for address in Page(text).addresses} == {"#", "data:"}
        assert "url(" not in text
        assert "@import" not in text

    def test_without_script_every_figure_is_there(self, out: Path) -> None:
        text = re.sub(r"<script>.*?</script>", "", (out / "index.html").read_text(), flags=re.DOTALL)
        board = json.loads((out / f"leaderboards/{BOARD}.json").read_text())
        means = [figure["headline"]["mean"] for row in board["rows"] for figure in row["figures"].values()]
        assert len(means) > means.count(None)
        for mean in filter(None, means):
            cell = re.search(rf'<td data-v="{re.escape(str(mean))}"[^>]*>(.*?)</td>', text, flags=re.DOTALL)
            assert cell is not None, mean
            assert figures_text.number(mean) in re.sub("<.*?>", "", cell[1])
        assert "RuntimeError: &lt;boom&gt;" in text

    def test_what_comes_from_plugins_is_escaped(self, out: Path) -> None:
        assert "<boom>" not in (out / "index.html").read_text()

    def test_bounds_failures_and_labels_are_marked(self, out: Path) -> None:
        text = (out / "index.html").read_text()
        for needed in (
            'class="oracle"',
            'class="floor"',
            'class="failed"',
            "tag-reconstruction",
            "tag-own-model",
            "unfit here",
        ):
            assert needed in text, needed

    def test_only_tables_scroll_sideways(self, out: Path) -> None:
        """Hidden texts in a table are positioned; unless its box is too, they widen the page and not the box."""
        text = (out / "index.html").read_text()
        assert re.search(r"\.scroll \{[^}]*position: relative", text)
        assert text.count("<table") == len(re.findall(r'<div class="scroll"[^>]*>\s*<table', text))

    def test_tables_are_accessible(self, out: Path) -> None:
        text = (out / "index.html").read_text()
        tables = re.findall(r"<table class=\"sortable.*?</table>", text, re.DOTALL)
        assert tables
        for table in tables:
            assert "<caption>" in table
            assert 'scope="col"' in table
            assert 'scope="row"' in table

    def test_provenance_stands_at_the_foot(self, out: Path) -> None:
        foot = (out / "index.html").read_text().split('id="provenance"')[1]
        assert "Toy CPU" in foot
        assert "hash of builtin,id=toy,seed=0" in foot


class TestGallery:
    def test_best_median_and_worst_sample_of_every_explainer(self, out: Path) -> None:
        page = Page((out / "index.html").read_text())
        assert len(page.images) == 3 * (1 + 7)  # the sample itself, then each explainer's map
        assert all(image["alt"] for image in page.images)
        text = (out / "index.html").read_text()
        assert re.findall(r'class="role">(\w+)<', text) == ["best", "median", "worst"]

    def test_a_map_bears_its_own_score(self, made_once, out: Path) -> None:
        scores = made_once.scores()
        mine = (
            (scores.explainer == "chefer_lrp")
            & (scores.model == made_once.models[0])
            & (scores["sample"] == "test/00003")
        )
        value = scores[mine & (scores.column == "spatial_iou")]["value"].item()
        assert f'alt="chefer_lrp on test/00003 {value:.3f}"' in (out / "index.html").read_text()

    def test_an_explainer_without_maps_has_no_line(self, made, tmp_path: Path) -> None:
        made.write(tmp_path)
        path = tmp_path / f"gallery/{BOARD}.npz"
        arrays = dict(np.load(path))
        arrays["maps"][list(arrays["explainers"]).index("rollout")] = np.nan
        np.savez(path, **arrays, infrared=arrays["images"])
        write_report(tmp_path)
        page = Page((tmp_path / "index.html").read_text())
        assert len(page.images) == 3 * (2 + 6)
        assert not any(str(image["alt"]).startswith("rollout") for image in page.images)

    def test_a_board_without_pictures_has_no_gallery(self, made, tmp_path: Path) -> None:
        made.write(tmp_path)
        (tmp_path / f"gallery/{BOARD}.npz").unlink()
        write_report(tmp_path)
        assert "<h3>Gallery" not in (tmp_path / "index.html").read_text()


class TestHeatMaps:
    GREY = np.full((8, 8, 3), 128, dtype=np.uint8)

    def test_sign_is_shown_by_colour(self) -> None:
        drawn = heat_map(np.array([[1.0, -1.0]]), self.GREY, size=64).astype(int)
        left, right = drawn[32, 4], drawn[32, 60]
        assert left[0] > left[2] + 40
        assert right[2] > right[0] + 40

    def test_unsigned_maps_never_turn_blue(self) -> None:
        drawn = heat_map(np.array([[1.0, 0.0]]), self.GREY, size=64).astype(int)
        assert (drawn[..., 0] >= drawn[..., 2] - 1).all()

    def test_scale_does_not_matter(self) -> None:
        map_ = np.random.default_rng(0).normal(size=(4, 4))
        assert np.array_equal(heat_map(map_, self.GREY), heat_map(1e-6 * map_, self.GREY))

    def test_an_offset_of_an_unsigned_map_does_not_matter(self) -> None:
        map_ = np.random.default_rng(0).random((4, 4))
        map_ -= map_.min()
        assert np.abs(heat_map(map_, self.GREY).astype(int) - heat_map(map_ + 9, self.GREY)).max() <= 1

    @pytest.mark.parametrize("value", [0.0, 0.3])
    def test_a_constant_map_is_blank(self, value: float) -> None:
        drawn = heat_map(np.full((4, 4), value), self.GREY, size=8)
        assert np.ptp(drawn.reshape(-1, 3), axis=0).max() == 0

    def test_the_outline_runs_around_the_mask(self) -> None:
        mask = np.zeros((16, 16), dtype=bool)
        mask[4:8, 4:8] = True
        black = np.zeros((16, 16, 3), dtype=np.uint8)
        drawn = outlined(black, mask)
        assert drawn[3, 5].any()
        assert not drawn[5, 5].any()
        assert not drawn[12, 12].any()
        assert not black.any()

    def test_pictures_survive_the_palette(self) -> None:
        pixels = heat_map(np.eye(4), self.GREY, size=32)
        raw = base64.b64decode(data_uri(pixels).partition("base64,")[2])
        back = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")).astype(int)
        assert np.abs(back - pixels).mean() < 6


class TestRefusals:
    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(BadInputError, match=r"run\.json"):
            write_report(tmp_path)

    def test_a_frame_without_its_columns(self, made, tmp_path: Path) -> None:
        made.write(tmp_path, lambda scores: scores.drop(columns="reason"))
        with pytest.raises(BadInputError, match="reason"):
            write_report(tmp_path)

    def test_a_run_without_declarations(self, made, tmp_path: Path) -> None:
        made.write(tmp_path)
        (tmp_path / "run.json").write_text('{"suite": {}}')
        with pytest.raises(BadInputError, match="columns"):
            write_report(tmp_path)


@pytest.mark.parametrize(
    ("value", "spelled"),
    [(None, "–"), (0, "0.000"), (0.12345, "0.123"), (12.34, "12.3"), (12345.6, "12,346"), (-2e-5, "-2.0e-05")],
)
def test_numbers_are_spelled_by_size(value: float | None, spelled: str) -> None:
    assert figures_text.number(value) == spelled
