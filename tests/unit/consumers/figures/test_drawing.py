"""What is drawn stands where its values say, and is XML whatever names and values there are."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from smarttuner.consumers.figures.axis import Axis
from smarttuner.consumers.figures.drawing import MAX_POINTS, PANEL, PLOT, Curve, Figure, Panel, svg_text
from smarttuner.consumers.figures.marks import Mark

SVG = "{http://www.w3.org/2000/svg}"
NAN = float("nan")


def curve(values, steps=None, name="run", number=0, **options):
    values = np.array(values, float)
    return Curve(name, number, np.arange(len(values)) if steps is None else np.array(steps), values, **options)


def mark(action="prune", status="applied", step=2, value=1.0, **changes):
    said = {"label": action, "text": f"{action} because"} | changes
    return Mark(action, status, step, value, **said)


def drawn(*panels, **options):
    return ElementTree.fromstring(svg_text(Figure("a figure", [*panels], **options)))


def lines_of(svg, number=0):
    """The points of a curve, a list a line."""
    path = svg.findall(f".//{SVG}g[@class='curve']/{SVG}path")[number].get("d")
    parts = [part for part in path.split("M") if part]
    return [[tuple(map(float, point.split(","))) for point in part.replace("h0", "").split()] for part in parts]


def test_points_stand_where_their_values_say():
    values, steps = [3.0, 1.0, 2.0, 8.0], [10, 20, 40, 80]
    (line,) = lines_of(drawn(Panel("val_loss", [curve(values, steps)])))
    across, up = Axis.over(10.0, 80.0, padding=0.01), Axis.over(1.0, 8.0)
    expected = [(across.place(s) * PLOT, (1 - up.place(v)) * PANEL) for s, v in zip(steps, values, strict=True)]
    assert line == [pytest.approx(point, abs=0.051) for point in expected]
    assert line[3][1] < line[0][1] < line[1][1]  # what is greater stands higher


def test_the_axis_of_steps_is_one_for_all_panels():
    svg = drawn(Panel("a", [curve([1, 2], [0, 100])]), Panel("b", [curve([5, 6], [0, 50])]))
    assert lines_of(svg, 0)[0][0][0] == lines_of(svg, 1)[0][0][0]
    assert lines_of(svg, 1)[0][1][0] == pytest.approx(PLOT / 2, abs=0.1)


def test_gaps_and_single_points():
    assert [len(line) for line in lines_of(drawn(Panel("x", [curve([1, 2, NAN, 4, 5])])))] == [2, 2]
    assert [len(line) for line in lines_of(drawn(Panel("x", [curve([7])])))] == [1]
    svg = drawn(Panel("x", [curve([NAN, float("inf")])], [mark(step=0, value=NAN)]))
    assert "no finite value" in "".join(svg.itertext())
    assert len(svg.findall(f".//{SVG}g[@class='mark applied']/{SVG}path")) == 2


def test_a_logarithmic_axis_leaves_out_what_it_cannot_show():
    svg = drawn(Panel("x", [curve([100.0, 10.0, 0.0, -1.0, 1.0])]), log=True)
    first, second = lines_of(svg)
    heights = [y for _, y in (*first, *second)]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.11)
    assert "no value above 0" in "".join(drawn(Panel("x", [curve([0.0, -1.0])]), log=True).itertext())


@pytest.mark.parametrize(
    ("status", "dashes", "filled"), [("applied", None, True), ("would", "5 3", False), ("refused", "1 4", False)]
)
def test_a_decision_is_a_symbol_on_its_curve_and_a_line(status, dashes, filled):
    svg = drawn(Panel("x", [curve([4.0, 2.0, 1.0, 1.5])], [mark("scale-lr", status, label="lr × 0.5", text="why <so> & when")]))
    (group,) = svg.findall(f".//{SVG}g[@class='mark {status}']")
    line, symbol = group.findall(f"{SVG}path")
    x, y = lines_of(svg)[0][2]
    assert line.get("stroke-dasharray") == dashes
    assert line.get("d") == f"M{x},0 V{PANEL:.1f}"
    assert symbol.get("transform") == f"translate({x} {y})"
    assert (symbol.get("fill") != "#ffffff") == filled
    assert group.find(f"{SVG}title").text == "why <so> & when"
    assert group.find(f"{SVG}text").text == "lr × 0.5"
    assert f"scale-lr: {status}" in "".join(svg.itertext())


def test_labels_do_not_stand_on_each_other_and_a_group_has_no_lines():
    many = [mark(step=step, value=NAN) for step in range(100)]
    assert 2 <= len(drawn(Panel("x", [curve(range(100))], many)).findall(f".//{SVG}g[@class='mark applied']/{SVG}text")) <= 30
    svg = drawn(Panel("x", [curve(range(100))], many), lines=False)
    assert len(svg.findall(f".//{SVG}g[@class='mark applied']/{SVG}path")) == 100


def test_a_mark_beside_the_steps_that_were_logged_stands_at_the_edge():
    svg = drawn(Panel("x", [curve([1.0, 2.0])], [mark(step=10**9, value=2.0)]))
    (symbol,) = svg.findall(f".//{SVG}g[@class='mark applied']/{SVG}path[@transform]")
    assert symbol.get("transform").startswith(f"translate({PLOT:.1f} ")


def test_a_hundred_curves_of_ten_thousand_points_are_a_bounded_file():
    random = np.random.default_rng(1)
    curves = [curve(random.standard_normal(10_000), name=f"run-{i}", number=i) for i in range(100)]
    text = svg_text(Figure("many", [Panel("x", curves)], lines=False))
    assert len(text) < 3_000_000
    svg = ElementTree.fromstring(text)
    assert all(sum(map(len, lines_of(svg, i))) <= MAX_POINTS for i in (0, 50, 99))
    assert len(set(re.findall('class="curve"><title>([^<]+)', text))) == 100
    assert "and 76 more" in text


def test_ten_thousand_curves_are_too():
    curves = [curve(np.arange(200.0) * i, name=f"run-{i}", number=i) for i in range(10_000)]
    assert len(svg_text(Figure("many", [Panel("x", curves)], lines=False))) < 8_000_000


def test_names_that_xml_cannot_hold_are_drawn_all_the_same():
    svg = drawn(Panel('<"&>\x00\x1b\ufffe', [curve([1.0, 2.0], name="a\x07b")], [mark(text="\x00")]), notes=["\x01"])
    assert '<"&>\ufffd\ufffd\ufffd' in list(svg.itertext())


@pytest.mark.parametrize("values", [[1e308, -1e308], [5e-324, 0.0], [1.0, 1.0], [0.0], [1e300, 1e-300]])
@pytest.mark.parametrize("log", [False, True])
def test_values_at_the_ends_of_the_floats_stay_in_the_panel(values, log):
    svg = drawn(Panel("x", [curve(values)], [mark(value=values[0])]), log=log)
    assert "nan" not in ElementTree.tostring(svg, encoding="unicode").lower().replace("no finite", "")
    if any(value > 0 for value in values):
        assert all(0 <= y <= PANEL for line in lines_of(svg) for _, y in line)
