"""Files made to run code, to fill the memory or to reach other folders: refused in a line, before they do."""

import io
import json
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from PIL import EpsImagePlugin, Image, TiffImagePlugin
from safetensors.torch import save, save_file
from torch import nn

from contrast_arch import Contrast, images, load_pretrained
from contrast_arch.archs.network import CONFIG_TENSOR
from contrast_arch.check import RunContext, find_problems, read_options
from contrast_arch.cli import main
from contrast_arch.errors import InputError
from contrast_arch.inference import files
from contrast_arch.inference import images as pictures
from contrast_arch.inference.upscale import Upscaler
from contrast_arch.memory import Memory
from contrast_arch.models.checkpoints import TrainState, read_state
from contrast_arch.options.document import forced
from contrast_arch.prepare import check_output
from contrast_arch.prepare.images import Unusable, read_header, read_rgb
from contrast_arch.weights import sources
from contrast_arch.weights.files import read
from tests.conftest import ROOT, TINY, tiny_options, write_pairs
from tests.weights.conftest import assert_refused

DEEP = "[" * 100_000


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, in which code would make a folder."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not Path("made").exists()


def test_pytorch_files_are_read_as_weights_only():
    """ruff's rules S look for the rest: pickle, eval, exec, YAML's unsafe loaders and shells."""
    calls = re.compile(r"torch\.load\((?!\))(?!.*weights_only=True)")
    places = [
        *ROOT.glob("contrast_arch/**/*.py"),
        *ROOT.glob("benchmarks/*.py"),
        *ROOT.glob("docs/*.*"),
        ROOT / "README.md",
    ]
    texts = {path: path.read_text() for path in places if path.suffix in (".py", ".md")}
    assert len(texts) > 100 and not [path for path, text in texts.items() if calls.search(text)]
    assert calls.search("torch.load(path)") and not calls.search("torch.load(path, weights_only=True)")


# Checkpoints


def weights(**changes):
    return Contrast(**{key: value for key, value in TINY.items() if key != "type"}).state_dict() | changes


def unpacking(path):
    """A file of torch.save whose one tensor is 64 MiB of zeros, compressed."""
    torch.save({"params": {"a": torch.zeros(1)}}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, bytes(1 << 26) if name.endswith("data/0") else content)


def holding(value):
    return lambda path: torch.save({"params": weights(**{"conv_first.weight": value})}, path)


def with_header(text, length=None):
    return lambda path: path.write_bytes(struct.pack("<Q", length or len(text)) + text)


def tensor_header(shape, end=4):
    return json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()


PLAIN = "conv_first.weight is no plain tensor of real numbers, each of them in the file; save the state_dict"
CHECKPOINTS = {
    "unpacking.pth": (unpacking, r"cannot be read: its [\d,]+ bytes unpack to 67,1[\d,]+, more than 16 times as many"),
    "repeated.pth": (holding(torch.zeros(1).expand(10**6, 10**6)), PLAIN),
    "sparse.pth": (holding(torch.zeros(10**6, 1).to_sparse()), PLAIN),
    "meta.pth": (holding(torch.empty(10**6, 10**6, device="meta")), PLAIN),
    "nested.pth": (holding(torch.nested.nested_tensor([torch.zeros(3)])), PLAIN),
    "complex.pth": (holding(torch.zeros(12, 3, 3, 3, dtype=torch.complex64)), PLAIN),
    "numbered.pth": (lambda path: torch.save({"params": {1: torch.zeros(3)}}, path), "holds no weights under"),
    "header.safetensors": (with_header(b"{}", 100 << 30), "cannot be read; .*header too large"),
    "size.safetensors": (with_header(tensor_header([10**12])), "cannot be read; .*invalid shape"),
    "overflow.safetensors": (with_header(tensor_header([2**63, 2**63])), "cannot be read; .*overflow"),
    "short.safetensors": (with_header(tensor_header([2**40], 2**42)), "cannot be read; .*not fully covered"),
    "deep.safetensors": (with_header(b'{"a":' + DEEP.encode()), "cannot be read; .*recursion limit"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_are_refused(name, folder):
    assert_refused(folder / name, *CHECKPOINTS[name])


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_checkpoints_without_an_end_are_not_read(make, folder):
    make(folder / "a.pth")
    for what in ("checkpoint", "training state"):
        with pytest.raises(InputError, match=rf"{what} .*a\.pth cannot be read: it is a folder, pipe or device; "):
            read(folder / "a.pth", what)


def test_links_in_a_circle_are_no_checkpoint(folder):
    write_pairs(folder)
    Path("a.pth").symlink_to("a.pth")
    options = tiny_options(folder) | {"path": {"pretrain_network_g": "a.pth"}}
    (folder / "a.yml").write_text(yaml.safe_dump(options))
    found = [problem.message for problem in find_problems("a.yml", RunContext(True)) if problem.fatal]
    assert found == ["checkpoint a.pth does not exist"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("export circle", "error: circle has no checkpoints: expected net_g_latest.pth"),
        ("prepare in --output circle/out --gt-size 16 --processes 1", "circle/out/HR: Too many levels of symbolic"),
    ],
)
def test_links_in_a_circle_are_named(command, message, folder, capsys):
    write_pairs(folder / "in")
    Path("circle").symlink_to("circle")
    assert main(command.split()) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"iter": "1"}, {"epoch": None}, {"optimizers": {}}])
