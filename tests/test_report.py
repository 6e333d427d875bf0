"""Report pages, parsed with the standard library: structure, escaping, contrast, divergence, determinism, size."""

from __future__ import annotations

import itertools
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import reports
import tqs_fast as tqs
from tqs_fast.reporting.charts.axes import linear, logarithmic
from tqs_fast.reporting.charts.marks import spread
from tqs_fast.reporting.markup import element
from tqs_fast.reporting.palette import DARK, DASHES, LIGHT
from tqs_fast.reporting.style import style_sheet

VOID = {"meta"}


class Node:
    def __init__(self, name, attributes):
        self.name, self.attributes, self.children, self.text = name, dict(attributes), [], ""

    def all(self, name):
        found = [self] if self.name == name else []
        return found + [node for child in self.children for node in child.all(name)]

    @property
    def whole_text(self):
        return self.text + "".join(child.whole_text for child in self.children)


class Page(HTMLParser):
    """A strict reader: every end tag must close the element that is open."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.root = Node("document", ())
        self.open, self.nodes = [self.root], []
        self.feed(text)
        self.close()
        assert self.open == [self.root], [node.name for node in self.open]

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), (tag, attributes)
        node = Node(tag, attributes)
        self.open[-1].children.append(node)
        self.nodes.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attributes):
        raise AssertionError(f"<{tag}/> is not closed in HTML")

    def handle_endtag(self, tag):
        assert self.open.pop().name == tag, tag

    def handle_data(self, data):
        self.open[-1].text += data


@pytest.fixture(scope="module")
def report():
    return reports.full()


@pytest.fixture(scope="module")
def page(report):
    return Page(report.html())


def test_the_structure_is_sound(page):
    ids = [node.attributes["id"] for node in page.nodes if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in page.nodes:
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(node.attributes.get(name, "").split()) <= set(ids)
        if node.name == "a":
            assert node.attributes["href"].removeprefix("#") in ids
    levels = [int(node.name[1]) for node in page.nodes if re.fullmatch("h[1-6]", node.name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.root.all("html")[0].attributes["lang"] == "en"
    assert page.root.all("title")[0].whole_text == "Quantization plan of made"
    assert page.root.all("body")[0].children[0].attributes["class"] == "skip"


def test_every_chart_has_a_title_a_description_and_its_figures_in_a_table(page):
    figures = page.root.all("figure")
    assert len(figures) == 4
    charts = [svg for svg in page.root.all("svg") if svg.attributes.get("role") == "img"]
    assert len(charts) == 4
    for svg in page.root.all("svg"):
        assert svg in charts or svg.attributes["aria-hidden"] == "true"
    for figure, svg in zip(figures, charts, strict=True):
        title, description = svg.children[:2]
        assert (title.name, description.name) == ("title", "desc")
        assert len(title.whole_text) > 10
        assert len(description.whole_text) > 30
        assert svg.attributes["aria-labelledby"] == f"{title.attributes['id']} {description.attributes['id']}"
        assert figure.all("figcaption")
        assert len(svg.all("text")) >= 6  # text stays text
    tables = {table.attributes["id"] for table in page.root.all("table")}
    assert tables >= {"heat-table", "curves-table", "frontier-table", "measured-table", "plan-table"}


def test_tables_name_their_columns_and_rows(page):
    for table in page.root.all("table"):
        assert table.children[0].name == "caption"
        columns = table.all("thead")[0].all("th")
        assert all(head.attributes["scope"] == "col" for head in columns)
        for row in table.all("tbody")[0].all("tr"):
            assert row.children[0].name == "th"
            assert row.children[0].attributes["scope"] == "row"
            assert len(row.children) == len(columns)


def test_what_scrolls_is_reached_with_the_keyboard(page):
    boxes = [node for node in page.nodes if node.attributes.get("class") in ("scroll", "wide")]
    assert len(boxes) > 8
    for node in boxes:
        assert node.attributes["tabindex"] == "0"
        assert node.attributes["role"] == "region"
        assert node.attributes["aria-label"]
    for details in page.root.all("details"):
        assert details.children[0].name == "summary"


def test_nothing_is_loaded_from_anywhere(report, page):
    assert not {node.name for node in page.nodes} & {
        "script",
        "link",
        "img",
        "image",
        "iframe",
        "object",
        "use",
        "base",
    }
    for node in page.nodes:
        for name, value in node.attributes.items():
            assert name not in ("src", "srcset", "style"), (node.name, name)
            assert not name.startswith("on"), (node.name, name)
            assert "://" not in value
    assert "url(" not in report.html()
    assert "@import" not in report.html()
    policy = next(node for node in page.nodes if node.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'")


def test_the_figures_are_those_of_the_table_and_the_plan(report, page):
    table = next(t for t in page.root.all("table") if t.attributes["id"] == "heat-table")
    for i, row in enumerate(table.all("tbody")[0].all("tr")):
        name, _, *cells = [cell.whole_text for cell in row.children]
        assert name == report.table.layers[i].name
        for j, bits in enumerate(report.table.bits):
            assert float(cells[j].removeprefix("✓ ")) == pytest.approx(report.table.damage[i, j], rel=6e-3)
            assert cells[j].startswith("✓ ") == (report.plan.bits[name] == bits)
    words = page.root.all("main")[0].whole_text
    assert f"{report.plan.bytes:,} bytes" in words
    predicted = sum(report.plan.damage.values())
    assert f"Predicted damage, the sum of what its layers do alone: {predicted:.3g}." in words
    for name, error in report.evaluations.items():
        low, high = error.interval
        assert f"evaluation “{name}”" in words
        assert f"{error.damage:.3g}, 95 % interval {low:.3g} to {high:.3g}" in words


def test_marks_lie_where_the_scales_say(report, page):
    """The plan's measured mark in the column of intervals: its place is the logarithm of its damage."""
    svg = next(s for s in page.root.all("svg") if s.attributes.get("id") == "intervals-chart")
    places = {}
    for mark in [*svg.all("polygon"), *svg.all("circle")]:
        if " full" in mark.attributes["class"]:
            name, _, rest = mark.whole_text.partition(": measured ")
            points = mark.attributes.get("points")
            xs = [float(p.split(",")[0]) for p in points.split()] if points else [float(mark.attributes["cx"])]
            places[name] = (math.log(float(rest.split(",")[0])), (min(xs) + max(xs)) / 2)
    logs, xs = np.array(list(places.values())).T
    assert len(logs) == 5  # two evaluations, three candidates
    slope, offset = np.polyfit(logs, xs, 1)
    np.testing.assert_allclose(slope * logs + offset, xs, atol=1.0)
    assert slope > 0


