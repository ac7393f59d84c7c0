"""The command line: it only parses and calls."""

import argparse
import os
import sys
from pathlib import Path

from contrast_arch import compat
from contrast_arch.errors import InputError, exit_code
from contrast_arch.options.generate import IMAGES_PER_CHECKPOINT
from contrast_arch.pipeline import add_import, add_trainer
from contrast_arch.version import __version__

BENCH_SETTINGS = {
    "device": {"help": "cpu, cuda or cuda:N (default: a GPU where there is one)"},
    "batch": {"type": int, "nargs": "+", "help": "images of an iteration, one size or more (default: 8)"},
    "patch": {"type": int, "help": "side of the LQ images (default: 64)"},
    "scale": {"type": int, "help": "of all networks (default: 4)"},
    "rounds": {"type": int, "help": "number of timed rounds (default: 5)"},
    "threads": {"type": int, "help": "of PyTorch on the CPU (default: all)"},
    "minutes": {"type": float, "help": "no further round begins after so long"},
    "sides": {"type": int, "nargs": "+", "help": "measure Contrast on one image of each side too, on the CPU"},
    "core": {"action": "store_true", "help": "measure SS2D's core with each backend too"},
    "quick": {"action": "store_true", "help": "small images, for a CPU: batch 1, 32x32 LQ"},
}
# Of an option file of one's own.
OPTION_SETTINGS = {
    "size": {"help": "of the network, such as S or light (default: the first of ContrastV2, the full one of others)"},
    "scale": {"type": int, "help": "2, 3 or 4 (default: 4)"},
    "start": {"choices": ("scratch", "finetune"), "help": "finetune: from the weights of X2 (default: scratch)"},
    "data": {"metavar": "FOLDER", "help": "made by contrast-arch prepare (default: datasets/LSDIR_DF2K)"},
    "batch": {"type": int, "help": "images of an iteration, on each GPU (default: 8)"},
    "model": {"choices": ("SRModel", "ContrastModel"), "help": "(default: SRModel)"},
}


def _demo(args) -> None:
    compat.require_basicsr()
    if not 10 <= args.iterations <= 10**9:
        raise InputError(
            f"--iterations {args.iterations}: expected at least 10, the interval of the log; at most 10**9"
        )
    try:
        from contrast_arch import demo
    except ImportError as error:
        needed = "pip install scikit-image matplotlib tqdm"
        raise InputError(f"the demo needs {error.name}, which is not installed: {needed}") from error
    demo.run(Path(args.folder), args.iterations)


def _prepare(args) -> None:
    compat.require_basicsr()
    from contrast_arch import prepare
    from contrast_arch.prepare.plan import make_settings

    if not 1 <= args.processes <= 1024:
        raise InputError(f"--processes {args.processes}: expected 1 to 1024")
    settings = make_settings(args.scales, args.purpose, args.gt_size, args.sub_images, args.step)
    prepare.run(
        [Path(root) for root in args.roots], Path(args.output), settings, args.processes, args.lmdb, args.dry_run
    )