def test_states_of_another_form_are_refused(change, folder):
    content = {"iter": 1, "epoch": 0, "optimizers": [], "schedulers": []}
    torch.save(content | change, folder / "1.state")
    with pytest.raises(InputError, match=r"1\.state is none: expected a file NUMBER\.state that BasicSR saved"):
        TrainState.read(folder / "1.state")


def test_a_broken_link_among_the_states(folder):
    """It is named where it is the state, and passed over where it is another file beside it."""
    Path("1.state").symlink_to("nothing")
    opt = {"path": {"models": str(folder)}, "network_g": {}}
    with pytest.raises(InputError, match=r"training state .*1\.state does not exist"):
        read_state(folder / "1.state", opt)


@pytest.mark.parametrize("metadata", [{"network_g": DEEP}, {"checksums": "[1]", "network_g": json.dumps(TINY)}])
def test_metadata_of_another_form_say_nothing(metadata, folder):
    save_file(weights(), folder / "a.safetensors", metadata)
    assert load_pretrained(folder / "a.safetensors").upscale == 4


def test_a_config_of_another_form_says_nothing(folder):
    (folder / "a.safetensors").write_bytes(save(weights(**{CONFIG_TENSOR: torch.tensor(list(DEEP.encode()))})))
    with pytest.warns(UserWarning, match="does not say its network"):
        load_pretrained(folder / "a.safetensors")


# Option files

RUN = "object/apply:os.mkdir [made]"
TAGS = [
    f"a: 1\nx: !!python/{RUN}",
    "x: !!python/object/new:os.mkdir [made]",
    f"x: !!python%2f{RUN}",
    f"%TAG !p! tag:yaml.org,2002:python/\n---\nx: !p!{RUN}",
    "x: !<tag:yaml.org,2002:python/object/apply:os.mkdir> [made]",
    f"? !!python/{RUN}\n: 1",
    f"a: [&a !!python/{RUN}, *a]",
    "x: !!python/module:antigravity",
    "x: !!python/name:os.system",
]


@pytest.mark.parametrize("text", TAGS)
def test_tags_of_python_are_refused(text, folder):
    (folder / "a.yml").write_text(text)
    with pytest.raises(InputError, match=r"a\.yml, line \d: not readable as YAML: could not determine a constructor"):
        read_options("a.yml")


def test_basicsrs_own_loader_runs_them(folder):
    """This is what the check stands in front of; without this, it can go."""
    from basicsr.utils.options import ordered_yaml

    yaml.load(TAGS[0], Loader=ordered_yaml()[0])
    Path("made").rmdir()