def luminance(colour):
    """WCAG 2.2, relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear_parts = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear_parts[0] + 0.7152 * linear_parts[1] + 0.0722 * linear_parts[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_formula_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast_meets_wcag_aa(scheme):
    for text in (scheme.text, scheme.muted, scheme.link):
        for background in (scheme.page, scheme.panel):
            assert contrast(text, background) >= 4.5, (text, background)
    for background, text in scheme.heat:
        assert contrast(text, background) >= 4.5, (text, background)
    for colour in (*scheme.series, scheme.quiet):
        assert contrast(colour, scheme.panel) >= 3, colour
    brightness = [luminance(background) for background, _ in scheme.heat]
    assert brightness == sorted(brightness, reverse=scheme is LIGHT)


def test_the_style_sheet_uses_only_colours_of_the_palette(page):
    rules = style_sheet()
    used = set(re.findall(r"var\(--([\w-]+)\)", rules))
    defined = set(re.findall(r"--([\w-]+):", rules))
    assert used <= defined
    assert set(re.findall(r"#[0-9a-f]{6}", rules)) <= set(re.findall(r"#[0-9a-f]{6}", f"{LIGHT}{DARK}"))
    assert len(LIGHT.series) == len(DARK.series) == len(DASHES)
    assert len(LIGHT.heat) == len(DARK.heat)
    classes = {name for node in page.nodes for name in node.attributes.get("class", "").split()}
    styled = set(re.findall(r"\.([a-z]\w*)", rules))
    assert classes <= styled | {"note", "facts", "next"}, classes - styled


def test_names_are_escaped():
    scored = reports.table(4, names=reports.HOSTILE)
    plan = tqs.allocate(scored, average_bits=4.5)
    evaluation = {"<b>&'\"": reports.error(0.02)}
    page = Page(tqs.Report(scored, plan, search=reports.search(scored, plan), evaluation=evaluation).html())
    assert not page.root.all("script")
    assert not page.root.all("b")
    text = page.root.whole_text
    for name in (*reports.HOSTILE[:3], "\ufffd\ufffd café 层", "<b>&'\""):
        assert name in text
    assert str(element("p", "<&>", title='"')) == '<p title="&quot;">&lt;&amp;&gt;</p>'


def test_diverged_rollouts_are_said_and_drawn_around():
    scored = reports.table(6, diverged=[(0, 0), (2, 1)], zero=[(1, 3)])
    plan = reports.uniform(scored, 3)
    page = Page(tqs.Report(scored, plan, search=reports.search(scored, plan, diverged=True), evaluation=None).html())
    text = page.root.whole_text
    assert "A rollout of this plan diverges" in text
    assert "2 of the scored variants (a layer at a bit-width) diverged" in text
    for svg in page.root.all("svg"):
        for node in svg.all("path") + svg.all("line") + svg.all("polygon") + svg.all("circle"):
            assert not re.search("nan|inf", " ".join(node.attributes.values())), node.attributes
    chart = next(svg for svg in page.root.all("svg") if svg.attributes.get("id") == "frontier-chart")
    ours = [mark for mark in chart.all("polygon") if mark.whole_text.startswith("this plan")]
    assert [" full" in mark.attributes["class"] for mark in ours] == [True]  # measured, and no finite prediction
    heat = next(t for t in page.root.all("table") if t.attributes["id"] == "heat-table")
    lost = [cell for cell in heat.all("td") if "diverged" in cell.attributes.get("class", "")]
    assert [cell.whole_text for cell in lost] == ["diverged", "✓ diverged"]


def test_a_table_where_everything_diverges_still_gives_a_page():
    scored = reports.table(2, diverged=[(i, j) for i in range(2) for j in range(4)])
    page = Page(tqs.Report(scored, reports.uniform(scored, 4), evaluation=reports.error(math.inf)).html())
    assert "diverged" in page.root.whole_text


@pytest.mark.parametrize("horizon", [1, 2])
def test_short_curves(horizon):
    scored = reports.table(3, horizon=horizon)
    page = Page(tqs.Report(scored, tqs.allocate(scored, average_bits=5)).html())
    charts = {svg.attributes.get("id") for svg in page.root.all("svg")}
    assert ("curves-chart" in charts) == (horizon > 1)
    assert "Nothing was rolled out with this plan yet" in page.root.whole_text
    assert "tqs-fast search made table.json plan.json" in page.root.whole_text


def test_a_better_plan_that_was_measured_is_recommended(report, page):
    assert "The search measured less damage for “searched 1”" in page.root.whole_text
    kept = Page(tqs.Report(report.table, report.search.plan, search=report.search).html()).root.whole_text
    assert "No plan that was measured does better at this size" in kept
    assert "this plan (searched 1)" in kept
    ratio, low, high = report.search.error.ratio(report.search.candidate("uniform 4").error)
    assert f"{ratio:.3g} ({low:.3g} to {high:.3g})" in kept


def test_float_layers_and_bits_that_were_not_scored():
    scored = reports.table(3)
    bits = dict.fromkeys((layer.name for layer in scored.layers), 4)
    first, *_ = bits
    text = Page(tqs.Report(scored, tqs.Plan(bits | {first: None}, scored.layers)).html()).root.whole_text
    assert "✓ float" in text
    narrow = tqs.Sensitivity(
        **{name: getattr(scored, name) for name in ("layers", "quantizer", "families", "family_of", "gain",
                                                    "growth_rate", "growth_window", "provenance")},
        bits=(2, 3),
        samples=scored.samples[:, :2],
        curve=scored.curve[:, :2],
        relative_error=scored.relative_error[:, :2],
    )  # fmt: skip
    text = Page(tqs.Report(narrow, tqs.Plan(bits, scored.layers)).html()).root.whole_text
    assert "the sum of what its layers do alone: unknown" in text


def test_the_same_input_gives_the_same_bytes(report, tmp_path):
    report.save(tmp_path / "one.html")
    scored, found = report.table, report.search
    scored.save(tmp_path / "table.json")
    report.plan.save(tmp_path / "plan.json")
    found.save(tmp_path / "search.json")
    for name, error in report.evaluations.items():
        error.save(tmp_path / f"{name}.json")
    again = tqs.Report(
        tqs.Sensitivity.load(tmp_path / "table.json"),
        tqs.Plan.load(tmp_path / "plan.json"),
        search=tqs.SearchResult.load(tmp_path / "search.json"),
        evaluation={name: tqs.RolloutError.load(tmp_path / f"{name}.json") for name in report.evaluations},
    )
    again.save(tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_three_hundred_layers_stay_small():
    report = reports.full(300, horizon=96, diverged=[(3, 0)])
    text = report.html()
    assert len(text.encode()) < 2_000_000
    assert len(Page(text).root.all("svg")) > 4


def test_scales():
    scale = logarithmic([1e-3, 1e-1, math.inf, math.nan, 0.0], 0, 100)
    assert scale(1e-2) == pytest.approx(50)
    assert scale(0) == 0
    assert scale(1e9) == 100
    assert [text for _, text in scale.ticks()] == ["10⁻³", "10⁻²", "10⁻¹"]
    for values in ([], [0.0], [math.inf], [5.0], [1e-300, 1e300]):
        found = logarithmic(values, 0, 100)
        assert 1 <= len(found.ticks()) <= 8
    assert [text for _, text in linear([20_000, 60_000], 0, 100).ticks()] == ["20k", "30k", "40k", "50k", "60k"]
    assert linear([7], 0, 1)(7) == pytest.approx(0.5)


def test_labels_keep_apart():
    rng = np.random.default_rng(0)
    for _ in range(50):
        wanted = rng.uniform(0, 100, size=5).tolist()
        placed = spread(wanted, 0, 100, 15)
        order = np.argsort(wanted, kind="stable")
        assert np.diff(np.array(placed)[order]).min() >= 15 - 1e-9
        assert min(placed) >= -1e-9
        assert max(placed) <= 100 + 1e-9
    assert spread([10.0, 50.0, 90.0], 0, 100, 15) == [10.0, 50.0, 90.0]


def test_what_does_not_fit_is_refused(report, tmp_path):
    other = reports.table(5)
    with pytest.raises(tqs.ArgumentError, match="the plan to be about the 5 layers"):
        tqs.Report(other, report.plan)
    with pytest.raises(tqs.ArgumentError, match="the search to be about"):
        tqs.Report(other, tqs.allocate(other, average_bits=5), search=report.search)
    with pytest.raises(tqs.ArgumentError, match="expected plan to be a Plan"):
        tqs.Report(report.table, report.table)
    with pytest.raises(tqs.ArgumentError, match="expected evaluation 'x' to be a RolloutError"):
        tqs.Report(report.table, report.plan, evaluation={"x": 1.0})
    with pytest.raises(tqs.ArgumentError, match=r"Report\.save"):
        report.save(tmp_path / "no" / "page.html")


def test_rollout_errors_are_read_strictly(report, tmp_path):
    error = reports.error(0.01)
    error.save(tmp_path / "error.json")
    loaded = tqs.RolloutError.load(tmp_path / "error.json")
    assert (loaded.damage, loaded.interval, loaded.provenance) == (error.damage, error.interval, error.provenance)
    document = json.loads((tmp_path / "error.json").read_text())
    document["family_of"][0] = 7
    (tmp_path / "error.json").write_text(json.dumps(document))
    with pytest.raises(tqs.FileFormatError, match="families do not match"):
        tqs.RolloutError.load(tmp_path / "error.json")
