"""The page: nothing to fetch, small, its data whole; in a real browser it folds, opens, finds and stays silent."""

from __future__ import annotations

import json
import re
import shutil
from itertools import combinations
from xml.etree import ElementTree

import pytest
from test_graph import NASTY, run
from test_graph_kinds import losses, perceptron, recurrent_penalty

import tinygrad_rnn as tg
from tinygrad_rnn.nn import GRU, LSTM, RNN

SVG = "{http://www.w3.org/2000/svg}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def measured(make=LSTM, layers=2, steps=20, hidden=8, **named):
    net = make(4, hidden, layers, **named)
    with tg.viz.watch():
        loss = (net(tg.randn(steps, 2, 4))[0][-1] ** 2).mean().named("loss")
    return net, loss


def page_of(loss, net=None, level="gate", color="grad", **look):
    return tg.viz.graph(loss, level=level, color=color, module=net, **look).to_bytes("html").decode()


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" class="data">(.*?)</script>', page, re.S).group(1))


def svg_of(page):
    return ElementTree.fromstring(re.search(r"<svg.*?</svg>", page, re.S).group(0))


# --- The file ---


def test_fifty_steps_of_two_layers_are_less_than_a_megabyte():
    net, loss = measured(steps=50, hidden=32)
    page = page_of(loss, net)
    assert len(page.encode()) < 1_000_000
    assert len(data_of(page)["steps"]) == 50


