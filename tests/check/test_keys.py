"""Keys that are unknown, values that cannot be used, and what BasicSR passes over."""

import pytest

from contrast_arch.check import RunContext, check_file, find_problems, memory
from contrast_arch.errors import InputError
from contrast_arch.options import validation
from contrast_arch.options.messages import allowed, schema_of
from contrast_arch.options.schema import KEYS, OptionFile
from tests.conftest import ROOT

SHIPPED = sorted((ROOT / "options").rglob("*.yml"))


def test_tiny_options_have_no_problems(check):
    assert check() == []


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_lack_data_only(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # The estimate, most of the time of a check, is what test_memory.py is about.
    monkeypatch.setattr(memory, "memory_problems", lambda *_: ())
    problems = find_problems(str(file), RunContext("train" in file.parent.name))
    assert problems
    for problem in problems:
        assert "does not exist" in problem.message and problem.line > 1


UNFIT = [
    ({"train": {"total_iter": "1e5"}}, "train: total_iter: 1e5 is read as text; write 'total_iter: !!float 1e5'"),
    (
        {"logger": {"print_freq": "100"}},
        "logger: print_freq: 100 is read as text; write 'print_freq: 100', without quotes",
    ),
    ({"network_g": {"mlp_ratio": "2e0"}}, "network_g: mlp_ratio: 2e0 is read as text; write 'mlp_ratio: !!float 2e0'"),
    (
        {"train": {"optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, "99e-2"]}}},
        "train: optim_g: betas: [0.9, '99e-2'] is read as text; write 'betas: [0.9, !!float 99e-2]'",
    ),
    ({"manual_seed": -1}, "manual_seed: -1: expected a whole number from 0 to 4294901760, or ~"),
    ({"scale": 4.5}, "scale: 4.5: expected a whole number of at least 1"),
    ({"scale": 4.0}, "scale: 4.0: expected a whole number of at least 1; write 'scale: 4'"),
    ({"num_gpu": 0.0}, "num_gpu: 0.0: expected auto, or the number of GPUs, 0 for none; write 'num_gpu: 0'"),
    ({"num_gpu": -1}, "num_gpu: -1: expected auto, or the number of GPUs, 0 for none"),
    ({"name": 5}, "name: 5: expected text that can name a folder"),
    ({"name": "a/b"}, "name: 'a/b': expected text that can name a folder"),
    ({"name": ".."}, "name: '..': expected text that can name a folder"),
    ({"train": {"warmup_iter": float("nan")}}, "train: warmup_iter: nan: expected a whole number of at least -1"),
    ({"train": {"ema_decay": 1.5}}, "train: ema_decay: 1.5: expected a number of at least 0 and at most 1"),
    ({"train": {"total_iter": 10**400}}, "train: total_iter: 1000"),
    ({"val": {"save_img": "yes please"}}, "val: save_img: 'yes please': expected true or false, or ~"),
    ({"logger": {"wandb": "a"}}, "logger: wandb: 'a': expected keys of its own, indented below it"),
    ({"path": {"strict_load_g": 1}}, "path: strict_load_g: 1: expected true or false, or ~"),
    ({"logger": {1: 2}}, "logger: 1: a key that is no text, which BasicSR cannot print; quote it"),
]


@pytest.mark.parametrize("changes, message", UNFIT, ids=[message[:30] for _, message in UNFIT])
def test_values_that_cannot_be_used(check, changes, message):
    errors = [text for severity, text in check(**changes) if severity == "error"]
    assert len(errors) == 1 and errors[0].startswith(message)


def test_whole_numbers_may_be_written_as_floats(check):
    """As BasicSR's own examples have them: !!float 5e3."""
    assert check(train={"total_iter": 4.0}, val={"val_freq": 2.0}, logger={"save_checkpoint_freq": 4.0}) == []


def test_misspelt_keys(check, root):
    found = check(val={"sufix": None}, train={"exta": 1}, path={"pretrain_netwrk_g": None, "rot": "here"})
    folder = "no such key, of which BasicSR would make a folder"
    assert found == [
        ("error", f"path: pretrain_netwrk_g: {folder}; did you mean pretrain_network_g?"),
        ("error", f"path: rot: {folder}"),
        ("warning", "train: exta: no such key; it is ignored"),
        ("error", "val: sufix: no such key; did you mean suffix?"),
    ]
    problems = {problem.path[-1]: problem for problem in find_problems("options.yml", RunContext(True))}
    # What BasicSR passes over does not keep SRModel from training; a folder named ~ does.
    assert [problems[key].fatal for key in ("sufix", "rot", "pretrain_netwrk_g")] == [False, False, True]
    assert (root / "options.yml").read_text().splitlines()[problems["sufix"].line - 1] == "  sufix: null"


def path_problems(paths, model_type="SRModel", **options):
    return list(validation.value_problems({"model_type": model_type, "path": paths, **options}))


@pytest.mark.parametrize("model_type", ["SRModel", "ContrastModel", "SRGANModel"])
@pytest.mark.parametrize(
    "key, meant, folder",
    [
        ("pretrain_network_G", "pretrain_network_g", False),
        ("pretrained_network_g", "pretrain_network_g", True),
        ("pretrain_model_g", "pretrain_network_g", True),  # of BasicSR 1.1
        ("resume", "resume_state", False),
        ("resume_states", "resume_state", False),
        ("param_key", "param_key_g", False),
        ("strict_load", "strict_load_g", False),
    ],
)
def test_misspelt_keys_of_what_to_begin_with(key, meant, folder, model_type):
    (found,) = path_problems({key: "net.pth"}, model_type)
    does = "of which BasicSR would make a folder" if folder else "which BasicSR does not read"
    assert found.fatal and found.message == f"path: {key}: no such key, {does}; did you mean {meant}?"


def test_misspelt_keys_keep_a_run_from_starting(check, root):
    """For training and for testing, by --force_yml too; the earlier experiment stays where it is."""
    (root / "experiments" / "tiny").mkdir(parents=True)
    for is_train, forced in ((True, ()), (False, ()), (True, ["path:pretrain_network_G=net.pth"])):
        check(path={} if forced else {"pretrain_network_G": "net.pth"})
        with pytest.raises(InputError, match="path: pretrain_network_G: no such key, which BasicSR does not read; did"):
            check_file("options.yml", RunContext(is_train, force_yml=forced))
    assert [path.name for path in (root / "experiments").iterdir()] == ["tiny"]


def test_a_file_under_path_keeps_the_run_from_starting(tmp_path, monkeypatch):
    """BasicSR would make a folder of that name, when the earlier experiment is moved aside."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pth").touch()
    problems = path_problems({"weights": "net.pth", "rot": "here"})
    assert {p.path[-1]: p.fatal for p in problems} == {"weights": True, "rot": False}


@pytest.mark.parametrize("key", ["pretrain_network_g", "resume_state", "param_key_g", "strict_load_g"])
def test_a_path_outside_of_its_section_keeps_the_run_from_starting(key):
    for options, where in (({key: "net.pth"}, key), ({"train": {key: "net.pth"}}, f"train: {key}")):
        (found,) = path_problems({}, **options)
        assert found.fatal and found.message == f"{where}: no such key; it belongs under path"


def test_paths_of_other_networks():
    """Of a section network_d, and of networks that a project's model makes itself."""
    paths = {"pretrain_network_d": None, "param_key_d": "params", "strict_load_d": True}
    assert path_problems(paths, "SRGANModel", network_d={"type": "UNetDiscriminatorSN"}) == []
    assert [p.fatal for p in path_problems({"pretrain_network_d": "d.pth"})] == [True]
    problems = path_problems({"pretrain_network_hq": None, "pretrain_network_G": None}, "SRGANModel")
    assert {p.path[-1]: p.fatal for p in problems} == {"pretrain_network_hq": False, "pretrain_network_G": True}


def test_misspelt_keys_of_contrast_model_are_errors(check):
    check(model_type="ContrastModel", train={"acumulate": 2})
    (found,) = (p for p in find_problems("options.yml", RunContext(True)) if "acumulate" in p.message)
    assert found.fatal and found.message == "train: acumulate: no such key; did you mean accumulate?"


def test_keys_that_a_fork_may_read_are_notes(check, root, monkeypatch, capsys):
    """Beside a BasicSR that is no release: MambaIR's and DAT's ``task``, MambaIR's lists of folders."""
    monkeypatch.setattr(validation, "basicsr_is_released", lambda: False)

    def change(options):
        options["datasets"]["train"] |= {"task": "SR", "dataroot_gt": [str(root / "HR")], "dataroot_lq": ["here"]}

    text = "no key of BasicSR 1.4.2; the project's own code may read it"
    found = check(change, val={"sufix": None}, path={"rot": "here"}, train={"total_iter": 4})
    assert found == [
        ("note", f"datasets: train: task: {text}"),
        ("error", "path: rot: no such key, of which BasicSR would make a folder"),
        ("note", f"val: sufix: {text}; did you mean suffix?"),
    ]
    check_file("options.yml", RunContext(True))
    assert "note" not in (err := capsys.readouterr().err) and "task" not in err and "warning: path: rot" in err
    # What ContrastModel reads it knows.
    assert ("error", "train: acumulate: no such key; did you mean accumulate?") in check(
        model_type="ContrastModel", train={"acumulate": 2}
    )


def test_missing_keys_name_what_may_be_meant(check):
    def misspell(options):
        options["train"]["total_itr"] = options["train"].pop("total_iter")
        del options["logger"]["print_freq"]

    found = [message for _, message in check(misspell)]
    assert "train has no total_iter; 'total_itr' may be meant for total_iter" in found
    assert "logger has no print_freq; the option files of this package show what belongs there" in found


@pytest.mark.parametrize("path", KEYS)
def test_keys_of_contrast_model(check, path):
    value = {"amp": "bf16", "save_format": "safetensors", "tile": {"size": 16}}.get(path[-1])
    default = KEYS[path].default
    value = value or (not default if isinstance(default, bool) else 2)

    def add(options):
        at = options
        for section in path[:-1]:
            at = at.setdefault(section, {})
        at[path[-1]] = value

    where = ": ".join(path)
    expected = ("error", f"{where}: SRModel ignores it; 'model_type: ContrastModel' has it")
    assert expected in check(add)
    assert check(add, model_type="ContrastModel") == []

    def spoil(options):
        add(options)
        at = options
        for section in path[:-1]:
            at = at[section]
        at[path[-1]] = "nonsense"

    assert ("error", f"{where}: 'nonsense': expected {allowed(schema_of(OptionFile, path))}") in check(
        spoil, model_type="ContrastModel"
    )


def test_a_section_in_place_of_a_value():
    for value in ({"a": 1}, {1: 2}, {}):
        found = [problem.message for problem in validation.value_problems({"num_gpu": value})]
        assert f"num_gpu: {value}: expected auto, or the number of GPUs, 0 for none" in found


@pytest.mark.parametrize("kind, severity", [("ProjectsDataset", None), ("PairedImageDataset", "warning")])
def test_datasets_of_others_may_have_keys_of_their_own(kind, severity):
    options = {"model_type": "SRModel", "datasets": {"train": {"type": kind, "task": "SR"}}}
    found = [(problem.severity, problem.message) for problem in validation.value_problems(options)]
    assert found == ([(severity, "datasets: train: task: no such key; it is ignored")] if severity else [])


def test_a_key_that_is_no_text_beside_one_that_is_missing(check):
    """It is not held against the missing one's name."""
    messages = [text for _, text in check(logger={1: 2, "print_freq": 1}, train={"total_iter": 4}, name=None)]
    assert "logger: 1: a key that is no text, which BasicSR cannot print; quote it" in messages
    options = {"val": {"metrics": {True: {"type": 1}}}, 1: 2}
    found = [problem.message for problem in validation.missing_problems(options, True, "a.yml")]
    assert found[0].startswith("a.yml has no name, model_type, scale, ")
    assert all("no text" in problem.message for problem in validation.value_problems(options))


def test_models_of_others_may_have_keys_of_their_own(check):
    def change(options):
        options |= {"model_type": "SRGANModel", "network_d": {"type": "UNetDiscriminatorSN"}}
        options["train"] |= {"optim_d": {"type": "Adam", "lr": 1e-4}, "net_d_iters": 1}

    assert check(change) == []
    found = check(lambda options: (change(options), options.pop("network_d")))
    assert found == [("error", "model_type: SRGANModel: has a discriminator; expected a section network_d")]
