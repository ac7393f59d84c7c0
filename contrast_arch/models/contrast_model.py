"""ContrastModel: BasicSR's SRModel with what long runs on shared machines need. docs/training.md has its keys."""

import contextlib
from collections import OrderedDict
from pathlib import Path

import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only

from contrast_arch.archs.network import CONFIG_TENSOR
from contrast_arch.errors import InputError, TrainingStopped
from contrast_arch.models import checkpoints, processes
from contrast_arch.models.checkpoints import on_the_cpu, save_safetensors
from contrast_arch.models.data import training_loader, with_accumulation
from contrast_arch.models.events import LenientWriter
from contrast_arch.models.optimizers import optimizer_class
from contrast_arch.models.randomness import random_states, set_random_states
from contrast_arch.models.resuming import data_of, fit_state
from contrast_arch.models.schedules import without_trace
from contrast_arch.models.settings import AMP, check_settings, setting
from contrast_arch.models.signals import NOTHING, SAVE, STOP, Requests
from contrast_arch.models.validation import SharedValidation
from contrast_arch.models.wrapping import channels_last_network, compiled_network, distributed_network
from contrast_arch.weights.files import ABOUT, SAFETENSORS, description
from contrast_arch.weights.shapes import config_of
from contrast_arch.weights.sources import shipped_file