LAUGHS = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
HUGE = {
    LAUGHS: "with its aliases (*name) written out it has over 100,000 values",
    "a: &a [*a]": "with its aliases (*name) written out it has over 100,000 values",
    f"a: {DEEP}": "exceeded maximum nesting depth",
}


@pytest.mark.parametrize("text", HUGE)
def test_huge_option_files_are_refused(text, folder):
    (folder / "a.yml").write_text(text)
    with pytest.raises(InputError, match=re.escape(HUGE[text])):
        read_options("a.yml")
    # The file of an experiment, as an export and the report read it.
    assert sources.read_run(folder).options == {}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("train:ema_decay=[__import__('os').mkdir('made')]", "the value cannot be read: malformed node"),
        ("train:x\"]; import os; os.mkdir('made') #:a=1", "expected key:key=value"),
        ("x\"];__import__('os').mkdir('made');a[\"b:a=1", "expected key:key=value"),
    ],
)
def test_changes_of_option_files_run_nothing(entry, message):
    section = entry.split(":")[0]
    with pytest.raises(InputError, match=message):
        forced({"train": {"ema_decay": 0}, section: {"a": 1}}, [entry])
    assert forced({"train": {}}, ["train:periods=[1, 2.5, 'a']"]) == {"train": {"periods": [1, 2.5, "a"]}}


def test_names_lead_out_of_no_folder(folder):
    """Files of a run are named after these keys."""
    write_pairs(folder)
    options = tiny_options(folder) | {"name": "../a"}
    options["datasets"]["val"]["name"] = "../../a"
    options["val"] = (options.get("val") or {}) | {"suffix": "x/../../../a"}
    (folder / "a.yml").write_text(yaml.safe_dump(options))
    wrong = {p.path for p in find_problems("a.yml", RunContext(True)) if "without" in p.message and p.fatal}
    assert wrong == {("name",), ("datasets", "val", "name"), ("val", "suffix")}


def test_names_of_nodes_reach_no_shell(folder, monkeypatch):
    """BasicSR formats this variable into a command (CVE-2024-27763)."""
    write_pairs(folder)
    (folder / "a.yml").write_text(yaml.safe_dump(tiny_options(folder) | {"model_type": "ContrastModel"}))
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "1")
    for nodes, refused in {"node[1-4,7],login-2.example": False, "a; mkdir made": True, "$(mkdir made)": True}.items():
        monkeypatch.setenv("SLURM_NODELIST", nodes)
        found = [p.message for p in find_problems("a.yml", RunContext(True, "slurm")) if "SLURM_NODELIST" in p.message]
        assert bool(found) == refused


@pytest.mark.parametrize("text", [DEEP, '{"settings": 5, "roots": []}', '{"settings": {}, "roots": 5}'])
def test_notes_of_prepare_are_refused(text, folder):
    (folder / "prepare.json").write_text(text)
    with pytest.raises(InputError, match=r"(prepare\.json cannot be read|was prepared with) .* another --output"):
        check_output(folder, {"settings": {}, "roots": []})


# Images


def png(size, *chunks):
    """A PNG whose header says a size, with chunks (name, content) before the end."""
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(bytes(13))), (b"IEND", b"")]
    made = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


