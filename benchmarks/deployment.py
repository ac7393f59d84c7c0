"""Time of ONNX graphs in onnxruntime against the networks in PyTorch, on the CPU.

    python benchmarks/deployment.py [--networks NAME ...] [--sides 64 128 256] [--threads 1 2] [--rounds 5]

Networks are those of the option files, with random weights. PyTorch and onnxruntime take turns; a time is the median
over the rounds, and the ratio the median of the ratios within a round. Each graph is compared with PyTorch before it is
timed. Writes onnx.json and onnx.md after each row.
"""

import statistics

import onnxruntime
import torch
from common import parser_of

from contrast_arch.experiments.bench.machine import machine
from contrast_arch.experiments.bench.measure import interleaved, ratio
from contrast_arch.experiments.bench.networks import shipped_network_g
from contrast_arch.experiments.markdown import save, table
from contrast_arch.inference import onnx
from contrast_arch.weights.network import arguments_of, network_class

NETWORKS = ("ContrastNoPE_ssm_ratio2_light", "Contrast_light", "HATLight_light")


def measure(network, content: bytes, side: int, threads: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of PyTorch and of onnxruntime in each round, after one that is not counted."""
    torch.set_num_threads(threads)
    model, lq = onnx.session(content, threads), torch.rand(1, network.in_chans, side, side)
    given = {"input": lq.numpy()}
    with torch.inference_mode():
        calls = {"pytorch": lambda: network(lq), "onnxruntime": lambda: model.run(None, given)}
        return interleaved(calls, rounds, warm_up=1)


def tables(found: dict) -> str:
    """Write the figures in Markdown."""
    here, rows = found["machine"], []
    for row in found["rows"]:
        times = row["seconds"]
        cells = [f"{statistics.median(own):.2f}" for own in times.values()]
        over = f"{ratio(times['onnxruntime'], times['pytorch']):.2f}"
        rows.append([row["network"], str(row["threads"]), "{side}x{side}".format(**row), *cells, over])
    header = f"{here['cpu']}, torch {here['torch']}, onnxruntime {here['onnxruntime']}; {len(times['pytorch'])} rounds."
    lines = table(["network", "threads", "LQ", "PyTorch, s", "onnxruntime, s", "ratio"], rows)
    return "\n".join([header, "", *lines, ""])


def main() -> None:
    parser = parser_of(__doc__, "onnx")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--sides", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    here = machine(max(args.threads)) | {"onnxruntime": onnxruntime.__version__}
    found = {"machine": here, "rows": []}
    for name in args.networks:
        network_g = shipped_network_g(name)
        network = network_class(network_g)(**arguments_of(network_g)).eval()
        content = onnx.build(network).SerializeToString()
        difference = onnx.compare(content, network)
        for threads in args.threads:
            for side in args.sides:
                times = measure(network, content, side, threads, args.rounds)
                row = {"network": name, "threads": threads, "side": side, "seconds": times, "difference": difference}
                found["rows"].append(row)
                save(args.output / args.name, tables(found), found)
    print(tables(found))


if __name__ == "__main__":
    main()
