"""The command line: a table of commands, and what lies between a few of them and the package."""

import argparse
import os
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path

from contrast_arch import compat
from contrast_arch.errors import InputError, exit_code
from contrast_arch.options.generate import IMAGES_PER_CHECKPOINT
from contrast_arch.pipeline import add_import
from contrast_arch.version import __version__

PARSER = argparse.ArgumentParser(prog="contrast-arch", description="Contrast networks for BasicSR.")
PARSER.add_argument("--version", action="version", version=__version__)
COMMANDS = PARSER.add_subparsers(dest="command", required=True)
# "module:function" of this package for each command; those that need BasicSR, or an extra of the package.
CALLS = {}
NEED_BASICSR = ("check", "compare", "demo", "prepare")
EXTRAS = {"demo": "demo", "onnx": "onnx", "receptive-field": "report", "report": "report"}
# Arguments that are whole numbers above zero, and the largest of each.
MOST = {}


def arg(flags: str, help: str, most: int | None = None, **keywords) -> Callable:
    """Make a function that adds an argument to a parser; the default, if any, ends its help."""
    if keywords.get("default"):
        help += " (default: %(default)s)"
    if most:
        keywords["type"], MOST[flags.removeprefix("--").replace("-", "_")] = int, most
    return lambda parser: parser.add_argument(*flags.split(), help=help, **keywords)


def command(name: str, help: str, call: str, *arguments: Callable) -> None:
    """Add a command; the function that it calls has parameters of the arguments' names, and may return an exit code."""
    parser = COMMANDS.add_parser(name, help=help)
    for argument in arguments:
        argument(parser)
    CALLS[name] = call


def _tile(text):
    return text if text == "auto" else int(text)


FORCE_YML = arg("--force_yml", "change all option files", nargs="+", default=[], metavar="KEY:KEY=VALUE")
EXPERIMENTS = arg("experiments", "a folder experiments/NAME", nargs="+", metavar="EXPERIMENT", type=Path)

