"""TensorBoard event files beside metrics.jsonl, when log_tensorboard asks for them."""

from pathlib import Path

from utils.common.errors import UserError


def require_tensorboard() -> None:
    """Raise UserError unless TensorBoard is installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"log_tensorboard is true, but TensorBoard cannot be imported ({error}): "
            "pip install tensorboard==2.20.0, or set it to false"
        ) from None


class EpochEvents:
    """A trial's event file, with the content of metrics.jsonl.

    Args:
        trial: the trial directory; event files of its earlier runs, and no others, are replaced.
        history: the results of the epochs so far.
        identity: of the trial; the names of its event files end with it.
    """

    def __init__(self, trial: Path, history: list[dict[str, float]], identity: str):
        from torch.utils.tensorboard import SummaryWriter  # an optional requirement

        suffix = f".{identity}"
        for old in trial.glob(f"events.out.tfevents.*{suffix}"):
            old.unlink()
        self.writer = SummaryWriter(str(trial), filename_suffix=suffix)
        for results in history:
            self.add(results)

    def add(self, results: dict[str, float]) -> None:
        """Write an epoch's results at once."""
        for name, value in results.items():
            if name != "epoch":
                self.writer.add_scalar(name, value, global_step=results["epoch"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
