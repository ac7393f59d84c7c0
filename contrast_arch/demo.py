"""The demo: Contrast against HAT-light, both small, on the photographs that come with scikit-image, on the CPU.

Everything goes through the trainer and the tester that users have, with the shipped option files made smaller.
"""

import os
from pathlib import Path

import matplotlib
import numpy as np
import skimage.data
import yaml
from tqdm import tqdm

from contrast_arch.check import read_options
from contrast_arch.errors import InputError
from contrast_arch.experiments.basicsr_logs import metric_line, training_line
from contrast_arch.experiments.markdown import table
from contrast_arch.experiments.records import read_run
from contrast_arch.files import option_files, replacing
from contrast_arch.images import is_utf8, printable
from contrast_arch.launch import launch
from contrast_arch.prepare.images import bicubic, bicubic_lq, crop_to_multiple

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SCALE = 4
TRAINING = ("astronaut.png", "hubble_deep_field.jpg", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg")
TEST = ("chelsea.png", "coffee.png")
NETWORKS = {"HATLight": "HAT-light", "Contrast": "Contrast"}
SMALL = {"depths": [2, 2], "num_heads": [4, 4]}
WIDTH = 32
# (left, top), and the side, of the part of each test picture that is shown enlarged.
DETAILS = {"chelsea": (150, 70), "coffee": (310, 215)}
DETAIL_SIZE = 96


def run(folder: Path, iterations: int = 500) -> None:
    """Make LQ images, train and test both networks, and write table, pictures and curves.

    Args:
        folder: for everything that is written; made if need be. Earlier pictures in it are replaced, earlier
            experiments moved aside by BasicSR.
        iterations: of training, a network.

    Raises:
        InputError: BasicSR or scikit-image is missing, or a run failed.
    """
    folder = folder.resolve()
    if not is_utf8(str(folder)):
        raise InputError(f"--folder {printable(str(folder))}: its name is not UTF-8, and OpenCV cannot write there")
    folder.mkdir(parents=True, exist_ok=True)
    prepare_images(folder)
    rows, curves = [bicubic_row(folder)], {}
    for network in NETWORKS:
        train_file, test_file = write_options(folder, network, iterations)
        train(folder, train_file, network, iterations)
        record = read_run(folder / "experiments" / f"demo_{network}")
        curves[network] = list(record.values["losses/l_pix"].items())
        psnr, ssim = metrics(launch(folder, "contrast_arch.test", test_file))
        rows.append((NETWORKS[network], psnr, ssim, record.parameters, record.seconds))
    table = format_table(rows)
    with replacing(folder / "table.md") as temporary:
        temporary.write_text(table)
    draw_curves(curves, folder / "loss.png")
    for name in TEST:
        draw_comparison(folder, Path(name).stem, folder / f"{Path(name).stem}.png")
    print(f"\n{table}\nPictures and loss curves: {os.path.relpath(folder)}/*.png")


def prepare_images(folder: Path) -> None:
    """HR images cropped to the scale, MATLAB-like bicubic LQ and its enlargement, under folder/data."""
    import cv2

    source = Path(skimage.data.__file__).parent
    for part, names in (("train", TRAINING), ("test", TEST)):
        for kind in ("HR", "LR", "bicubic"):
            (folder / "data" / part / kind).mkdir(parents=True, exist_ok=True)
        for name in tqdm(names, desc=f"LQ images ({part})", unit="image"):
            image = cv2.imread(str(source / name))
            if image is None:
                raise InputError(f"scikit-image has no {name} in {source}; install scikit-image 0.24 or newer")
            stem = Path(name).stem
            hr = crop_to_multiple(image, SCALE)
            lq = bicubic_lq(hr, SCALE)
            cv2.imwrite(str(folder / "data" / part / "HR" / f"{stem}.png"), hr)
            cv2.imwrite(str(folder / "data" / part / "LR" / f"{stem}x{SCALE}.png"), lq)
            if part == "test":
                cv2.imwrite(str(folder / "data" / part / "bicubic" / f"{stem}.png"), bicubic(lq, SCALE))


def write_options(folder: Path, network: str, iterations: int) -> tuple[Path, Path]:
    """The shipped option files of a network made small, in ``folder``."""
    files = []
    for kind, suffix in (("train", "_from_scratch"), ("test", "")):
        options = read_options(str(option_files() / kind / f"{kind}_{network}_SRx{SCALE}{suffix}.yml"))
        options["name"] = f"demo_{network}" if kind == "train" else f"demo_test_{network}"
        options["num_gpu"] = 0
        options["network_g"].update(SMALL, **{"embed_dim" if network == "HATLight" else "dims": WIDTH})
        pairs = {
            part: {
                "type": "PairedImageDataset",
                "name": part,
                "dataroot_gt": str(folder / "data" / part / "HR"),
                "dataroot_lq": str(folder / "data" / part / "LR"),
                "filename_tmpl": "{}x" + str(SCALE),
                "io_backend": {"type": "disk"},
            }
            for part in ("train", "test")
        }
        if kind == "train":
            own = {"meta_info_file": None, "gt_size": 128, "batch_size_per_gpu": 4, "num_worker_per_gpu": 1}
            own["dataset_enlarge_ratio"] = 400
            options["datasets"] = {"train": {**options["datasets"]["train"], **pairs["train"], **own}}
            options["train"]["total_iter"] = iterations
            # Ten times the published rate, lowered towards the end: few iterations have to do here.
            options["train"]["optim_g"]["lr"] = 2e-3
            options["train"]["scheduler"]["milestones"] = [iterations * 6 // 10, iterations * 8 // 10]
            del options["val"]
            options["logger"].update(print_freq=10, save_checkpoint_freq=iterations, use_tb_logger=False)
        else:
            options["datasets"] = {"test_1": pairs["test"]}
            checkpoint = folder / "experiments" / f"demo_{network}" / "models" / "net_g_latest.pth"
            options["path"]["pretrain_network_g"] = str(checkpoint)
        file = folder / f"{kind}_{network}.yml"
        with replacing(file) as temporary:
            temporary.write_text(yaml.safe_dump(options, sort_keys=False))
        files.append(file)
    return files[0], files[1]


def train(folder: Path, options: Path, network: str, iterations: int) -> None:
    """Train with a progress bar."""
    with tqdm(total=iterations, desc=f"train {NETWORKS[network]}", unit="iter") as bar:

        def show(line):
            found = training_line(line)
            if found:
                bar.update(found.iteration - bar.n)
                bar.set_postfix_str(f"loss {found.losses['l_pix']:.5f}")

        launch(folder, "contrast_arch.train", options, on_line=show)


def metrics(log: str) -> tuple[float, float]:
    """PSNR and SSIM of a test log."""
    found = dict(filter(None, map(metric_line, log.splitlines())))
    return found["psnr"], found["ssim"]


def bicubic_row(folder: Path) -> tuple:
    """The table row of bicubic enlargement, by BasicSR's metrics."""
    import cv2
    from basicsr.metrics import calculate_psnr, calculate_ssim

    sums = np.zeros(2)
    for name in TEST:
        stem = Path(name).stem
        pair = [cv2.imread(str(folder / "data" / "test" / kind / f"{stem}.png")) for kind in ("bicubic", "HR")]
        sums += [f(*pair, crop_border=SCALE, test_y_channel=True) for f in (calculate_psnr, calculate_ssim)]
    psnr, ssim = sums / len(TEST)
    return "bicubic", psnr, ssim, None, None


def format_table(rows) -> str:
    """A Markdown table; None is a dash."""
    cells = []
    for name, psnr, ssim, parameters, time in rows:
        count = "-" if parameters is None else f"{parameters:,}"
        time = "-" if time is None else f"{time:.3f}"
        cells.append([name, f"{psnr:.2f}", f"{ssim:.4f}", count, time])
    return "\n".join([*table(["network", "PSNR (Y)", "SSIM (Y)", "parameters", "seconds an iteration"], cells), ""])


def draw_curves(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Training loss over iterations, one line a network: single batches pale, their running mean on top."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for network, points in curves.items():
        iterations, values = (np.array(column) for column in zip(*points, strict=True))
        width = max(1, len(values) // 8)
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        (line,) = axes.plot(iterations[width - 1 :], mean, label=NETWORKS[network], linewidth=2)
        axes.plot(iterations, values, color=line.get_color(), alpha=0.25, linewidth=1)
    axes.set(xlabel="iteration", ylabel="MSE loss", yscale="log", title="Demo: training loss")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def draw_comparison(folder: Path, stem: str, path: Path) -> None:
    """LQ, bicubic, both networks and GT side by side: the whole picture, and a part of it enlarged."""
    import cv2
    from basicsr.metrics import calculate_psnr

    data = folder / "data" / "test"
    gt = cv2.imread(str(data / "HR" / f"{stem}.png"))
    lq = cv2.imread(str(data / "LR" / f"{stem}x{SCALE}.png"))
    shown = {
        "LQ": cv2.resize(lq, gt.shape[1::-1], interpolation=cv2.INTER_NEAREST),
        "bicubic": cv2.imread(str(data / "bicubic" / f"{stem}.png")),
    }
    for network, label in NETWORKS.items():
        name = f"demo_test_{network}"
        picture = folder / "results" / name / "visualization" / "test" / f"{stem}x{SCALE}_{name}.png"
        shown[label] = cv2.imread(str(picture))
    left, top = DETAILS[stem]
    figure, axes = plt.subplots(2, len(shown) + 1, figsize=(15, 5.4), layout="constrained")
    for column, (label, image) in zip(axes.T, [*shown.items(), ("GT", gt)], strict=True):
        title = label
        if label not in ("LQ", "GT"):
            title += f"  {calculate_psnr(image, gt, crop_border=SCALE, test_y_channel=True):.2f} dB"
        column[0].set_title(title)
        rgb = image[:, :, ::-1]
        column[0].imshow(rgb)
        column[0].add_patch(plt.Rectangle((left, top), DETAIL_SIZE, DETAIL_SIZE, fill=False, color="red"))
        column[1].imshow(rgb[top : top + DETAIL_SIZE, left : left + DETAIL_SIZE], interpolation="nearest")
        for axis in column:
            axis.set_axis_off()
    save(figure, path)


def save(figure, path: Path) -> None:
    """Write a figure as PNG and close it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
