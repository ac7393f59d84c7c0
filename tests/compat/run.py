"""Real projects with contrast_arch in them: every way to import it, trained, resumed and tested on a CPU.

Usage, from the root of this repository: ``python tests/compat/run.py PROJECT_FOLDER...``. A folder is a clone of a
project, or the ``basicsr`` folder of an installed BasicSR. Each way works on a copy. What a project needs must be
installed, or be on ``--path``; its own packages are found as after its ``setup.py develop``, through PYTHONPATH. The
table goes to stdout or into the Markdown file of ``--output``, between its marks. Projects without BasicSR are tried as
``others.py`` says, and have a table of their own.
"""

import argparse
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.compat.others import COLUMNS, HEADER, OTHERS, FailedError, try_other  # noqa: E402
from tests.conftest import SET5, TINY, tiny_options  # noqa: E402

IMPORT = "import contrast_arch\n"
CONTRAST_TRAIN = "`contrast-train`"
END = "<!-- end -->"
MARK, OTHERS_MARK = "<!-- tests/compat/run.py -->", "<!-- tests/compat/run.py: others -->"


@dataclass(frozen=True)
class Project:
    """Layout of a project.

    Attributes:
        models: its own model types that run on a CPU.
        package: its folder with archs/ and the scripts.
        imports: for contrast-train, where its own names are registered outside of basicsr.
        dataset: keys of its datasets besides BasicSR's.
        scripts: those that it has.
    """

    models: tuple[str, ...] = ()
    package: str = "basicsr"
    imports: tuple[str, ...] = ()
    dataset: dict = field(default_factory=dict)
    scripts: tuple[str, ...] = ("train", "test")


# By the name of the folder; others are taken for BasicSR's like.
PROJECTS = {
    "basicsr": Project(("SwinIRModel",)),
    "BasicSR": Project(("SwinIRModel",)),
    "HAT": Project(("HATModel",), "hat", ("hat",)),
    # Its own models train on degraded images that they make on a GPU; it has no test.py.
    "Real-ESRGAN": Project((), "realesrgan", ("realesrgan",), scripts=("train",)),
    "MambaIR": Project(("MambaIRModel", "MambaIRv2Model", "MambaIRv2LightModel"), dataset={"task": "SR"}),
    "DAT": Project(("DATModel",), dataset={"task": "SR"}),
    # Its own model reads keys of its own network.
    "CAT": Project(dataset={"task": "SR"}),
    "RGT": Project(("RGTModel",), dataset={"task": "SR"}),
    "SRFormer": Project(("SwinIRModel",)),
    "Adaptive-Token-Dictionary": Project(("ATDModel",)),
    "PFT-SR": Project(("PFTModel",)),
    # Its own models train on a GPU only.
    "SAFMN": Project(),
}


# Each puts contrast_arch into a copy of the project.
def _at_the_top_of_the_script(package: Path) -> None:
    for script in (package / "train.py", package / "test.py"):
        if script.exists():
            _rewrite(script, IMPORT + "{}")


def _archs(text):
    return lambda package: _rewrite(package / "archs" / "__init__.py", text)


def _drop_in(text):
    return lambda package: (package / "archs" / "x_arch.py").write_text(text)


def _rewrite(path: Path, text: str) -> None:
    path.write_text(text.replace("{}", path.read_text() if path.exists() else ""))


WAYS = {
    "top of the script": _at_the_top_of_the_script,
    "first line of `archs/__init__.py`": _archs(IMPORT + "{}"),
    "last line of `archs/__init__.py`": _archs("{}\n" + IMPORT),
    "`x_arch.py`: `import contrast_arch`": _drop_in(IMPORT),
    "`x_arch.py`: `from contrast_arch import *`": _drop_in("from contrast_arch import *\n"),
    CONTRAST_TRAIN: lambda package: None,
}


def write_photographs(root: Path) -> None:
    """Corners of three photographs of Set5, GT 96x96 and LQ 24x24, in root/HR and root/LR."""
    for folder, side, suffix in (("HR", 96, ""), ("LR", 24, "x4")):
        (root / folder).mkdir(parents=True)
        for name in ("baby", "bird", "head"):
            image = cv2.imread(str(SET5 / ("HR" if folder == "HR" else "LR_bicubic/X4") / f"{name}{suffix}.png"))
            cv2.imwrite(str(root / folder / f"{name}{suffix}.png"), image[:side, :side])