def test_there_is_nothing_to_fetch():
    net, loss = measured()
    page = page_of(loss, net)
    rest = page.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|fetch\(|XMLHttp|import\(|<link|<iframe", rest)
    assert not re.search(r"\bsrc=", rest)
    assert re.findall(r'href="([^"]*)"', rest) == ["${canvas.toDataURL()}"]


@pytest.mark.parametrize("level", ["op", "gate", "cell", "layer"])
def test_the_picture_is_xml_and_every_id_is_in_the_data(level):
    net, loss = measured(steps=9)
    page = page_of(loss, net, level)
    known = {id for one in data_of(page)["levels"].values() for id in one["id"]}
    ids = [element.get("id") for element in svg_of(page).iter() if element.get("id")]
    assert ids and len(ids) == len(set(ids)) and set(ids) <= known


def test_the_data_is_the_graph():
    net, loss = measured(GRU, layers=1, steps=9)
    data = data_of(page_of(loss, net))
    for level in ("op", "gate", "cell", "layer"):
        graph = tg.viz.graph(loss, level=level, fold=None, color="grad", module=net).graph
        found = data["levels"][level]
        assert found["id"] == [node.id for node in graph.nodes]
        assert found["step"] == [node.step for node in graph.nodes]
        ends = [(found["id"][a], found["id"][b], times) for a, b, _, _, times in found["edges"]]
        assert ends == [(edge.source, edge.target, edge.times) for edge in graph.edges]
        for norm, node in zip(found["grad"], graph.nodes):
            assert (norm is None) == (node.gradient is None)
            assert norm is None or norm[0] == pytest.approx(node.gradient.norm, rel=1e-3)
    assert data["hidden"] == list(range(2, 8)) and data["color"] == "grad"


def test_labels_survive_whatever_is_in_them():
    weight = tg.ones(3, requires_grad=True)
    nasty = f"{NASTY} </script><!--data-->"
    page = tg.viz.graph((weight * 2.0).named(nasty), names={nasty: weight}).to_bytes("html").decode()
    names = {line[0] for stamp in data_of(page)["stamps"] for line in stamp["lines"]}
    assert nasty in names and nasty in {text.text for text in svg_of(page).iter(f"{SVG}text")}
    assert page.count("</script>") == 2


def test_to_html_writes_the_same(tmp_path):
    net, loss = measured(RNN, 1, 3)
    picture = tg.viz.graph(loss, module=net)
    picture.to_html(tmp_path / "a.html")
    picture.save(tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes() == picture.to_bytes("html")


# --- In a browser ---


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-quic", "--disable-component-update", "--disable-sync"]
    with driver.sync_playwright() as run:
        opened = run.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield opened
        opened.close()


class Opened:
    """A page in a window, and what its console said."""

    def __init__(self, browser, tmp_path, page, **window):
        self.said, self.fetched = [], []
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8")
        self.window = browser.new_page(viewport={"width": 1400, "height": 900}, **window)
        self.window.on("console", lambda message: self.said.append(message.text))
        self.window.on("pageerror", lambda trouble: self.said.append(str(trouble)))
        self.window.on("request", lambda request: self.fetched.append(request.url))
        self.window.goto(path.as_uri())
        self.data = data_of(page)

    def ids(self):
        return self.window.eval_on_selector_all("svg [id]", "all => all.map(one => one.id)")

    def level(self, name):
        self.window.check(f"input[value={name}]")

    def rectangles(self):
        return self.window.eval_on_selector_all(
            "g.node > rect, g.chip > rect",
            "all => all.map(one => ['x', 'y', 'width', 'height'].map(name => Number(one.getAttribute(name))))",
        )

    def check(self):
        known = {id for level in self.data["levels"].values() for id in level["id"]}
        ids = self.ids()
        assert ids and len(ids) == len(set(ids)) and set(ids) <= known
        assert self.window.evaluate("new XMLSerializer().serializeToString(document.querySelector('svg'))")
        assert self.said == []
        assert [url for url in self.fetched if not url.startswith(("file:", "data:"))] == []


@pytest.mark.browser
def test_a_browser_shows_each_level_and_colour(browser, tmp_path):
    net, loss = measured()
    page = Opened(browser, tmp_path, page_of(loss, net))
    counts = {}
    for level in ("op", "gate", "cell", "layer"):
        page.level(level)
        page.check()
        counts[level] = len(page.ids())
        shown = tg.viz.graph(loss, level=level, color="grad", module=net).graph.nodes
        assert counts[level] == len(shown)
        assert set(page.ids()) == {node.id for node in shown}
    page.level("gate")
    for color in ("none", "value", "saturation", "grad"):
        page.window.select_option(".color", color)
        page.check()
    assert counts["op"] > counts["gate"] > counts["cell"] > counts["layer"]


@pytest.mark.browser
def test_a_browser_opens_an_ellipsis_and_a_cell_and_closes_them(browser, tmp_path):
    net, loss = measured()
    page = Opened(browser, tmp_path, page_of(loss, net, "cell"))
    folded = len(page.ids())
    page.window.locator("g.node.clicks", has_text="· · ·").first.click()
    unfolded = len(page.ids())
    assert unfolded == len(tg.viz.graph(loss, level="cell", fold=None, module=net).graph.nodes) > folded
    page.check()
    page.window.locator("g.node.clicks").first.click()  # a cell
    gates = len(
        [
            node
            for node in tg.viz.graph(loss, level="gate", fold=None).graph.nodes
            if (node.layer, node.step) == (0, 0) and node.kind == "group"
        ]
    )
    assert len(page.ids()) == unfolded - 1 + gates
    page.window.locator("g.frame").first.click(position={"x": 4, "y": 4})
    assert len(page.ids()) == unfolded
    page.window.locator("[data-step]").nth(4).click()  # folds that step: an ellipsis for each layer and the input
    assert len(page.ids()) == unfolded and "1 step folded" in page.window.inner_text(".status")
    page.window.click("text=Fold >> nth=0")
    assert len(page.ids()) == folded
    page.check()


@pytest.mark.browser
def test_a_browser_is_driven_by_keys(browser, tmp_path):
    net, loss = measured(steps=9)
    page = Opened(browser, tmp_path, page_of(loss, net))

    def box():
        return page.window.get_attribute("svg", "viewBox")

    before = box()
    page.window.keyboard.press("ArrowRight")
    moved = box()
    page.window.keyboard.press("+")
    assert len({before, moved, box()}) == 3
    page.window.keyboard.press("3")
    assert "level cell" in page.window.inner_text(".status")
    page.level("op")
    page.window.keyboard.press("3")  # also where a choice has the focus
    assert "level cell" in page.window.inner_text(".status")
    cell = page.window.locator("g.node.clicks").first
    cell.focus()
    count = len(page.ids())
    page.window.keyboard.press("Enter")
    assert len(page.ids()) > count
    page.window.keyboard.press("/")
    page.window.keyboard.type("loss")
    assert "1 node found" in page.window.inner_text(".status")
    assert page.window.locator("g.hit").count() == 1
    page.window.keyboard.press("Enter")
    page.check()


@pytest.mark.browser
def test_a_browser_shows_what_a_node_depends_on_and_what_depends_on_it(browser, tmp_path):
    net, loss = measured(layers=1, steps=3)
    page = Opened(browser, tmp_path, page_of(loss, net, params="none"))
    (id,) = [n.id for n in tg.viz.graph(loss, level="gate").graph.nodes if n.label == "cell" and n.step == 1]
    page.window.hover(f"g[id='{id}']")
    on = set(page.window.eval_on_selector_all("g.node.on", "all => all.map(one => one.id)"))
    graph = tg.viz.graph(loss, level="gate", module=net).graph
    expected = {id}
    for a, b in (("source", "target"), ("target", "source")):
        reached, stack = {id}, [id]
        while stack:
            here = stack.pop()
            for edge in graph.edges:
                if getattr(edge, a) == here and getattr(edge, b) not in reached:
                    reached.add(getattr(edge, b))
                    stack.append(getattr(edge, b))
        expected |= reached
    assert on == {id for id in expected if graph[id].kind != "parameter"}


@pytest.mark.browser
def test_a_browser_shows_every_node_in_a_table_and_the_charts(browser, tmp_path):
    net, loss = measured(steps=9)
    page = Opened(browser, tmp_path, page_of(loss, net))
    page.window.click("text=All nodes as a table")
    page.window.wait_for_selector("tbody tr")
    rows = page.window.locator("tbody tr").count()
    assert rows == len(page.data["levels"]["gate"]["id"])
    points = page.window.locator("svg circle").count()
    assert points == 2 * 2 * 9  # hidden and cell state, in two layers, at nine steps
    assert page.window.locator("svg image").count() == len(page.data["units"]) * 4  # three steps and an ellipsis
    page.check()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_other_graphs(browser, tmp_path, scheme):
    nets, several = losses(9)
    pages = [
        tg.viz.compare(several, modules=nets).to_bytes("html").decode(),
        page_of(recurrent_penalty(), None),
        page_of(recurrent_penalty("auto", LSTM, 12), None),
        page_of(perceptron(), None),
        page_of((tg.tanh(tg.ones(2, requires_grad=True)) * 3.0).sum(), None),
        page_of(run(GRU, bidirectional=True)[2], None, color="none"),
    ]
    for text in pages:
        page = Opened(browser, tmp_path, text, color_scheme=scheme)
        for level in ("op", "gate", "cell", "layer"):
            page.level(level)
            page.check()
            for (x, y, w, h), (left, top, wide, high) in combinations(page.rectangles(), 2):
                assert x + w <= left + 0.11 or left + wide <= x + 0.11 or y + h <= top + 0.11 or top + high <= y + 0.11
        page.window.close()


@pytest.mark.browser
def test_it_prints_whole_and_fits_a_window_that_changes(browser, tmp_path):
    net, loss = measured(layers=1, steps=9)
    page = Opened(browser, tmp_path, page_of(loss, net))

    def box():
        return [float(number) for number in page.window.get_attribute("svg", "viewBox").split()]

    for _ in range(5):
        page.window.keyboard.press("+")
    close = box()
    page.window.evaluate("dispatchEvent(new Event('beforeprint'))")
    left, top, width, height = box()
    ends = [(x + w, y + h) for x, y, w, h in page.rectangles()]
    assert left + width >= max(x for x, _ in ends) and top + height >= max(y for _, y in ends) and width > close[2]
    page.window.evaluate("dispatchEvent(new Event('afterprint'))")
    assert box() == close
    page.window.set_viewport_size({"width": 700, "height": 800})
    page.window.wait_for_function(
        f"document.querySelector('svg').getAttribute('viewBox') !== '{' '.join(map(str, close))}'"
    )
    assert len(page.window.pdf()) > 10_000
    page.check()


@pytest.mark.browser
def test_without_a_script_there_is_the_picture(browser, tmp_path):
    net, loss = measured(layers=1, steps=3)
    page = Opened(browser, tmp_path, page_of(loss, net), java_script_enabled=False)
    assert page.window.locator("svg g").count() > 10
