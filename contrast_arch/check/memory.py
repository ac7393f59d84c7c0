"""Memory of a training iteration, estimated without taking it."""

import contextlib
import os
from collections.abc import Iterator

import torch

from contrast_arch import ops
from contrast_arch.check.context import Run
from contrast_arch.memory import device_memory
from contrast_arch.options.problems import Problem
from contrast_arch.options.schema import AMP

# Of weights: gradients, and what optimizers keep of each; Adam where nothing else is known.
STATES = {"SGD": 1, "Rprop": 2, "Adagrad": 1, "Adadelta": 2, "RMSprop": 2, "NAdam": 2, "RAdam": 2, "Adafactor": 0.1}
# Tensors as large as the largest that is kept, which live at once at the peak of backward.
TEMPORARIES = 4
# Most numbers that a pass takes for each LQ pixel and output channel of a weight; the networks' defaults take 1 to 1.6.
MOST_NUMBERS = 5


def most_bytes(network: torch.nn.Module, batch: int, patch: int) -> int:
    """Upper bound of :func:`step_bytes`, in no time and without a test of the backends."""
    side = -(-patch // network.window_size) * network.window_size
    channels = sum(len(weight) for weight in network.parameters() if weight.ndim > 1)
    return 4 * MOST_NUMBERS * channels * batch * side**2


def step_bytes(
    network: torch.nn.Module, batch: int, patch: int, device: torch.device, amp: torch.dtype | None = None
) -> int:
    """Bytes of one forward and backward pass, of tensors without memory.

    What autograd keeps for backward is counted, each storage once, and a few temporary tensors are added. Against the
    peaks measured in benchmarks/results/cpu.md (X4, 64x64 LQ, batch 1 and 8) it is within -4 % and +3 %, but for
    ContrastV2 (2 to 8 % too little) and HATLight at batch 8 (20 % too little). How it is on a GPU was not measured.

    Args:
        network: on the meta device, in training mode.
        batch: images.
        patch: side of the LQ images.
        device: on which it is to run.
        amp: dtype of autocast, None for none.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Outside, since backends are tested on real tensors before their first use.
    ops.choose_all(device)
    narrow = torch.autocast(device.type, amp) if amp is not None else contextlib.nullcontext()
    with FakeTensorMode(), torch.enable_grad(), narrow:
        state = {
            name: torch.empty(t.shape, dtype=t.dtype, device=device, requires_grad=t.requires_grad)
            for name, t in (*network.named_parameters(), *network.named_buffers())
        }
        weights = {t.untyped_storage()._cdata for t in state.values()}

        def kept(module, prefix, *shape):
            """Bytes of each storage but weights that autograd keeps of a pass through a part of the network."""
            own = {key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}
            found = {}

            def keep(tensor):
                storage = tensor.untyped_storage()
                # With the tensor, so that no other comes to have its number.
                found[storage._cdata] = tensor, storage.nbytes()
                return tensor

            x = torch.empty(*shape, device=device, requires_grad=bool(prefix))
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                out = torch.func.functional_call(module, own, (x,))
                if not prefix:
                    torch.nn.functional.mse_loss(out.float(), torch.empty_like(out, dtype=torch.float32))
            return [size for storage, (_, size) in found.items() if storage not in weights]

        sizes, again = kept(network, "", batch, network.in_chans, patch, patch), [0]
        name = "layers.0.residual_group"
        group = network.get_submodule(name)
        for part in ("blocks.0", "overlap_attn") if group.use_checkpoint else ():
            # The largest part is computed again in backward, and kept until its gradients are there.
            side = -(-patch // network.window_size) * network.window_size
            if group.overlap_attn is not None or part == "blocks.0":
                channels = len(state["conv_first.weight"])
                again.append(sum(kept(group.get_submodule(part), f"{name}.{part}.", batch, side, side, channels)))
    return sum(sizes) + max(again) + TEMPORARIES * max(sizes)


def memory_problems(run: Run) -> Iterator[Problem]:
    """Hold the memory of a training iteration against that of its device."""
    network, dataset = run.network, run.train_data
    gt_size, batch = dataset["gt_size"], dataset["batch_size_per_gpu"]
    if network is None or gt_size is None or batch is None or gt_size < network.upscale:
        return
    device = run.context.device if run.opt["num_gpu"] else torch.device("cpu")
    # On a GPU each process has its own.
    together = int(os.environ.get("LOCAL_WORLD_SIZE", run.context.world_size)) if device.type == "cpu" else 1
    amp, patch = run.train["amp"] if run.is_contrast_model else None, gt_size // network.upscale
    states = 2 + STATES.get(run.train.section("optim_g")["type"], 2) + ((run.train["ema_decay"] or 0) > 0)
    needed = int(4 * states * sum(weight.numel() for weight in network.parameters()))
    try:
        memory = device_memory(device)
        if memory is None or (needed + most_bytes(network, batch, patch)) * together <= memory.free:
            return
        # Absurd sizes overflow PyTorch's element count; then the weights alone are reported.
        with contextlib.suppress(RuntimeError), ops.quiet_dispatch():
            needed += step_bytes(network.train(), batch, patch, device, getattr(torch, AMP[amp]) if amp else None)
    except Exception:  # an estimate that fails is no finding about the option file
        return
    needed *= together
    text = f"{batch}, gt_size: {gt_size}: an iteration takes about {_gib(needed)}"
    text += f" ({together} processes)" if together > 1 else ""
    mend = "lower batch_size_per_gpu or gt_size, or write use_checkpoint: true in network_g"
    if needed > memory.total:
        yield dataset.error(f"{text}; {device} has {_gib(memory.total)}; {mend}", "batch_size_per_gpu")
    elif needed > memory.free:
        yield dataset.warning(f"{text}; of {device} {_gib(memory.free)} are free now; {mend}", "batch_size_per_gpu")


def _gib(count):
    return f"{count / 2**30:.1f} GiB"