def _compare(args) -> None:
    compat.require_basicsr()
    from contrast_arch.experiments import compare

    for name in ("iterations", "images", "hours", "images_per_checkpoint", "seeds"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise InputError(f"--{name.replace('_', '-')} {value}: expected more than 0")
    if args.seeds is not None and args.seeds > 1000:
        raise InputError(f"--seeds {args.seeds}: expected at most 1000")
    budget = compare.Budget(args.iterations, args.images, args.hours)
    output = Path(args.output)
    compare.run(args.files, budget, args.images_per_checkpoint, args.force_yml, args.gpus, output, args.seeds)


def _check(args) -> int:
    compat.require_basicsr()
    from contrast_arch.check import checks

    if args.processes is not None and args.processes < 1:
        raise InputError(f"--processes {args.processes}: expected 1 or more")
    testing = True if args.test else None
    context = {name: getattr(args, name) for name in ("launcher", "processes", "imports", "trainer", "force_yml")}
    return checks.run(args.files, testing, every_pair=args.all, **context)


def _warmup(args) -> None:
    import logging

    import torch

    from contrast_arch import ops

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ops.choose_all(torch.device("cpu"))
    if torch.cuda.is_available():
        ops.choose_all(torch.device("cuda", torch.cuda.current_device()))


def _bench(args) -> None:
    from contrast_arch.experiments.bench import command

    settings = {key: getattr(args, key) for key in BENCH_SETTINGS if getattr(args, key) is not None}
    command.run(args.networks, Path(args.output), **settings)


def _receptive_field(args) -> None:
    try:
        from contrast_arch.experiments import receptive_field

        receptive_field.run(args.image, args.weights, Path(args.output), args.at, args.side)
    except ImportError as error:
        raise InputError(f"the pictures need {error.name}: pip install matplotlib") from error


def _report(args) -> None:
    from contrast_arch.experiments import report

    report.run([Path(folder) for folder in args.experiments], Path(args.output))


def _export(args) -> None:
    from contrast_arch.weights import export

    output = Path(args.output)
    if len(args.experiments) > 1 and output.suffix:
        raise InputError(f"--output {output}: {len(args.experiments)} experiments need a folder, not one file")
    for folder in args.experiments:
        print(export(Path(folder), output, args.iteration, args.weights, args.layout))


def _upscale(args) -> int:
    from contrast_arch.inference import files
    from contrast_arch.inference.upscale import Settings

    out_size = None if args.out_size is None else tuple(args.out_size)
    settings = Settings(args.factor, out_size, args.tile, args.dtype, args.ensemble)
    if args.quality is not None and args.format == "png":
        raise InputError(f"--quality {args.quality} --format png: PNG keeps every value; leave --quality out")
    quality = {} if args.quality is None else {"quality": args.quality}
    options = files.Options(
        overwrite=args.overwrite, metadata=args.metadata, max_pixels=args.max_pixels, quiet=args.quiet, **quality
    )
    jobs = files.plan(args.inputs, args.output, args.format)
    network = files.load(args.model or files.DEFAULT_MODEL, args.device)
    if args.dry_run:
        return int(files.dry_run(jobs, network, settings, options) > 0)
    return int(files.run(jobs, network, args.model or files.DEFAULT_MODEL, settings, options) > 0)


def _onnx(args) -> None:
    from contrast_arch.inference.onnx import OPSETS, export_onnx

    difference = export_onnx(
        args.model, args.output, opset=OPSETS[0] if args.opset is None else args.opset, half=args.half
    )
    print(f"{args.output}: differs from PyTorch by at most {difference:.1e}")


def _tile(text):
    return text if text == "auto" else int(text)


def _options(args) -> None:
    from contrast_arch.options import generate

    names = ("network", *OPTION_SETTINGS, "output")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if given and args.network is None:
        raise InputError(f"--{next(iter(given))} is for one file of your own choice: name its --network too")
    if given:
        print(f"option file written to {generate.write_one(**given)}")
    else:
        generate.write_all(Path(args.folder))
        print(f"option files written to {args.folder}")


def _add_options(commands) -> None:
    options = commands.add_parser("options", help="write the option files, or one for a network and data of your own")
    place = options.add_mutually_exclusive_group()
    place.add_argument("--folder", default="options", help="a new folder for all of them (default: %(default)s)")
    place.add_argument("--network", help="write one file, for training this network, such as ContrastV2")
    for name, keywords in OPTION_SETTINGS.items():
        options.add_argument(f"--{name}", **keywords)
    options.add_argument(
        "-o", "--output", metavar="FILE", help="the one file (default: train_NETWORK_SIZE_SRxN_START.yml)"
    )
    options.set_defaults(call=_options)


def _add_upscale(commands) -> None:
    upscale = commands.add_parser("upscale", help="enlarge images")
    upscale.add_argument("inputs", nargs="+", metavar="INPUT", help="an image, a folder, or - for stdin")
    upscale.add_argument("-o", "--output", required=True, help="a folder; for one image a file, or - for stdout")
    upscale.add_argument("--model", metavar="NAME_OR_PATH", help="weights (default: those of the package for X4)")
    size = upscale.add_mutually_exclusive_group()
    size.add_argument("--out-size", nargs=2, type=int, metavar=("W", "H"), help="width and height of the results")
    size.add_argument("--factor", type=float, help="by which both sides grow (default: the network's scale)")
    upscale.add_argument(
        "--tile", type=_tile, default="auto", metavar="auto|N|0", help="side in LQ pixels, 0 for none (default: auto)"
    )
    upscale.add_argument("--dtype", choices=("auto", "fp32", "bf16", "fp16"), default="auto", help="(default: auto)")
    upscale.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: a GPU if there is one)")
    upscale.add_argument(
        "--format", choices=("png", "jpg", "webp", "keep"), default="keep", help="of the results (default: keep)"
    )
    upscale.add_argument("--quality", type=int, help="of JPEG and WebP, 1 to 100 (default: 95)")
    upscale.add_argument("--ensemble", action="store_true", help="average eight flips and turns: 8 times the time")
    upscale.add_argument("--overwrite", action="store_true", help="make results anew that exist")
    upscale.add_argument("--dry-run", action="store_true", help="only print what would be done")
    upscale.add_argument(
        "--no-metadata", dest="metadata", action="store_false", help="do not name package, weights and scale"
    )
    upscale.add_argument(
        "--max-pixels",
        type=int,
        default=89_478_485,
        metavar="N",
        help="images of more are refused (default: %(default)s, Pillow's limit)",
    )
    upscale.add_argument("--quiet", action="store_true", help="print errors only")
    upscale.set_defaults(call=_upscale)