command(
    "demo",
    "enlarge a photograph, then train and compare Contrast and HAT-light, small, on the CPU",
    "demo:run",
    arg("--folder", "for all that is written", default="results/demo", type=Path),
    arg("--iterations", "of each network", most=10**9, default=300),
)
command(
    "prepare",
    "make HR, bicubic LQ and a meta-info file from folders of HR images",
    "prepare:run",
    arg("roots", "a folder with HR images, in subfolders or not", nargs="+", metavar="ROOT", type=Path),
    arg("--output", "the folder of the dataset, such as datasets/LSDIR_DF2K", required=True, type=Path),
    arg("--scales", "of LQ", nargs="+", type=int, choices=(2, 3, 4), default=[4]),
    arg("--for", "validation keeps HR whole", dest="purpose", choices=("training", "validation"), default="training"),
    arg("--gt-size", "side of HR patches; smaller images are left out (default: 64 LQ)", type=int),
    arg("--sub-images", "cut HR into parts of this side, such as 480", type=int, metavar="SIDE"),
    arg("--lmdb", "make LMDB files too", action="store_true"),
    arg("--processes", "that work at the same time", most=1024, default=os.cpu_count()),
)
command(
    "compare",
    "train several networks one after the other, alike",
    "experiments.compare:run",
    arg("files", "an option file for training", nargs="+", metavar="OPTIONS"),
    arg("--images", "LQ/GT patches that each experiment sees", most=10**12, required=True),
    arg("--images-per-checkpoint", "from one validation to the next", most=10**12, default=IMAGES_PER_CHECKPOINT),
    FORCE_YML,
    arg("--seeds", "train each N times, with seeds 0 to N - 1", most=1000, metavar="N"),
    arg("--gpus", "that share each experiment (default: all)", type=int),
    arg("--output", "option files as run, logs", default="results/compare", type=Path),
)
command(
    "check",
    "find mistakes in option files, by line, before they are run",
    "check.checks:run",
    arg("-opt", "option files", dest="files", nargs="+", required=True, metavar="FILE"),
    arg("--all", "read every image completely, not the headers of a sample", dest="every_pair", action="store_true"),
    add_import,
    FORCE_YML,
    arg("--test", "for testing (default: those without train)", dest="testing", action="store_true", default=None),
)
command(
    "bench",
    "measure time, memory and multiply-adds of the networks on this machine",
    "experiments.bench.command:run",
    arg("names", "such as Contrast_light, HAT, an option file, weights (default: many)", nargs="*", metavar="NETWORK"),
    arg("--output", "a folder for the results", default="results/bench", type=Path),
    arg("--device", "cpu, cuda or cuda:N (default: a GPU where there is one)"),
    arg("--batch", "images of an iteration, one size or more (default: 8)", type=int, nargs="+"),
    arg("--patch", "side of the LQ images (default: 64)", most=10**6),
    arg("--scale", "of all networks", most=10**6, default=4),
    arg("--rounds", "number of timed rounds", most=10**6, default=5),
    arg("--sides", "measure Contrast on one image of each side too, on the CPU", type=int, nargs="+"),
    arg("--core", "measure SS2D's core with each backend too", action="store_true", dest="with_core"),
    arg("--quick", "small images, for a CPU: batch 1, 32x32 LQ", action="store_true"),
)
command(
    "receptive-field",
    "show the pixels of an image that networks make use of: ERF and LAM",
    "experiments.receptive_field:run",
    arg("image", "an LQ image", metavar="IMAGE"),
    arg("--weights", "of the networks", nargs="+", required=True, metavar="NAME_OR_PATH"),
    arg("--output", "a folder", default="results/receptive_field", type=Path),
    arg("--at", "the pixel LAM looks at (default: centre)", nargs=2, type=int, metavar=("X", "Y")),
)
command("warmup", "compile and test the kernels of this machine ahead of their first use", "cli:_warmup")
command(
    "report",
    "draw curves, tables and pictures of experiments, finished or running",
    "experiments.report:run",
    EXPERIMENTS,
    arg("--output", "a folder for it", default="results/report", type=Path),
)
command(
    "export",
    "write weights of experiments, with their description, as safetensors",
    "cli:_export",
    EXPERIMENTS,
    arg("-o --output", "a folder for them, or a file NAME.safetensors", default="weights", type=Path),
    arg("--iteration", "latest, best (PSNR on the first validation set), or an iteration", default="latest"),
    arg("--weights", "ema: averaged; auto: those if there are any", choices=("auto", "ema", "plain"), default="auto"),
    arg("--layout", "published: for the code of HAT and the author", choices=("own", "published"), default="own"),
    arg("--half", "weights in float16", action="store_true"),
)
command(
    "upscale",
    "enlarge images",
    "cli:_upscale",
    arg("inputs", "an image, a folder, or - for stdin", nargs="+", metavar="INPUT"),
    arg("-o --output", "a folder; for one image a file, or - for stdout", required=True),
    arg("--model", "weights (default: those of the package for X4)", metavar="NAME_OR_PATH"),
    arg("--out-size", "width and height of the results", nargs=2, type=int, metavar=("W", "H")),
    arg("--factor", "by which both sides grow (default: the network's scale)", type=float),
    arg("--tile", "side in LQ pixels, 0 for none", type=_tile, default="auto", metavar="auto|N|0"),
    arg("--dtype", "of the network", choices=("auto", "fp32", "bf16", "fp16"), default="auto"),
    arg("--device", "cpu, cuda, cuda:N; auto: a GPU if there is one", default="auto"),
    arg("--format", "of the results", choices=("png", "jpg", "webp", "keep"), default="keep"),
    arg("--quality", "of JPEG and WebP, 1 to 100", most=100, default=95),
    arg("--ensemble", "average eight flips and turns: 8 times the time", action="store_true"),
    arg("--overwrite", "make results anew that exist", action="store_true"),
    arg("--dry-run", "only print what would be done", action="store_true"),
    arg("--no-metadata", "do not name package, weights and scale", dest="metadata", action="store_false"),
    arg("--max-pixels", "images of more are refused", most=10**12, default=89_478_485, metavar="N"),
    arg("--quiet", "print errors only", action="store_true"),
)
command(
    "onnx",
    "write a network with its weights as ONNX, for every size of image",
    "cli:_onnx",
    arg("model", "weights: a name of the package, a file or a folder experiments/NAME", metavar="MODEL"),
    arg("-o --output", "the file to be written", required=True, metavar="FILE.onnx"),
    arg("--opset", "version of ONNX's operators, 18 to 23", type=int, default=18, metavar="N"),
    arg("--half", "weights, input and output in float16", action="store_true"),
)
command(
    "options",
    "write the option files, or one for a network and data of your own",
    "cli:_options",
    arg("--folder", "a new folder for all of them (default: options)", type=Path),
    arg("--network", "write one file, for training this network, such as ContrastV2"),
    arg("--size", "of the network, such as S or light (default: the first of ContrastV2, the full one of others)"),
    arg("--scale", "2, 3 or 4 (default: 4)", type=int),
    arg("--start", "finetune: from the weights of X2 (default: scratch)", choices=("scratch", "finetune")),
    arg("--data", "made by contrast-arch prepare (default: datasets/LSDIR_DF2K)", metavar="FOLDER"),
    arg("--batch", "images of an iteration, on each GPU (default: 8)", type=int),
    arg("--model", "(default: SRModel)", choices=("SRModel", "ContrastModel")),
    arg("-o --output", "the one file (default: train_NETWORK_SIZE_SRxN_START.yml)", metavar="FILE"),
)