class ContrastModel(SharedValidation):
    """SRModel with mixed precision, compilation, accumulation of gradients, a guard against what is not finite,
    checkpoints written whole, exact resuming, signals, several processes on GPUs and CPUs, and tiles.

    A trainer of BasicSR gives it the options and calls its methods, as it does with SRModel. A trainer that does not
    call :meth:`begin` too (``python basicsr/train.py``, those of other projects) has all that happens inside an
    iteration; the log says once what is missing there. What the options may hold besides SRModel's is in
    ``contrast_arch.options.schema.KEYS``.

    Args:
        opt: options as BasicSR's parser gives them.

    Raises:
        InputError: an option that cannot be used.
        TrainingStopped: by the methods that train, where it cannot go on.
    """

    def __init__(self, opt: dict):
        check_settings(opt)
        if opt["is_train"] and opt["num_gpu"] > 1 and not opt["dist"]:
            raise InputError(
                f"num_gpu: {opt['num_gpu']}: ContrastModel trains on several GPUs with a process for each: torchrun "
                f"--nproc_per_node={opt['num_gpu']} -m contrast_arch.train -opt FILE --launcher pytorch; or give "
                "num_gpu: 1"
            )
        self.requests = Requests()
        self.val_loaders, self.tb_logger = [], None
        super().__init__(opt)

    @staticmethod
    def load_state(opt: dict) -> dict | None:
        """The training state that a run with these options goes on from; None where it starts anew.

        Raises:
            InputError: there are states, but none that can be read.
        """
        found = checkpoints.resumed_state(opt) if opt["rank"] == 0 else None
        # What one process finds broken another may see whole.
        path, passed_over = processes.told(found and (found[0], found[2]))
        if path is None:
            return None
        opt["path"]["resume_state"] = str(path)
        state = found[1] if found else checkpoints.read_state(path)
        # The log is not there yet: resume_training says it.
        return state | {"passed_over": passed_over}

    options_of_an_iteration = staticmethod(with_accumulation)
    training_loader = staticmethod(training_loader)
    event_writer = LenientWriter

    def model_to_device(self, net):
        net = net.to(self.device)
        if setting(self.opt, "train", "channels_last"):
            net = channels_last_network(net)
        if not (self.opt["dist"] and self.is_train):
            return net
        return distributed_network(net, self.device, self.opt.get("find_unused_parameters", False))

    def init_training_settings(self):
        super().init_training_settings()
        mode = setting(self.opt, "train", "compile")
        # The network itself stays as it is, for images of all sizes in validation and for the names in checkpoints.
        self.trained_net = compiled_network(self.net_g, mode) if mode else self.net_g
        self.amp = AMP.get(setting(self.opt, "train", "amp"))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp == torch.float16)
        self.clip_grad_norm = setting(self.opt, "train", "clip_grad_norm")
        self.accumulate = setting(self.opt, "train", "accumulate")
        self.max_nonfinite = setting(self.opt, "train", "max_nonfinite")
        self.nonfinite = {"total": 0, "in_a_row": 0}
        # Where the images already seen end, and those of the batch at hand.
        self.seen = self.upcoming = {"epoch": 0, "position": 0}
        self.warmup_iter = -1
        # The last iteration that was trained.
        self.done = 0
        self.problems, self.named_problems = [], set()
        self.saved_at, self.failure, self.random_states = None, None, []
        self.ending = self.begun = False

    def get_optimizer(self, optim_type, params, lr, **kwargs):
        try:
            return optimizer_class(optim_type)(params, lr=lr, **kwargs)
        except (TypeError, ValueError) as error:
            raise InputError(f"train: optim_g: {optim_type}: {error}") from error

    def setup_schedulers(self):
        super().setup_schedulers()
        self.schedulers = [without_trace(schedule) for schedule in self.schedulers]

    def begin(self, val_loaders: list, tb_logger) -> None:
        """What BasicSR's trainer makes besides the model; it is called once before the first iteration.

        Args:
            val_loaders: of the validation sets.
            tb_logger: TensorBoard's writer, or None.
        """
        self.val_loaders, self.tb_logger = val_loaders, tb_logger
        self.begun = True
        if setting(self.opt, "train", "handle_signals"):
            self.requests.listen()
        if self.opt["rank"] == 0:
            checkpoints.remove_unfinished(self.opt)

    def update_learning_rate(self, current_iter, warmup_iter=-1):
        # Put off until the iteration really begins, so that what is saved before it is that of the last one.
        self.warmup_iter = warmup_iter

    def feed_data(self, data):
        super().feed_data(data)
        if setting(self.opt, "train", "channels_last"):
            self.lq = self.lq.contiguous(memory_format=torch.channels_last)
        if "position" in data:
            batch = len(data["position"]) * self.opt["world_size"]
            first = int(data["position"][0]) - self.opt["rank"]
            self.upcoming = {"epoch": int(data["epoch"][0]), "position": first + batch}
            self.problems = [problem for problem in data["problem"] if problem]

    def _say_what_is_missing(self):
        """Under a trainer that has no part in what lies between iterations."""
        self.begun = True
        split = "; accumulate splits each batch instead of adding up several" if self.accumulate > 1 else ""
        get_root_logger().warning(
            "ContrastModel runs under a trainer that is not contrast-train: a resumed run starts its epoch over and "
            "takes other crops; SIGTERM, Ctrl-C and SIGUSR1 do not save; an unreadable image ends the run without its "
            f"name{split}. contrast-train has all of it, with the same option file"
        )

    def optimize_parameters(self, current_iter):
        if not self.begun:
            self._say_what_is_missing()
        self._between_iterations(current_iter - 1)
        super().update_learning_rate(current_iter, self.warmup_iter)
        buffers = [(b, b.clone()) for b in self.net_g.buffers() if b.is_floating_point()] if self.max_nonfinite else []
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
        self.seen = self.upcoming
        self.done = current_iter

    def _backward(self):
        """Gradients of an iteration, and its losses: name -> a number, a mean over the micro-batches."""
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
        """Whether all losses and gradients, of all processes, are finite; clips the gradients and fills the log."""
        norm = torch.nn.utils.clip_grad_norm_(
            # Of an empty tensor, as some networks have, there is no largest value.
            [weight for weight in self.net_g.parameters() if weight.numel()],
            self.clip_grad_norm or float("inf"),
            # Without a limit the largest gradient says as much, and cannot overflow.
            norm_type=2 if self.clip_grad_norm else float("inf"),
        )
        values = torch.stack([*(value.mean() for value in losses.values()), norm.to(self.device)]).float()
        wrong = (~torch.isfinite(values)).any().float()
        *values, norm, wrong = processes.added(torch.cat([values, wrong[None]])).tolist()
        count = self.opt["world_size"]
        self.log_dict = OrderedDict((name, value / count) for name, value in zip(losses, values, strict=True))
        if self.clip_grad_norm:
            self.log_dict["grad_norm"] = norm / count
        return wrong == 0 or not self.max_nonfinite

    def _count_nonfinite(self, current_iter):
        self.nonfinite = {key: count + 1 for key, count in self.nonfinite.items()}
        in_a_row, total = self.nonfinite["in_a_row"], self.nonfinite["total"]
        get_root_logger().warning(
            f"Iteration {current_iter}: the loss or a gradient is not finite; no step was taken ({in_a_row} in a row, "
            f"{total} in all). {', '.join(f'{name}: {value:.4e}' for name, value in self.log_dict.items())}"
        )
        if in_a_row >= self.max_nonfinite:
            raise TrainingStopped(
                f"the loss or a gradient was not finite in {in_a_row} iterations in a row, the last of them "
                f"{current_iter}; {checkpoints.last_good(self.opt)}. Lower the learning rate, clip gradients (train: "
                "clip_grad_norm), take amp: bf16 for fp16, or look at the images of these iterations"
            )

    def _between_iterations(self, done):
        """What was asked for by signals, and images that could not be read, after ``done`` iterations."""
        problem = self._new_problem()
        wanted = processes.highest(STOP if problem else self.requests.wanted)
        if wanted == NOTHING:
            return
        self._save_between(done)
        if wanted != STOP:
            return
        if self.tb_logger:
            self.tb_logger.close()
        if self.saved_at != done:
            raise TrainingStopped(f"iteration {done} could not be saved; {checkpoints.last_good(self.opt)}")
        if problem:
            raise TrainingStopped(
                f"{problem}\nMend the file, leave it out, or give datasets: train: skip_unreadable: true. Saved after "
                f"iteration {done}; --auto_resume goes on from there"
            )
        get_root_logger().info(f"Stopped as asked to, after iteration {done}; --auto_resume goes on from there.")
        raise SystemExit(0)

    def _save_between(self, done):
        """What a signal asked for, unless it is on the disk already."""
        if self.saved_at != done and not self.ending:
            self.save(self.seen["epoch"], done)
        self.requests.done()

    def _new_problem(self):
        """The first unreadable image of the batch at hand where that ends the run; where it does not, it is named."""
        if self.problems and not setting(self.opt, "datasets", "train", "skip_unreadable"):
            return self.problems[0]
        for problem in self.problems:
            if problem not in self.named_problems:
                self.named_problems.add(problem)
                log = get_root_logger()
                # BasicSR keeps the warnings of all processes but the first one to itself.
                tell = log.warning if self.opt["rank"] == 0 else log.error
                tell(f"{problem}; the image after it was taken instead")
        return None

    def broken_off(self, current_iter):
        wanted = processes.highest(self.requests.wanted)
        if wanted == SAVE:
            self._save_between(current_iter)
        return wanted == STOP

    def validation(self, dataloader, current_iter, tb_logger, save_img=False):
        super().validation(dataloader, current_iter, tb_logger, save_img)
        if not self.is_train:
            return
        if self.saved_at == current_iter and not self._validation_due(current_iter):
            # With the metrics that it did not have yet.
            self.save_training_state(self.seen["epoch"], current_iter)
        if self.ending and self.val_loaders[-1:] == [dataloader]:
            self.requests.ignore()

    def _validation_due(self, current_iter):
        """Whether a validation of this iteration's weights is still to come."""
        val = self.opt.get("val")
        if not val or current_iter <= 0 or current_iter % val["val_freq"]:
            return False
        return any(self.validated.get(loader.dataset, (None,))[0] != current_iter for loader in self.val_loaders)

    def save(self, epoch, current_iter):
        self.ending = current_iter == -1
        if not self.ending:
            # What feed_data knows of it too, where the images say their place.
            self.seen = self.seen | {"epoch": epoch}
        if self.ending and not (self.opt.get("val") and self.val_loaders):
            self.requests.ignore()
        if self.max_nonfinite:
            checkpoints.refuse_not_finite(self.get_bare_model(self.net_g).state_dict(), self.opt)
        self.random_states = processes.collected(random_states())
        self.failure = None
        super().save(epoch, current_iter)
        self.failure = processes.told(self.failure)
        if self.failure is None:
            self.saved_at = current_iter
        elif current_iter == -1:
            raise TrainingStopped(f"{self.failure}; {checkpoints.last_good(self.opt)}")
        else:
            get_root_logger().error(f"Nothing was saved at iteration {current_iter}: {self.failure}. Training goes on.")

    @master_only
    def save_network(self, net, net_label, current_iter, param_key="params"):
        nets, keys = (value if isinstance(value, list) else [value] for value in (net, param_key))
        content = {key: on_the_cpu(self.get_bare_model(one)) for key, one in zip(keys, nets, strict=True)}
        path = Path(self.opt["path"]["models"], f"{net_label}_{'latest' if current_iter == -1 else current_iter}.pth")
        about = description(self.opt["network_g"], self.done if current_iter == -1 else current_iter)
        self._write(path, lambda target: torch.save(content | {ABOUT: about}, target))
        if setting(self.opt, "logger", "save_format") == "safetensors":
            # The averaged weights where there are any: what one would use.
            best = about["param_key"] = "params_ema" if "params_ema" in content else keys[0]
            tensors = content[best] | config_of(self.get_bare_model(nets[0]), about["network_g"])
            self._write(path.with_suffix(SAFETENSORS), lambda target: save_safetensors(target, tensors, about))

    @master_only
    def save_training_state(self, epoch, current_iter):
        if current_iter == -1 or self.failure is not None:
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "optimizer_types": [type(optimizer).__name__ for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "position": self.seen["position"],
            "data": data_of(self.opt),
            "scaler": self.scaler.state_dict(),
            "nonfinite": self.nonfinite,
            "random_states": self.random_states,
            "best_metric_results": getattr(self, "best_metric_results", {}),
            "validation_due": self._validation_due(current_iter),
        }
        self._write(checkpoints.state_file(self.opt, current_iter), lambda target: torch.save(state, target))
        keep_last = setting(self.opt, "logger", "keep_last")
        if keep_last is not None and self.failure is None:
            best = [metric["iter"] for results in state["best_metric_results"].values() for metric in results.values()]
            try:
                checkpoints.remove_older(self.opt, current_iter, keep_last, best)
            except OSError as error:
                get_root_logger().warning(f"logger: keep_last: an older state could not be removed: {error}")

    def _write(self, path, save):
        if self.failure is None:
            self.failure = checkpoints.write(path, save, setting(self.opt, "logger", "atomic_save"))

    def load_network(self, net, load_path, strict=True, param_key="params"):
        net, load_path = self.get_bare_model(net), shipped_file(load_path)
        param_keys = [param_key]
        if net is getattr(self, "net_g_ema", None):
            # SRModel asks for averaged weights, which few files have; then they begin with those of the network.
            param_keys.append(self.opt["path"].get("param_key_g", "params"))
        weights = checkpoints.weights_under(load_path, checkpoints.read(load_path), *param_keys)
        weights.pop(CONFIG_TENSOR, None)
        get_root_logger().info(f"Loading {type(net).__name__} from {load_path}, param key: {param_key}.")
        self._print_different_keys_loading(net, weights, strict)
        net.load_state_dict(weights, strict=strict)

    def resume_training(self, resume_state):
        differing = fit_state(self.optimizer_g, self.schedulers[0], self.opt, resume_state)
        super().resume_training(resume_state)
        passed_over = [f"Passed over: {line}" for line in resume_state.get("passed_over", ())]
        for line in (*passed_over, *(message for _, message in differing)):
            get_root_logger().warning(line)
        iteration = resume_state["iter"]
        if self.amp == torch.float16 and resume_state.get("scaler"):
            self.scaler.load_state_dict(resume_state["scaler"])
        self.nonfinite = resume_state.get("nonfinite", self.nonfinite)
        self.best_metric_results = resume_state.get("best_metric_results", {})
        self.seen = {"epoch": resume_state["epoch"], "position": resume_state.get("position", 0)}
        self.random_states = resume_state.get("random_states", [])
        self.saved_at = self.done = iteration
        if self.opt["rank"] < len(self.random_states):
            set_random_states(self.random_states[self.opt["rank"]])
        if resume_state.get("validation_due") and self.opt.get("val"):
            get_root_logger().info(f"Validation of iteration {iteration}, which an earlier run did not get to.")
            for loader in self.val_loaders:
                self.validation(loader, iteration, self.tb_logger, self.opt["val"]["save_img"])
