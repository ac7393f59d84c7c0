import runpy
import shutil
import subprocess
import sys
import zipfile

from tests.conftest import ROOT


def test_the_wheel_holds_options_and_weights(tmp_path):
    # In a copy: a build leaves its folder behind in the checkout, and takes along what an earlier one left there.
    source = tmp_path / "source"
    for folder in ("contrast_arch", "options", "weights"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        source,
    ]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("contrast_arch-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    expected = {f"contrast_arch/shipped/{path.relative_to(ROOT)}" for path in (ROOT / "options").rglob("*.*")}
    expected |= {f"contrast_arch/shipped/{path.relative_to(ROOT)}" for path in (ROOT / "weights").glob("*.safetensors")}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "contrast_arch").rglob("*.py")}
    assert len(expected) > 30
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert [name for name in names if name.endswith("LICENSE")]

    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    found = runpy.run_path(str(tmp_path / "installed" / "contrast_arch" / "files.py"))
    assert len(list(found["shipped"]("weights").glob("*.safetensors"))) == 7
    assert found["option_files"]() == tmp_path / "installed" / "contrast_arch" / "shipped" / "options"
