"""ContrastModel: BasicSR's SRModel with what one iteration can do better. docs/training.md has its keys."""

import contextlib
from collections import OrderedDict
from pathlib import Path

import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only

from contrast_arch.archs.network import CONFIG_TENSOR
from contrast_arch.errors import InputError, TrainingStopped
from contrast_arch.inference.tiler import Tiler
from contrast_arch.models import checkpoints
from contrast_arch.models.optimizers import optimizer_class
from contrast_arch.models.resuming import best_results, data_of, fit
from contrast_arch.models.schedules import without_trace
from contrast_arch.models.wrapping import channels_last_network, compiled_network, distributed_network
from contrast_arch.options.schema import AMP, settings_of
from contrast_arch.weights.files import read, weights_under
from contrast_arch.weights.sources import shipped_file

# Entry of the options by which contrast-train says to a model that it is the trainer.
TRAINER = "trainer"


class ContrastModel(SRModel):
    """SRModel with mixed precision, compilation, accumulation of gradients, clipping, a guard against NaN and infinity,
    files written whole, and tiles in validation.

    It works in full under every trainer that runs SRModel. What lies between iterations (signals, the place in the
    epoch, the sharing of validation) is the trainer's; contrast-train has it for all models.

    Args:
        opt: options as BasicSR's parser gives them.

    Raises:
        InputError: an option that cannot be used.
        TrainingStopped: by the methods that train and validate, where they cannot go on.
    """

    def __init__(self, opt: dict):
        self.settings = settings_of(opt)
        if opt["is_train"] and opt["num_gpu"] > 1 and not opt["dist"]:
            raise InputError(
                f"num_gpu: {opt['num_gpu']}: ContrastModel trains on several GPUs with a process for each: torchrun "
                f"--nproc_per_node={opt['num_gpu']} -m contrast_arch.train -opt FILE --launcher pytorch; or give "
                "num_gpu: 1"
            )
        super().__init__(opt)
        self.tiler = self._tiler()

    def _tiler(self):
        tile = self.settings.val.tile
        if tile is None:
            return None
        window_size = getattr(self.get_bare_model(self.net_g), "window_size", 1)
        progress = self.opt["rank"] == 0 and not self.opt["val"].get("pbar", False)
        try:
            return Tiler(tile.size, tile.overlap, window_size=window_size, progress=progress)
        except ValueError as error:
            raise InputError(f"val: tile: {error}") from error

    def model_to_device(self, net):
        net = net.to(self.device)
        if self.settings.train.channels_last:
            net = channels_last_network(net)
        if not (self.opt["dist"] and self.is_train):
            return net
        return distributed_network(net, self.device, self.opt.get("find_unused_parameters", False))

    def init_training_settings(self):
        super().init_training_settings()
        settings = self.settings.train
        # The network itself stays as it is, for images of all sizes in validation and for the names in checkpoints.
        self.trained_net = compiled_network(self.net_g, settings.compile) if settings.compile else self.net_g
        self.amp = getattr(torch, AMP[settings.amp]) if settings.amp else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        self.accumulate = settings.accumulate
        self.nonfinite = {"total": 0, "in_a_row": 0}
        # The last iteration that was trained.
        self.done = 0
        if TRAINER not in self.opt:
            split = "; accumulate splits each batch instead of adding up several" if self.accumulate > 1 else ""
            get_root_logger().warning(
                "ContrastModel runs under a trainer that is not contrast-train: a resumed run starts its epoch over "
                "and takes other crops; SIGTERM, Ctrl-C, SIGUSR1 and max_hours do not save; an unreadable image ends "
                f"the run without its name{split}. contrast-train has all of it, with the same option file"
            )

    def get_optimizer(self, optim_type, params, lr, **kwargs):
        try:
            return optimizer_class(optim_type)(params, lr=lr, **kwargs)
        except (TypeError, ValueError) as error:
            raise InputError(f"train: optim_g: {optim_type}: {error}") from error

    def setup_schedulers(self):
        super().setup_schedulers()
        self.schedulers = [without_trace(schedule) for schedule in self.schedulers]

    def feed_data(self, data):
        super().feed_data(data)
        self.lq_path = data.get("lq_path", [""])[0]
        if self.settings.train.channels_last:
            self.lq = self.lq.contiguous(memory_format=torch.channels_last)

    def optimize_parameters(self, current_iter):
        guarded = self.settings.train.max_nonfinite > 0
        buffers = [(b, b.clone()) for b in self.net_g.buffers() if b.is_floating_point()] if guarded else []
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
        micro_batches = list(zip(self.lq.chunk(self.accumulate), self.gt.chunk(self.accumulate), strict=True))
        for number, (lq, gt) in enumerate(micro_batches, start=1):
            # Gradients travel between the processes once an iteration.
            alone = self.opt["dist"] and number < len(micro_batches)
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
        norm = torch.nn.utils.clip_grad_norm_(
            # Of an empty tensor, as some networks have, there is no largest value.
            [weight for weight in self.net_g.parameters() if weight.numel()],
            limit or float("inf"),
            # Without a limit the largest gradient says as much, and cannot overflow.
            norm_type=2 if limit else float("inf"),
        )
        values = torch.stack([*(value.mean() for value in losses.values()), norm.to(self.device)]).float()
        wrong = (~torch.isfinite(values)).any().float()
        found = torch.cat([values, wrong[None]])
        if self.opt["dist"]:
            torch.distributed.all_reduce(found)
        *values, norm, wrong = found.tolist()
        count = self.opt["world_size"]
        self.log_dict = OrderedDict((name, value / count) for name, value in zip(losses, values, strict=True))
        if limit:
            self.log_dict["grad_norm"] = norm / count
        return wrong == 0 or not self.settings.train.max_nonfinite

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
        if self.settings.train.max_nonfinite:
            checkpoints.refuse_not_finite(self.get_bare_model(self.net_g), self.opt)
        try:
            super().save(epoch, current_iter)
        except checkpoints.SaveError as error:
            if current_iter == -1:
                raise TrainingStopped(f"{error}; {checkpoints.last_good(self.opt)}") from error
            get_root_logger().error(f"Nothing was saved at iteration {current_iter}: {error}. Training goes on.")

    @master_only
    def save_network(self, net, net_label, current_iter, param_key="params"):
        checkpoints.save_network(self, net, net_label, current_iter, param_key, self.done)

    @master_only
    def save_training_state(self, epoch, current_iter):
        if current_iter == -1:
            return
        state = {"epoch": epoch, "iter": current_iter, "data": data_of(self.opt), **checkpoints.model_state(self)}
        path, whole = checkpoints.state_file(self.opt, current_iter), self.settings.logger.atomic_save
        checkpoints.write(path, lambda target: torch.save(state, target), whole)
        checkpoints.remove_older(self.opt, current_iter, state["best_metric_results"])

    def own_state(self) -> dict:
        """Return what a training state holds of this model beyond SRModel's."""
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
        for message in fit(self, resume_state):
            get_root_logger().warning(message)
        super().resume_training(resume_state)
        if self.amp == torch.float16 and resume_state.get("scaler"):
            self.scaler.load_state_dict(resume_state["scaler"])
        self.nonfinite = dict(resume_state.get("nonfinite", self.nonfinite))
        self.best_metric_results = best_results(self.opt, resume_state)
        self.done = resume_state["iter"]
