"""Reports of experiments, and how to read them."""

import csv
import json
import re
from html.parser import HTMLParser

import pytest

from contrast_arch.experiments import charts, report
from tests.experiments.writing import Start, whole_run

FILES = {"index.html", "report.md", "curves.csv", "summary.csv", "loss.png", "validation_Set5.png"}


@pytest.fixture(autouse=True)
def no_drawing(request, monkeypatch):
    """Drawing and plotly's script take most of the time; tests that take ``drawn`` have them."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(charts, "png", lambda chart: b"")
        monkeypatch.setattr(report, "get_plotlyjs", lambda: "")


class Page(HTMLParser):
    """Elements of a page, without its scripts; every element that is opened is closed in turn."""

    def __init__(self, out):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.html = re.sub(r"<script>.*?</script>", "", (out / "index.html").read_text(), flags=re.DOTALL)
        self.feed(self.html)
        self.close()
        assert self.open == []
        self.data = json.loads(re.search(r'type="application/json" id="data">(.*?)</script>', self.html)[1])
        found = {c["name"]: c["panels"] for c in self.data["charts"]}
        self.panels = {f"{name}-{i}": panel for name, panels in found.items() for i, panel in enumerate(panels)}

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def curves(self, panel):
        return {curve["label"]: curve for curve in self.panels[panel]["curves"]}


def make(tmp_path, *folders, output="out"):
    report.run(list(folders), tmp_path / output)
    return tmp_path / output


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def three_runs(root):
    """Two whole runs, and a shorter one."""
    folders = [
        whole_run(root, f"train_{name}_from_scratch", psnr) for name, psnr in (("Contrast", 30.0), ("HATLight", 29.0))
    ]
    start = Start(root, "train_Mamba_a_from_scratch")
    start.train({10: 0.1, 20: 0.1})
    start.validate(20, psnr=28.0, ssim=0.7)
    start.train({30: 0.3})
    return [*folders, start.folder]
