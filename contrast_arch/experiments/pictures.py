"""Pictures that validations saved (``val: save_img: true``), side by side: LQ, bicubic, each network, GT."""

from pathlib import Path

from contrast_arch import images
from contrast_arch.experiments.basicsr_logs import section
from contrast_arch.experiments.records import METRICS, Group, Run, datasets

# Of each validation set, the first ones by name.
COUNT = 5


def validation_pairs(run: Run, dataset: str) -> dict[str, tuple[Path, Path]]:
    """Stem of the LQ image -> (LQ, GT) of a validation set, by name; empty without plain folders on this machine."""
    for options in section(run.options, "datasets").values():
        gt, lq = (Path(str(options.get(key))) for key in ("dataroot_gt", "dataroot_lq"))
        if options.get("name") == dataset and gt.is_dir() and lq.is_dir():
            known, template = {path.stem: path for path in lq.iterdir()}, options.get("filename_tmpl", "{}")
            names = {template.format(path.stem): path for path in sorted(gt.iterdir())}
            return {name: (known[name], path) for name, path in names.items() if name in known}
    return {}


def slides(groups: list[Group]) -> tuple[list[dict], dict[str, bytes], list[str]]:
    """Pictures that validations saved, of the first run of each network at its latest.

    Returns:
        Slides {"label": validation set and name, "layers": (label, text, file name) of each version, LQ first and GT
        last}, their files (name -> PNG), and notes.
    """
    found, files, notes, runs = [], {}, [], [group.runs[0] for group in groups]
    saved = any((run.folder / "visualization").is_dir() for run in runs)
    for dataset in datasets(groups) if saved else ():
        run, pairs = next(((run, own) for run in runs if (own := validation_pairs(run, dataset))), (None, {}))
        if not pairs:
            notes.append(f"no pictures of {dataset}: its dataroot_gt and dataroot_lq are no folders here")
        for name, pair in list(pairs.items())[:COUNT]:
            try:
                import cv2

                versions = _versions(groups, run, dataset, name, *pair)
            except ImportError as error:
                return [], {}, [f"no pictures: reading them needs {error.name}, which is not installed"]
            except images.Unreadable as error:
                notes.append(f"no picture of {name} ({dataset}): one of its files cannot be used: {error}")
                continue
            layers = []
            for label, text, image in versions:
                layers.append((label, text, f"picture_{len(found)}_{len(layers)}.png"))
                files[layers[-1][2]] = cv2.imencode(".png", image)[1].tobytes()
            found += [{"label": f"{dataset}: {name}", "layers": layers}] if layers else []
    return found, files, notes


def _versions(groups, run, dataset, name, lq, gt):
    """(label, metrics in words, image) of every version; empty if no network has saved any."""
    networks = []
    for label, (first, *_) in groups:
        paths = (first.folder / "visualization" / name).glob("*.png")
        saved = {int(number): path for path in paths if (number := path.stem[len(name) + 1 :]).isdecimal()}
        if saved:
            # BasicSR counts on after the last iteration and validates there once more.
            iteration = min(max(saved), first.iterations) if first.finished else max(saved)
            values = first.per_image.get(dataset, {}).get(iteration, {}).get(name, {})
            text = f"{_in_words(values)} after {first.images(iteration):,} images".strip()
            networks.append((label, text, images.read(saved[max(saved)].read_bytes())))
    if not networks:
        return []
    from basicsr.metrics import calculate_metric

    from contrast_arch.prepare.images import bicubic

    lq = images.read(lq.read_bytes())
    enlarged = bicubic(lq, run.options["scale"])
    # As BasicSR's PairedImageDataset cuts it.
    gt = images.read(gt.read_bytes())[: enlarged.shape[0], : enlarged.shape[1]]
    if gt.shape != enlarged.shape:
        raise images.Unreadable(f"the GT image has the shape {gt.shape}, expected {enlarged.shape}")
    metrics = section(section(run.options, "val"), "metrics")
    known = {metric: dict(metrics[metric]) for metric in METRICS if metric in metrics}
    values = {metric: calculate_metric({"img": enlarged, "img2": gt}, how) for metric, how in known.items()}
    return [("LQ", "", lq), ("bicubic", _in_words(values), enlarged), *networks, ("GT", "", gt)]


def _in_words(values):
    known = {metric: values[metric] for metric in METRICS if metric in values}
    return ", ".join(f"{metric.upper()} {METRICS[metric][1].format(value)}" for metric, value in known.items())