def copied(source: Path, target: Path) -> None:
    """Copy a project; an installed BasicSR becomes one with a ``basicsr`` folder."""
    installed = source.name == "basicsr" and (source / "train.py").exists()
    ignored = shutil.ignore_patterns(".git", "__pycache__", "*.pth", "experiments", "results", "tb_logger", "*.so")
    shutil.copytree(source, target / "basicsr" if installed else target, ignore=ignored)
    for package in (target / "basicsr", target / "realesrgan"):
        if package.is_dir() and not (package / "version.py").exists():
            # As its setup.py writes it.
            number = (target / "VERSION").read_text().strip()
            (package / "version.py").write_text(f"__version__ = '{number}'\n__gitsha__ = 'unknown'\n")


class Trial:
    """A copy of a project with contrast_arch in it, in a folder of its own.

    Args:
        way: one of ``WAYS``.
        path: further folders on the path of Python, such as one with what stands in for a CUDA extension.
    """

    def __init__(self, project: Project, source: Path, root: Path, way: str, path: tuple[str, ...] = ()):
        self.project, self.root, self.way, self.path = project, root, way, path
        copied(source, root)
        WAYS[way](root / project.package)
        write_photographs(root)

    def options(self, model: str, **changes) -> dict:
        """Options of four iterations with a network of this package, validated and saved every second."""
        network = {**TINY, "type": "ContrastNoPE", "window_size": 8}
        options = tiny_options(self.root, name=model, model_type=model, network_g=network)
        for dataset in options["datasets"].values():
            dataset.update(self.project.dataset)
        for key, value in changes.items():
            options[key] = {**options.get(key, {}), **value} if isinstance(value, dict) else value
        return options

    def run(self, kind: str, options: dict, *arguments: str) -> str:
        """Train or test; what it wrote.

        Raises:
            FailedError: it did not end with 0; the message is its last line.
        """
        file = self.root / f"{kind}.yml"
        file.write_text(yaml.safe_dump(options))
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        if self.way == CONTRAST_TRAIN:
            command = [str(Path(sys.executable).parent / f"contrast-{kind}")]
            arguments = (*arguments, *(part for name in self.project.imports for part in ("--import", name)))
            environment["PYTHONPATH"] = os.pathsep.join(self.path)
        else:
            command = [sys.executable, str(self.root / self.project.package / f"{kind}.py")]
            environment["PYTHONPATH"] = os.pathsep.join((str(self.root), *self.path))
        command += ["-opt", file.name, *arguments]
        result = subprocess.run(
            command, cwd=self.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if result.returncode:
            lines = [line for line in result.stdout.splitlines() if line.strip()]
            raise FailedError(f"{kind}: {lines[-1] if lines else result.returncode}")
        return result.stdout

    def whole(self, model: str) -> str:
        """Train four iterations, resume for two more, test the last checkpoint; what the three wrote.

        Raises:
            FailedError: names what went wrong.
        """
        first = self.run("train", self.options(model))
        self._expect(first, {1, 2, 3, 4})
        again = self.run("train", self.options(model, train={"total_iter": 6}), "--auto_resume")
        self._expect(again, {5, 6})
        if "test" not in self.project.scripts and self.way != CONTRAST_TRAIN:
            return first + again
        checkpoint = self.root / "experiments" / model / "models" / "net_g_6.pth"
        options = self.options(model, name=f"{model}_test", path={"pretrain_network_g": str(checkpoint)})
        options["datasets"] = {"test_1": {**options["datasets"]["val"], "phase": "test"}}
        del options["train"], options["logger"]
        tested = self.run("test", options)
        _psnr(tested)
        return first + again + tested

    def _expect(self, log, iterations):
        losses = {int(i): float(x) for i, x in re.findall(r"iter:\s*(\d+), lr.*?l_pix: (\S+)", log)}
        if set(losses) != iterations or not all(map(math.isfinite, losses.values())):
            raise FailedError(f"train: losses {losses}, expected of iterations {sorted(iterations)}")
        if "Network [ContrastNoPE] is created." not in log:
            raise FailedError("train: another network was built")
        _psnr(log)


def _psnr(log):
    values = [float(value) for value in re.findall(r"# psnr: (\d+\.\d+)", log)]
    if not values or not all(5 < value < 60 for value in values):
        raise FailedError(f"PSNR: {values}")


def try_project(source: Path, ways: list[str], path: tuple[str, ...]) -> tuple[str, dict[str, str], dict[str, str]]:
    """Try a project in every way; return the version of its BasicSR, and by way and by model "yes" or what is wrong."""
    project = PROJECTS.get(source.resolve().name, Project())
    models = [*project.models, "SRModel", "ContrastModel"]
    by_way = {way: "yes" if way in ways else "not tried" for way in WAYS}
    by_model, number = dict.fromkeys(models, "yes"), "?"
    for way in ways:
        # A trainer of its own and ours with every model; the other ways differ in the import alone.
        for model in models if way in (ways[0], CONTRAST_TRAIN) else models[:1]:
            with tempfile.TemporaryDirectory() as root:
                try:
                    log = Trial(project, source, Path(root, "project"), way, path).whole(model)
                    number = re.search(r"BasicSR: (\S+)", log)[1]
                except FailedError as failure:
                    print(f"{source.name}, {way}, {model}: {failure}", file=sys.stderr, flush=True)
                    by_way[way] = by_model[model] = str(failure)
                else:
                    print(f"{source.name}, {way}, {model}: yes", file=sys.stderr, flush=True)
    return number, by_way, by_model


def described(source: Path) -> tuple[str, str]:
    """Name, and commit of a clone."""
    log = ["git", "-C", str(source), "log", "-1", "--format=%h"]
    clone = (source / ".git").exists()
    commit = subprocess.run(log, capture_output=True, text=True).stdout.strip() if clone else "as installed"
    return "BasicSR" if source.name == "basicsr" else source.name, commit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("projects", nargs="+", type=Path, metavar="PROJECT_FOLDER")
    parser.add_argument("--ways", nargs="+", choices=range(len(WAYS)), type=int, default=range(len(WAYS)))
    parser.add_argument("--path", action="append", default=[], help="a further folder on the path of Python")
    parser.add_argument("--output", type=Path, help="a Markdown file with the marks for the table")
    args = parser.parse_args()
    ways = [list(WAYS)[number] for number in args.ways]
    others = [source for source in args.projects if source.resolve().name in OTHERS]
    failed = False
    if len(others) < len(args.projects):
        lines = [["project", "commit", "its BasicSR", *WAYS, "model types"]]
        for source in args.projects:
            if source not in others:
                number, by_way, by_model = try_project(source, ways, tuple(args.path))
                failed |= not {*by_way.values(), *by_model.values()} <= {"yes", "not tried"}
                worked = ", ".join(
                    f"{model}" if found == "yes" else f"~~{model}~~" for model, found in by_model.items()
                )
                lines.append([*described(source), number, *by_way.values(), worked])
        write_table(lines, MARK, args.output)
    if others:
        lines = [HEADER]
        for source in others:
            found = []
            for column in COLUMNS:
                with tempfile.TemporaryDirectory() as root:
                    found.append(try_other(source, Path(root, "project"), column, tuple(args.path)))
                print(f"{source.name}, {column}: {found[-1]}", file=sys.stderr, flush=True)
            failed |= set(found) != {"yes"}
            lines.append([*described(source), *found])
        write_table(lines, OTHERS_MARK, args.output)
    return int(failed)


def write_table(lines: list[list[str]], mark: str, output: Path | None) -> None:
    """Write a table to stdout, and between its marks into a Markdown file."""
    rows = [f"| {' | '.join(line)} |" for line in lines]
    table = "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])
    print(table)
    if output:
        before, _, after = output.read_text().partition(mark)
        output.write_text(f"{before}{mark}\n{table}\n{END}{after.partition(END)[2]}")


if __name__ == "__main__":
    sys.exit(main())
