"""Reports of experiments, and how to read them."""

import csv
import io
from html.parser import HTMLParser

from contrast_arch.experiments import report
from tests.experiments.writing import Start, whole_run

FILES = {"index.html", "report.md", "curves.csv", "summary.csv", "loss.png", "parameters.png", "validation_Set5.png"}
VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """Elements with their attributes, and whether every element that is opened is closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def make(tmp_path, *folders, output="out"):
    report.run(list(folders), tmp_path / output)
    return tmp_path / output


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def three_runs(root):
    """Two whole runs, and a shorter one."""
    folders = [whole_run(root, f"train_{name}_SRx4", psnr) for name, psnr in (("Contrast", 30.0), ("HATLight", 29.0))]
    start = Start(root, "train_Mamba_a_SRx4")
    start.train({10: 0.1, 20: 0.1})
    start.validate(20, psnr=28.0, ssim=0.7)
    start.train({30: 0.3})
    return [*folders, start.folder]
