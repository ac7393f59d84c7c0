"""ContrastModel: BasicSR's SRModel with what one iteration can do better. docs/training.md has its keys."""

import contextlib
import math
from collections import OrderedDict
from pathlib import Path

import torch
from basicsr.models.lr_scheduler import MultiStepRestartLR
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from contrast_arch.archs.network import CONFIG_TENSOR, SRNetwork
from contrast_arch.errors import InputError, TrainingStopped
from contrast_arch.inference.tiler import Tiler
from contrast_arch.models import checkpoints
from contrast_arch.models.optimizers import fit, multi_step_rates, optimizer_class
from contrast_arch.options.schema import AMP, CUDA_GRAPH_MODES
from contrast_arch.options.validation import settings_of
from contrast_arch.weights.files import read, weights_under
from contrast_arch.weights.sources import shipped_file

# Entry of the options by which contrast-train says to a model that it is the trainer.
TRAINER = "trainer"


class MultiStepSchedule(MultiStepRestartLR):
    """BasicSR's MultiStepRestartLR, in which a warm-up leaves no trace; its states are BasicSR's."""

    get_lr = multi_step_rates


class ContrastModel(SRModel):
    """SRModel with mixed precision, compilation, accumulation of gradients, clipping, a guard against NaN and infinity,
    files written whole, and tiles in validation; under every trainer that runs SRModel.

    InputError is raised for an option that cannot be used; TrainingStopped where training or validation cannot go on.
    """

    def __init__(self, opt: dict):
        self.settings = settings_of(opt)
        if opt["is_train"] and opt["num_gpu"] > 1 and not opt["dist"]:
            text = "ContrastModel trains on several GPUs in a process each, under torchrun; or write num_gpu: 1"
            raise InputError(f"num_gpu: {opt['num_gpu']}: {text}")
        super().__init__(opt)
        self.tiler, tile = None, self.settings.val.tile
        if tile is not None:
            window_size = getattr(self.get_bare_model(self.net_g), "window_size", 1)
            progress = opt["rank"] == 0 and not opt["val"].get("pbar", False)
            self.tiler = Tiler(tile.size, tile.overlap, window_size=window_size, progress=progress)

    def model_to_device(self, net):
        if self.settings.train.channels_last:
            net = net.to(memory_format=torch.channels_last)
            for module in net.modules():
                if isinstance(module, nn.Conv2d) and module.weight.shape[1] == 1:
                    # PyTorch would take cuDNN's grouped kernels on a GPU, see contrast_arch.layers.tokens.depthwise.
                    module.weight.data = module.weight.data.clone(memory_format=torch.contiguous_format)
        wrapped = super().model_to_device(net)
        # Buffers of our networks are constants; others may have running statistics.
        if isinstance(wrapped, DistributedDataParallel):
            wrapped.broadcast_buffers = not isinstance(net, SRNetwork)
        return wrapped

    def init_training_settings(self):
        super().init_training_settings()
        settings = self.settings.train
        # The network itself stays as it is, for images of all sizes in validation and for the names in checkpoints.
        self.trained_net = self.net_g
        if settings.compile:
            # Sizes as symbols, for batches of a second size, end in an error of PyTorch's own (its issue 185510).
            mode = None if settings.compile is True else settings.compile
            self.trained_net = torch.compile(self.net_g, mode=mode, dynamic=False)
        self.amp = getattr(torch, AMP[settings.amp]) if settings.amp else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        # Of iterations; ``done`` is the last one that was trained.
        self.nonfinite, self.done = {"total": 0, "in_a_row": 0}, 0
        if TRAINER not in self.opt:
            get_root_logger().warning(
                "ContrastModel runs under a trainer that is not contrast-train: a resumed run starts its epoch over "
                "and takes other crops; signals and max_hours do not save; unreadable images are not named; "
                "accumulate splits each batch. contrast-train has all of it, with the same option file"
            )

    def get_optimizer(self, optim_type, params, lr, **kwargs):
        try:
            return optimizer_class(optim_type)(params, lr=lr, **kwargs)
        except (TypeError, ValueError) as error:
            raise InputError(f"train: optim_g: {optim_type}: {error}") from error

    def setup_schedulers(self):
        super().setup_schedulers()
        for schedule in self.schedulers:
            if type(schedule) is MultiStepRestartLR:
                schedule.__class__ = MultiStepSchedule

    def feed_data(self, data):
        super().feed_data(data)
        self.lq_path = data.get("lq_path", [""])[0]
        if self.settings.train.channels_last:
            self.lq = self.lq.contiguous(memory_format=torch.channels_last)

    def optimize_parameters(self, current_iter):
        buffers = [(b, b.clone()) for b in self.net_g.buffers() if b.is_floating_point()]
        self.optimizer_g.zero_grad()
        losses = self._backward()
        self.scaler.unscale_(self.optimizer_g)
        if self._finite(losses):
            self.scaler.step(self.optimizer_g)
            self.scaler.update()
            if self.ema_decay > 0:
                self.model_ema(decay=self.ema_decay)
            self.nonfinite["in_a_row"] = 0
        else:
            self.optimizer_g.zero_grad()
            self.scaler.update()
            for buffer, before in buffers:
                buffer.copy_(before)
            self._count_nonfinite(current_iter)
        self.done = current_iter

    def _backward(self):
        """Compute the gradients of an iteration; return its losses: name -> a number, a mean over the micro-batches."""
        losses = OrderedDict()
        if self.settings.train.compile in CUDA_GRAPH_MODES:
            # A graph writes outputs and gradients where the one before did: all of an iteration is read in it.
            torch.compiler.cudagraph_mark_step_begin()
        lqs, gts = (images.chunk(self.settings.train.accumulate) for images in (self.lq, self.gt))
        for number, (lq, gt) in enumerate(zip(lqs, gts, strict=True), start=1):
            # Gradients travel between the processes once an iteration.
            alone = self.opt["dist"] and number < len(lqs)
            with self.net_g.no_sync() if alone else contextlib.nullcontext():
                with torch.autocast(self.device.type, self.amp, enabled=self.amp is not None):
                    output = self.trained_net(lq)
                found = self._losses(output.float(), gt, len(gt) / len(self.gt))
                self.scaler.scale(sum(found.values())).backward()
            for name, value in found.items():
                losses[name] = losses.get(name, 0) + value.detach()
        return losses

    def _losses(self, output, gt, share):
        """Losses of a micro-batch, weighted by its share of the batch so that they add up to those of the batch."""
        found = OrderedDict()
        if self.cri_pix:
            summed = getattr(self.cri_pix, "reduction", "mean") == "sum"
            # The processes' gradients are averaged, whatever the loss does.
            weight = self.opt["world_size"] if summed else share
            found["l_pix"] = weight * self.cri_pix(output, gt)
        if self.cri_perceptual:
            for name, loss in zip(("l_percep", "l_style"), self.cri_perceptual(output, gt), strict=True):
                if loss is not None:
                    found[name] = loss * share
        return found

    def _finite(self, losses):
        """Clip the gradients and fill the log; True if all losses and gradients, of all processes, are finite."""
        limit = self.settings.train.clip_grad_norm
        # Of an empty tensor, as some networks have, there is no largest value.
        weights = [weight for weight in self.net_g.parameters() if weight.numel()]
        # Without a limit the largest gradient says as much as the norm, and cannot overflow.
        kind = 2 if limit else float("inf")
        norm = nn.utils.clip_grad_norm_(weights, limit or float("inf"), norm_type=kind)
        values = torch.stack([*(value.mean() for value in losses.values()), norm.to(self.device)]).float()
        if self.opt["dist"]:
            # NaN and infinity of one process stay in the sum.
            torch.distributed.all_reduce(values)
        values = (values / self.opt["world_size"]).tolist()
        self.log_dict = OrderedDict(zip([*losses, *["grad_norm"] * bool(limit)], values, strict=False))
        return all(map(math.isfinite, values))

    def _count_nonfinite(self, current_iter):
        self.nonfinite = {key: count + 1 for key, count in self.nonfinite.items()}
        in_a_row, total = self.nonfinite["in_a_row"], self.nonfinite["total"]
        get_root_logger().warning(
            f"Iteration {current_iter}: the loss or a gradient is not finite; no step was taken ({in_a_row} in a row, "
            f"{total} in all). {', '.join(f'{name}: {value:.4e}' for name, value in self.log_dict.items())}"
        )
        if in_a_row >= self.settings.train.max_nonfinite:
            raise TrainingStopped(
                f"the loss or a gradient was not finite in {in_a_row} iterations in a row, the last of them "
                f"{current_iter}; {checkpoints.last_good(self.opt)}. Lower the learning rate, clip gradients (train: "
                "clip_grad_norm), take amp: bf16 for fp16, or look at the images of these iterations"
            )

    def test(self):
        net = self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)
        net.eval()
        with torch.no_grad():
            self.output = net(self.lq) if self.tiler is None else self.tiler(net, self.lq)
        if self.is_train:
            self.net_g.train()
        if not torch.isfinite(self.output).all():
            when = f" (after iteration {self.done})" if self.is_train else ""
            raise TrainingStopped(
                f"validation: {self.lq_path}: the network's result{when} holds NaN or infinity; no picture was saved. "
                "Take an earlier checkpoint (path: pretrain_network_g for a test, path: resume_state for training)"
            )

    def save(self, epoch, current_iter):
        try:
            super().save(epoch, current_iter)
        except OSError as error:
            if TRAINER in self.opt:
                raise
            if current_iter == -1:
                raise TrainingStopped(f"{error}; {checkpoints.last_good(self.opt)}") from error
            get_root_logger().error(f"Nothing was saved at iteration {current_iter}: {error}. Training goes on.")

    @master_only
    def save_network(self, net, net_label, current_iter, param_key="params"):
        checkpoints.save_network(self, self.settings, self.done, net, net_label, current_iter, param_key)

    @master_only
    def save_training_state(self, epoch, current_iter):
        if current_iter != -1:
            state = {"epoch": epoch, "iter": current_iter, **checkpoints.model_state(self)}
            checkpoints.save_state(self.opt, self.settings, state)

    def own_state(self) -> dict:
        """Return the entries of a training state that SRModel does not have."""
        return {"scaler": self.scaler.state_dict(), "nonfinite": dict(self.nonfinite)}

    def load_network(self, net, load_path, strict=True, param_key="params"):
        net, load_path = self.get_bare_model(net), shipped_file(load_path)
        # A checkpoint of this run has its weights under this key, whatever the run began with.
        own = self.is_train and Path(load_path).parent == Path(self.opt["path"]["models"])
        param_keys = ["params" if own else param_key]
        if net is getattr(self, "net_g_ema", None):
            # SRModel asks for averaged weights, which few files have; then they begin with those of the network.
            param_keys = [param_key, "params" if own else self.opt["path"].get("param_key_g", "params")]
        weights = weights_under(load_path, read(load_path), *param_keys)
        weights.pop(CONFIG_TENSOR, None)
        get_root_logger().info(f"Loading {type(net).__name__} from {load_path}, param key: {param_keys[0]}.")
        self._print_different_keys_loading(net, weights, strict)
        net.load_state_dict(weights, strict=strict)

    def resume_training(self, resume_state):
        if TRAINER not in self.opt:  # contrast-train does it for all models
            fit(self, resume_state)
        super().resume_training(resume_state)
        if self.amp == torch.float16 and resume_state.get("scaler"):
            self.scaler.load_state_dict(resume_state["scaler"])
        self.nonfinite = dict(resume_state.get("nonfinite", self.nonfinite))
        self.done = resume_state["iter"]
