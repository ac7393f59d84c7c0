"""The command line: it only parses and calls."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from contrast_arch import compat
from contrast_arch.errors import InputError, exit_code
from contrast_arch.options.generate import IMAGES_PER_CHECKPOINT
from contrast_arch.pipeline import add_import
from contrast_arch.version import __version__

# Arguments of several commands whose values are above zero, and the largest of each.
MOST = {
    "iterations": 10**9,
    "images": 10**12,
    "patch": 10**6,
    "rounds": 10**6,
    "scale": 10**6,
    "images_per_checkpoint": 10**12,
    "seeds": 1000,
    "processes": 1024,
    "quality": 100,
    "max_pixels": 10**12,
}
PARSER = argparse.ArgumentParser(prog="contrast-arch", description="Contrast networks for BasicSR.")
PARSER.add_argument("--version", action="version", version=__version__)
COMMANDS = PARSER.add_subparsers(dest="command", required=True)


def arg(flags: str, help: str, **keywords) -> Callable:
    """Make a function that adds an argument to a parser; the default, if any, ends its help."""
    if keywords.get("default"):
        help += " (default: %(default)s)"
    return lambda parser: parser.add_argument(*flags.split(), help=help, **keywords)


def one_of(*arguments: Callable) -> Callable:
    """Make a function that adds arguments of which one may be given."""

    def add(parser):
        group = parser.add_mutually_exclusive_group()
        for argument in arguments:
            argument(group)

    return add


def command(*arguments: Callable, extra: str = "") -> Callable:
    """Decorate ``_name(args)``, whose docstring is the command's help, and which returns an exit code or None.

    Args:
        extra: of the package, with the libraries that the command needs.
    """

    def add(call):
        help = call.__doc__.rstrip(".")
        parser = COMMANDS.add_parser(call.__name__[1:].replace("_", "-"), help=help[0].lower() + help[1:])
        for argument in arguments:
            argument(parser)
        parser.set_defaults(call=call, extra=extra)
        return call

    return add


FORCE_YML = arg("--force_yml", "change all option files", nargs="+", default=[], metavar="KEY:KEY=VALUE")
EXPERIMENTS = arg("experiments", "a folder experiments/NAME", nargs="+", metavar="EXPERIMENT", type=Path)


def _tile(text):
    return text if text == "auto" else int(text)


@command(
    arg("--folder", "for all that is written", default="results/demo", type=Path),
    arg("--iterations", "of each network", default=300, type=int),
    extra="demo",
)
def _demo(args):
    """Enlarge a photograph, then train and compare Contrast and HAT-light, small, on the CPU."""
    compat.require_basicsr()
    from contrast_arch import demo

    demo.run(args.folder, args.iterations)


@command(
    arg("roots", "a folder with HR images, in subfolders or not", nargs="+", metavar="ROOT", type=Path),
    arg("--output", "the folder of the dataset, such as datasets/LSDIR_DF2K", required=True, type=Path),
    arg("--scales", "of LQ", nargs="+", type=int, choices=(2, 3, 4), default=[4]),
    arg("--for", "validation keeps HR whole", dest="purpose", choices=("training", "validation"), default="training"),
    arg("--gt-size", "side of HR patches; smaller images are left out (default: 64 LQ)", type=int),
    arg("--sub-images", "cut HR into parts of this side, such as 480", type=int, metavar="SIDE"),
    arg("--lmdb", "make LMDB files too", action="store_true"),
    arg("--processes", "that work at the same time", type=int, default=os.cpu_count()),
)
def _prepare(args):
    """Make HR, bicubic LQ and a meta-info file from folders of HR images."""
    compat.require_basicsr()
    from contrast_arch import prepare
    from contrast_arch.prepare.plan import make_settings

    settings = make_settings(args.scales, args.purpose, args.gt_size, args.sub_images)
    prepare.run(args.roots, args.output, settings, args.processes, args.lmdb)


@command(
    arg("files", "an option file for training", nargs="+", metavar="OPTIONS"),
    arg("--images", "LQ/GT patches that each experiment sees", type=int, required=True),
    arg("--images-per-checkpoint", "from one validation to the next", type=int, default=IMAGES_PER_CHECKPOINT),
    FORCE_YML,
    arg("--seeds", "train each N times, with seeds 0 to N - 1", type=int, metavar="N"),
    arg("--gpus", "that share each experiment (default: all)", type=int),
    arg("--output", "option files as run, logs", default="results/compare", type=Path),
)
def _compare(args):
    """Train several networks one after the other, alike."""
    compat.require_basicsr()
    from contrast_arch.experiments import compare

    compare.run(args.files, args.images, args.images_per_checkpoint, args.force_yml, args.gpus, args.output, args.seeds)


@command(
    arg("-opt", "option files", dest="files", nargs="+", required=True, metavar="FILE"),
    arg("--all", "read every image completely, not the headers of a sample", action="store_true"),
    add_import,
    FORCE_YML,
    arg("--test", "for testing (default: without train and datasets: train)", action="store_true"),
)
def _check(args):
    """Find mistakes in option files, by line, before they are run."""
    compat.require_basicsr()
    from contrast_arch.check import checks

    context = {"every_pair": args.all, "imports": args.imports, "force_yml": args.force_yml}
    return checks.run(args.files, True if args.test else None, **context)


@command(
    arg("networks", "such as Contrast_light, HAT, an option file, weights (default: many)", nargs="*"),
    arg("--output", "a folder for the results", default="results/bench", type=Path),
    arg("--device", "cpu, cuda or cuda:N (default: a GPU where there is one)"),
    arg("--batch", "images of an iteration, one size or more (default: 8)", type=int, nargs="+"),
    arg("--patch", "side of the LQ images (default: 64)", type=int),
    arg("--scale", "of all networks (default: 4)", type=int),
    arg("--rounds", "number of timed rounds (default: 5)", type=int),
    arg("--sides", "measure Contrast on one image of each side too, on the CPU", type=int, nargs="+"),
    arg("--core", "measure SS2D's core with each backend too", action="store_true", dest="with_core"),
    arg("--quick", "small images, for a CPU: batch 1, 32x32 LQ", action="store_true"),
)
def _bench(args):
    """Measure time, memory and multiply-adds of the networks on this machine."""
    from contrast_arch.experiments.bench import command as bench

    bench.run(args.networks, args.output, **_given(args, "networks", "output"))


@command(
    arg("image", "an LQ image", metavar="IMAGE"),
    arg("--weights", "of the networks", nargs="+", required=True, metavar="NAME_OR_PATH"),
    arg("--output", "a folder", default="results/receptive_field", type=Path),
    arg("--at", "the pixel LAM looks at (default: centre)", nargs=2, type=int, metavar=("X", "Y")),
    extra="report",
)
def _receptive_field(args):
    """Show the pixels of an image that networks make use of: ERF and LAM."""
    from contrast_arch.experiments import receptive_field

    receptive_field.run(args.image, args.weights, args.output, args.at)


@command()
def _warmup(args):
    """Compile and test the kernels of this machine ahead of their first use."""
    import logging

    import torch

    from contrast_arch import ops

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ops.choose_all(torch.device("cpu"))
    if torch.cuda.is_available():
        ops.choose_all(torch.device("cuda", torch.cuda.current_device()))


@command(
    EXPERIMENTS,
    arg("--output", "a folder for it", default="results/report", type=Path),
    extra="report",
)
def _report(args):
    """Draw curves, tables and pictures of experiments, finished or running."""
    from contrast_arch.experiments import report

    report.run(args.experiments, args.output)


@command(
    EXPERIMENTS,
    arg("-o --output", "a folder for them, or a file NAME.safetensors", default="weights", type=Path),
    arg("--iteration", "latest, best (PSNR on the first validation set), or an iteration", default="latest"),
    arg("--weights", "ema: averaged; auto: those if there are any", choices=("auto", "ema", "plain"), default="auto"),
    arg("--layout", "published: for the code of HAT and the author", choices=("own", "published"), default="own"),
)
def _export(args):
    """Write weights of experiments, with their description, as safetensors."""
    from contrast_arch.weights import export

    if len(args.experiments) > 1 and args.output.suffix:
        raise InputError(f"--output {args.output}: {len(args.experiments)} experiments need a folder, not one file")
    for folder in args.experiments:
        print(export(folder, args.output, args.iteration, args.weights, args.layout))


@command(
    arg("inputs", "an image, a folder, or - for stdin", nargs="+", metavar="INPUT"),
    arg("-o --output", "a folder; for one image a file, or - for stdout", required=True),
    arg("--model", "weights (default: those of the package for X4)", metavar="NAME_OR_PATH"),
    one_of(
        arg("--out-size", "width and height of the results", nargs=2, type=int, metavar=("W", "H")),
        arg("--factor", "by which both sides grow (default: the network's scale)", type=float),
    ),
    arg("--tile", "side in LQ pixels, 0 for none", type=_tile, default="auto", metavar="auto|N|0"),
    arg("--dtype", "of the network", choices=("auto", "fp32", "bf16", "fp16"), default="auto"),
    arg("--device", "cpu, cuda, cuda:N; auto: a GPU if there is one", default="auto"),
    arg("--format", "of the results", choices=("png", "jpg", "webp", "keep"), default="keep"),
    arg("--quality", "of JPEG and WebP, 1 to 100 (default: 95)", type=int),
    arg("--ensemble", "average eight flips and turns: 8 times the time", action="store_true"),
    arg("--overwrite", "make results anew that exist", action="store_true"),
    arg("--dry-run", "only print what would be done", action="store_true"),
    arg("--no-metadata", "do not name package, weights and scale", dest="metadata", action="store_false"),
    arg("--max-pixels", "images of more are refused", type=int, default=89_478_485, metavar="N"),
    arg("--quiet", "print errors only", action="store_true"),
)
def _upscale(args):
    """Enlarge images."""
    from contrast_arch.inference import files
    from contrast_arch.inference.upscale import Upscaler

    if args.quality is not None and args.format == "png":
        raise InputError(f"--quality {args.quality} --format png: PNG keeps every value; leave --quality out")
    jobs = files.plan(args.inputs, args.output, args.format)
    model = args.model or files.DEFAULT_MODEL
    settings = {name: getattr(args, name) for name in ("factor", "out_size", "tile", "dtype", "ensemble")}
    upscaler = Upscaler(files.load(model, args.device), **settings, progress=not args.quiet)
    if args.dry_run:
        return files.dry_run(jobs, upscaler, args.overwrite, args.max_pixels) > 0
    name = Path(model).stem if Path(model).suffix in (".safetensors", ".pth") else Path(model).name
    software = f"contrast-arch {__version__}, {name}, X{upscaler.scale}" if args.metadata else None
    options = {name: getattr(args, name) for name in ("overwrite", "max_pixels", "quiet")}
    return files.run(jobs, upscaler, software, quality=args.quality or 95, **options) > 0


@command(
    arg("model", "weights: a name of the package, a file or a folder experiments/NAME", metavar="MODEL"),
    arg("-o --output", "the file to be written", required=True, metavar="FILE.onnx"),
    arg("--opset", "version of ONNX's operators, 18 to 23", type=int, default=18, metavar="N"),
    arg("--half", "weights, input and output in float16", action="store_true"),
    extra="onnx",
)
def _onnx(args):
    """Write a network with its weights as ONNX, for every size of image."""
    from contrast_arch.inference.onnx import export_onnx

    difference = export_onnx(args.model, args.output, opset=args.opset, half=args.half)
    print(f"{args.output}: differs from PyTorch by at most {difference:.1e}")


@command(
    one_of(
        arg("--folder", "a new folder for all of them", default="options", type=Path),
        arg("--network", "write one file, for training this network, such as ContrastV2"),
    ),
    arg("--size", "of the network, such as S or light (default: the first of ContrastV2, the full one of others)"),
    arg("--scale", "2, 3 or 4 (default: 4)", type=int),
    arg("--start", "finetune: from the weights of X2 (default: scratch)", choices=("scratch", "finetune")),
    arg("--data", "made by contrast-arch prepare (default: datasets/LSDIR_DF2K)", metavar="FOLDER"),
    arg("--batch", "images of an iteration, on each GPU (default: 8)", type=int),
    arg("--model", "(default: SRModel)", choices=("SRModel", "ContrastModel")),
    arg("-o --output", "the one file (default: train_NETWORK_SIZE_SRxN_START.yml)", metavar="FILE"),
)
def _options(args):
    """Write the option files, or one for a network and data of your own."""
    from contrast_arch.options import generate

    given = _given(args, "folder")
    if given and args.network is None:
        raise InputError(f"--{next(iter(given))} is for one file of your own choice: name its --network too")
    if given:
        print(f"option file written to {generate.write_one(**given)}")
    else:
        generate.write_all(args.folder)
        print(f"option files written to {args.folder}")


def _given(args, *others):
    """Arguments of a command that were given, but for some."""
    others = ("command", "call", "extra", *others)
    return {name: value for name, value in vars(args).items() if name not in others and value is not None}


def _call(args):
    for name, most in MOST.items():
        value = getattr(args, name, None)
        if value is not None and not 0 < value <= most:
            expected = f"at most {most}" if value > most else "more than 0"
            raise InputError(f"--{name.replace('_', '-')} {value}: expected {expected}")
    try:
        return int(args.call(args) or 0)
    except ImportError as error:
        if not args.extra:
            raise
        needed = f"pip install 'contrast-arch[{args.extra}]'"
        raise InputError(
            f"contrast-arch {args.command} needs {error.name}, which is not installed: {needed}"
        ) from error
    except OSError as error:
        # Of a file, such as an --output in a file's place.
        if error.filename is None:
            raise
        raise InputError(f"{error.filename}: {error.strerror}") from error


def main(argv: list[str] | None = None) -> int:
    """Run ``contrast-arch``.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        See :func:`~contrast_arch.errors.exit_code`.
    """
    return exit_code(_call, PARSER.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
