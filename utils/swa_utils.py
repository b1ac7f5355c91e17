"""The average of a model's weights over its last epochs."""

from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

from models.core import CRNNWordModel
from utils.common.processes import broadcast_buffers


class WeightAverage(AveragedModel):
    """The mean of the weights that a model had at the ends of its epochs, from one on; before it, the last ones.

    The running statistics of batch norm are averaged as well. `update_bn` would take them anew, by a pass over all
    clips each epoch; those of weights near each other are near, too, and their mean costs nothing, needs no draws and
    is a function of the epochs' ends: a resumed run, or several processes, end at the same bits.

    Args:
        model: as it is before the first epoch, on its device.
        first: the epoch whose weights count first.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.
    """

    def __init__(self, model: CRNNWordModel, first: int):
        # named, though it is the default: the one for many weights at once cannot divide CUDA's whole numbers
        super().__init__(model, model.device, avg_fn=get_swa_avg_fn(), use_buffers=True)
        self.first = first

    def add(self, model: CRNNWordModel, epoch: int) -> None:
        """Count the weights at the end of an epoch; every rank does."""
        broadcast_buffers(model)
        self.n_averaged.fill_(max(0, epoch - self.first))  # 0: what was there is replaced
        self.update_parameters(model)