ZEROS = zlib.compress(bytes(100_000_000), 9)
IMAGES = {
    "size": (png((100_000, 100_000)), "100000x100000 are 10,000,000,000 pixels, expected at most|10000000000 pixels"),
    "text": (png((2, 2), (b"zTXt", b"a\0\0" + ZEROS)), "Decompressed data too large"),
    "international": (png((2, 2), (b"iTXt", b"a\0\1\0\0\0" + ZEROS)), "Decompressed data too large"),
    "profile": (png((2, 2), (b"iCCP", b"a\0\0" + ZEROS)), "Decompressed data too large"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_unpack_to_more_than_memory(name, folder):
    content, message = IMAGES[name]
    (folder / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=message):
        pictures.read(content)
    with pytest.raises(Unusable, match=message):
        read_header(folder / "a.png")
        read_rgb(folder / "a.png")
    if name == "size":
        with pytest.raises(InputError, match=r"10000000000 pixels\) exceeds limit of .*; cut it into smaller ones"):
            images.read(content)


def test_no_image_runs_ghostscript(folder, monkeypatch):
    eps = io.BytesIO()
    Image.new("RGB", (8, 8)).save(eps, "EPS")
    (folder / "a.png").write_bytes(eps.getvalue())
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: os.mkdir("made"))
    with pytest.raises(Unusable, match="cannot be read as an image: cannot identify"):
        read_header(folder / "a.png")
    with pytest.raises(InputError, match="damaged, or not a PNG, JPEG, WebP, BMP or TIFF"):
        pictures.read(eps.getvalue())
    with pytest.raises(images.Unreadable, match="which BasicSR reads with, cannot decode it; store it as PNG"):
        images.read(eps.getvalue())


def test_pages_are_not_counted(folder, monkeypatch):
    page = Image.new("RGB", (8, 8))
    page.save(folder / "a.tif", save_all=True, append_images=[page])

    def count(image):
        raise AssertionError

    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "n_frames", property(count))
    assert read_header(folder / "a.tif")[2] == ["several frames, the first was taken"]
    with pytest.raises(InputError, match="several pages or frames; expected one"):
        pictures.read((folder / "a.tif").read_bytes())


class Nearest(nn.Module):
    upscale, in_chans, window_size = 2, 3, 1

    def forward(self, x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def run(*inputs):
    return files.run(files.plan(inputs, "out"), Upscaler(Nearest()), quiet=True)


def test_files_without_an_end_are_named_and_the_others_go_on(folder, capsys):
    os.mkdir("in")
    Path("in", "device.png").symlink_to("/dev/zero")
    os.mkfifo("in/pipe.png")
    Path("in", "circle.png").symlink_to("circle.png")
    Path("in", "folder").symlink_to("folder")
    with open("in/sparse.png", "wb") as file:
        file.truncate(100 << 30)
    Image.new("RGB", (4, 4)).save("in/z.png")
    assert run("in") == 4
    said = capsys.readouterr().err
    for name in ("device", "pipe"):
        assert f"error: in/{name}.png: a folder, pipe or device; expected a file" in said
    assert "error: in/circle.png: OSError: [Errno 40]" in said
    assert "in/sparse.png: more than 894,784,850 bytes, which no image of 89,478,485 pixels has" in said
    assert Image.open("out/z.png").size == (8, 8)


def test_an_endless_stdin_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(images, "MOST_BYTES_PER_PIXEL", 1)
    with open("/dev/zero") as zeros:
        monkeypatch.setattr("sys.stdin", zeros)
        assert files.run(files.plan(["-"], "a.png"), Upscaler(Nearest())) == 1
    assert "error: stdin: more than 89,478,485 bytes, which no image" in capsys.readouterr().err


def test_results_that_no_memory_holds_are_refused(folder, monkeypatch, capsys):
    monkeypatch.setattr(files, "device_memory", lambda device: Memory(2**20, 2**20))
    Image.new("1", (400, 400)).save("a.png")
    Image.new("RGB", (4, 4)).save("b.png")
    assert run("a.png", "b.png") == 1 and Path("out", "b.png").exists()
    assert "a.png: its result of 800x800 takes 0 GiB of memory, and there are 0; cut" in capsys.readouterr().err


def test_links_of_a_folder_reach_nothing_outside(folder):
    """Folders behind links are not entered, and a result takes the place of a link, not of what is behind it."""
    for place in ("in", "out", "else"):
        os.mkdir(place)
    Image.new("RGB", (4, 4)).save("in/a.png")
    Image.new("RGB", (4, 4)).save("else/b.png")
    Path("in", "c").symlink_to(folder / "else")
    Path("kept.txt").write_text("kept")
    Path("out", "a.png").symlink_to(folder / "kept.txt")
    assert files.run(files.plan(["in"], "out"), Upscaler(Nearest()), quiet=True, overwrite=True) == 0
    assert os.listdir("out") == ["a.png"] and Path("kept.txt").read_text() == "kept"
    assert not Path("out", "a.png").is_symlink()
