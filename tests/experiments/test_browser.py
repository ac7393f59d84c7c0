"""The page in a browser: what its script does to tables, curves, colours and pictures."""

import json
import re
import shutil
import subprocess

import pytest

from tests.experiments.reports import make
from tests.experiments.test_pictures import with_pictures

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Runs in the page; what it returns becomes the title.
SCRIPT = """
const at = (id) => document.getElementById(id);
const choose = (id, set) => { set(at(id)); at(id).dispatchEvent(new Event("change")); };
const table = document.querySelector("#summary table");
const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].firstChild.textContent);
const click = (column) => table.tHead.rows[0].cells[column].firstElementChild.click();
const found = { curves: at("validation_Set5-0").data.map((trace) => [trace.name, trace.y]) };
click(3); found.highest = names(); click(3); found.lowest = names();
choose("axis", (select) => { select.value = "iterations"; });
found.axis = [at("loss-0").layout.xaxis.title.text, at("loss-0").data[0].x];
found.scale = at("loss-0").layout.yaxis.type;
at("theme").click(); at("theme").click();
found.dark = [document.documentElement.dataset.theme, at("loss-0").layout.font.color];
choose("slide", (select) => { select.selectedIndex = 1; });
choose("left", (select) => { select.selectedIndex = 2; });
choose("right", (select) => { select.selectedIndex = 4; });
found.sides = [at("over").getAttribute("src"), at("under").getAttribute("src"), at("right-text").textContent];
at("position").value = 25; at("position").dispatchEvent(new Event("input"));
found.border = at("over").style.clipPath;
found.buttons = [...document.querySelectorAll(".modebar-btn")].map((button) => button.dataset.title);
document.title = JSON.stringify(found);
"""


@pytest.fixture
def drawn(tmp_path):
    return make(tmp_path, *with_pictures(tmp_path))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_script_of_the_page(drawn):
    page = drawn / "index.html"
    page.write_text(page.read_text().replace("</body>", f"<script>{SCRIPT}</script></body>"))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    dom = subprocess.run([*command, f"file://{page}"], capture_output=True, text=True, timeout=120).stdout
    found = json.loads(re.search("<title>(.*?)</title>", dom, re.DOTALL)[1])
    assert found["curves"] == [["A", [31.2, 31.4, 31.6]], ["B", [30.2, 30.4, 30.6]]]
    assert (found["highest"], found["lowest"]) == (["A", "B"], ["B", "A"])
    assert found["axis"] == ["iterations", [20, 40, 60]] and found["scale"] == "log"
    assert found["dark"] == ["dark", "#e4e8ed"]
    assert found["sides"] == ["picture_1_2.png", "picture_1_4.png", "GT"]
    assert found["border"].replace("0px", "0") == "inset(0 75% 0 0)"
    assert not {title for title in found["buttons"] if "cloud" in title.lower()}
