"""The schedule of the learning rate as the option file has it, whatever a warm-up did to the rate before."""

from basicsr.models.lr_scheduler import MultiStepRestartLR
from torch.optim.lr_scheduler import LRScheduler


def multi_step_rates(schedule: MultiStepRestartLR) -> list[float]:
    """Compute the rates of a schedule at its iteration from the initial ones alone.

    BasicSR's schedule goes on from the rates that the optimizer has. After ``warmup_iter: N`` those are (N - 1) / N of
    the option file's for the rest of the run, without the milestones inside the warm-up.

    Returns:
        A rate for each of the optimizer's groups; without a warm-up BasicSR's own, bit for bit.
    """
    now = schedule.last_epoch
    restart = max((at for at in schedule.restarts if at <= now), default=-1)
    weight = schedule.restart_weights[schedule.restarts.index(restart)] if restart >= 0 else 1
    rates = [group["initial_lr"] * weight for group in schedule.optimizer.param_groups]
    for milestone in sorted(at for at in schedule.milestones if restart < at <= now):
        rates = [rate * schedule.gamma ** schedule.milestones[milestone] for rate in rates]
    return rates


class MultiStepSchedule(MultiStepRestartLR):
    """BasicSR's MultiStepRestartLR, in which a warm-up leaves no trace; its states are BasicSR's."""

    get_lr = multi_step_rates


def without_trace(schedule: LRScheduler) -> LRScheduler:
    """Return a schedule in which a warm-up leaves no trace: a MultiStepSchedule for BasicSR's, any other as it is."""
    if type(schedule) is not MultiStepRestartLR:
        return schedule
    milestones = schedule.milestones.elements()
    arguments = (schedule.gamma, schedule.restarts, schedule.restart_weights)
    return MultiStepSchedule(schedule.optimizer, milestones, *arguments)