def _warmup():
    import logging

    import torch

    from contrast_arch import ops

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ops.choose_all(torch.device("cpu"))
    if torch.cuda.is_available():
        ops.choose_all(torch.device("cuda", torch.cuda.current_device()))


def _export(experiments, output, **settings):
    from contrast_arch.weights import export

    if len(experiments) > 1 and output.suffix:
        raise InputError(f"--output {output}: {len(experiments)} experiments need a folder, not one file")
    for folder in experiments:
        print(export(folder, output, **settings))


def _upscale(
    inputs, output, model, device, format, dry_run, metadata, quality, overwrite, max_pixels, quiet, **settings
):
    from contrast_arch.inference import files
    from contrast_arch.inference.upscale import Upscaler

    jobs, model = files.plan(inputs, output, format), model or files.DEFAULT_MODEL
    upscaler = Upscaler(files.load(model, device), **settings, progress=not quiet)
    if dry_run:
        return files.dry_run(jobs, upscaler, overwrite, max_pixels) > 0
    name = Path(model).name.removesuffix(".pth").removesuffix(".safetensors")
    software = f"contrast-arch {__version__}, {name}, X{upscaler.scale}" if metadata else None
    options = {"quality": quality, "overwrite": overwrite, "max_pixels": max_pixels, "quiet": quiet}
    return files.run(jobs, upscaler, software, **options) > 0


def _onnx(model, output, **settings):
    from contrast_arch.inference.onnx import export_onnx

    print(f"{output}: differs from PyTorch by at most {export_onnx(model, output, **settings):.1e}")


def _options(folder, **settings):
    from contrast_arch.options import generate

    given = {name: value for name, value in settings.items() if value is not None}
    if given and (folder or "network" not in given):
        text = "is for one file of your own choice: name its --network too, and no --folder"
        raise InputError(f"--{next(iter(given))} {text}")
    if given:
        print(f"option file written to {generate.write_one(**given)}")
    else:
        generate.write_all(folder or Path("options"))
        print(f"option files written to {folder or 'options'}")


def _call(args):
    name = args.pop("command")
    for argument, most in MOST.items():
        value = args.get(argument)
        if value is not None and not 0 < value <= most:
            expected = f"at most {most}" if value > most else "more than 0"
            raise InputError(f"--{argument.replace('_', '-')} {value}: expected {expected}")
    try:
        if name in NEED_BASICSR:
            compat.require_basicsr()
        result = pkgutil.resolve_name(f"contrast_arch.{CALLS[name]}")(**args)
    except ImportError as error:
        if name not in EXTRAS:
            raise
        needed = f"pip install 'contrast-arch[{EXTRAS[name]}]'"
        raise InputError(f"contrast-arch {name} needs {error.name}, which is not installed: {needed}") from error
    except OSError as error:
        # Of a file, such as an --output in a file's place.
        if error.filename is None:
            raise
        raise InputError(f"{error.filename}: {error.strerror}") from error
    return int(result) if isinstance(result, int) else 0


def main(argv: list[str] | None = None) -> int:
    """Run ``contrast-arch`` with arguments, None for those of the process; return its exit code."""
    return exit_code(_call, vars(PARSER.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