def main(argv: list[str] | None = None) -> int:
    """Run ``contrast-arch``.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        0, 1 where something the user gave cannot be used, or 130 where the user interrupted it.
    """
    parser = argparse.ArgumentParser(prog="contrast-arch", description="Contrast networks for BasicSR.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="train and compare Contrast and HAT-light, small, on the CPU")
    demo.add_argument("--folder", default="results/demo", help="where everything is written (default: %(default)s)")
    demo.add_argument("--iterations", type=int, default=500, help="of each network (default: %(default)s)")
    demo.set_defaults(call=_demo)
    prepare = commands.add_parser("prepare", help="make HR, bicubic LQ and a meta-info file from folders of HR images")
    prepare.add_argument("roots", nargs="+", metavar="ROOT", help="a folder with HR images, in subfolders or not")
    prepare.add_argument("--output", required=True, help="the folder of the dataset, such as datasets/LSDIR_DF2K")
    prepare.add_argument("--scales", nargs="+", type=int, choices=(2, 3, 4), default=[4], help="(default: 4)")
    prepare.add_argument(
        "--for",
        dest="purpose",
        choices=("training", "validation"),
        default="training",
        help="training crops HR to a multiple of all scales, validation keeps it whole (default: %(default)s)",
    )
    prepare.add_argument("--gt-size", type=int, help="side of HR patches; smaller images are left out (default: 64 LQ)")
    prepare.add_argument("--sub-images", type=int, metavar="SIDE", help="cut HR into parts of this side, such as 480")
    prepare.add_argument("--step", type=int, help="from one sub-image to the next (default: half their side)")
    prepare.add_argument("--lmdb", action="store_true", help="make LMDB files too")
    prepare.add_argument("--processes", type=int, default=os.cpu_count(), help="(default: %(default)s)")
    prepare.add_argument("--dry-run", action="store_true", help="only say what would be done")
    prepare.set_defaults(call=_prepare)
    compare = commands.add_parser("compare", help="train several networks one after the other, alike")
    compare.add_argument("files", nargs="+", metavar="OPTIONS", help="an option file for training")
    budget = compare.add_mutually_exclusive_group(required=True)
    budget.add_argument("--iterations", type=int, help="of each experiment")
    budget.add_argument("--images", type=int, help="LQ/GT patches that each experiment sees")
    budget.add_argument("--hours", type=float, help="of each experiment, to the first checkpoint after them")
    compare.add_argument(
        "--images-per-checkpoint", type=int, default=IMAGES_PER_CHECKPOINT, help="(default: %(default)s)"
    )
    compare.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="change all option files")
    compare.add_argument("--seeds", type=int, metavar="N", help="train each N times, with seeds 0 to N - 1")
    compare.add_argument("--gpus", type=int, help="that share each experiment (default: all)")
    compare.add_argument("--output", default="results/compare", help="option files as run, logs (default: %(default)s)")
    compare.set_defaults(call=_compare)
    check = commands.add_parser("check", help="what is wrong with option files, by line, before they are run")
    check.add_argument("-opt", dest="files", nargs="+", required=True, metavar="FILE", help="option files")
    check.add_argument("--all", action="store_true", help="read every image completely, not the headers of a sample")
    add_import(check)
    check.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="change all option files")
    check.add_argument(
        "--launcher", choices=("none", "pytorch", "slurm"), default="none", help="(default: %(default)s)"
    )
    check.add_argument("--processes", type=int, help="that are to train together (default: 1, or num_gpu)")
    add_trainer(check)
    check.add_argument("--test", action="store_true", help="for testing (default: without train and datasets: train)")
    check.set_defaults(call=_check)
    bench = commands.add_parser("bench", help="time, memory and multiply-adds of the networks on this machine")
    bench.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK",
        help="HAT (upstream), a peer, a network such as Contrast_light, an option file, or weights (default: those of "
        "the comparison, HAT and the peers)",
    )
    bench.add_argument("--output", default="results/bench", help="a folder for the results (default: %(default)s)")
    for name, keywords in BENCH_SETTINGS.items():
        bench.add_argument(f"--{name}", **keywords)
    bench.set_defaults(call=_bench)
    field = commands.add_parser("receptive-field", help="the pixels of an image that networks make use of: ERF and LAM")
    field.add_argument("image", metavar="IMAGE", help="an LQ image")
    field.add_argument("--weights", nargs="+", required=True, metavar="NAME_OR_PATH", help="of the networks")
    field.add_argument("--output", default="results/receptive_field", help="a folder (default: %(default)s)")
    field.add_argument("--at", nargs=2, type=int, metavar=("X", "Y"), help="the pixel LAM looks at (default: centre)")
    field.add_argument("--side", type=int, default=112, help="of the crops that are looked at (default: %(default)s)")
    field.set_defaults(call=_receptive_field)
    warmup = commands.add_parser("warmup", help="compile and test the kernels of this machine ahead of their first use")
    warmup.set_defaults(call=_warmup)
    report = commands.add_parser("report", help="curves, tables and pictures of experiments, finished or running")
    report.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="a folder experiments/NAME")
    report.add_argument("--output", default="results/report", help="a folder for it (default: %(default)s)")
    report.set_defaults(call=_report)
    exporting = commands.add_parser("export", help="write weights of experiments, with what they are, as safetensors")
    exporting.add_argument("experiments", nargs="+", metavar="EXPERIMENT", help="a folder experiments/NAME")
    exporting.add_argument(
        "-o",
        "--output",
        default="weights",
        metavar="FILE_OR_FOLDER",
        help="a folder for them, or a file NAME.safetensors (default: %(default)s)",
    )
    exporting.add_argument(
        "--iteration",
        default="latest",
        metavar="latest|best|N",
        help="the end of the training (default), the best PSNR on the first validation set, or an iteration",
    )
    exporting.add_argument(
        "--weights",
        choices=("auto", "ema", "plain"),
        default="auto",
        help="averaged weights, plain ones, or averaged ones where there are any (default: %(default)s)",
    )
    exporting.add_argument(
        "--layout",
        choices=("own", "published"),
        default="own",
        help="published: for HAT's own code and the author's, as .safetensors or with -o NAME.pth (default: own)",
    )
    exporting.set_defaults(call=_export)
    _add_upscale(commands)
    onnx = commands.add_parser("onnx", help="write a network with its weights as ONNX, for every size of image")
    onnx.add_argument(
        "model", metavar="MODEL", help="weights: a name of the package, a file or a folder experiments/NAME"
    )
    onnx.add_argument("-o", "--output", required=True, metavar="FILE.onnx", help="the file to be written")
    onnx.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators, 18 to 23 (default: 18)")
    onnx.add_argument("--half", action="store_true", help="weights, input and output in float16")
    onnx.set_defaults(call=_onnx)
    _add_options(commands)
    args = parser.parse_args(argv)
    try:
        return exit_code(args.call, args)
    except OSError as error:
        # A place that cannot be read or written, such as an --output in a file's place.
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
