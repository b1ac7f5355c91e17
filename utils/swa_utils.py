"""Average a model's weights over its last epochs."""

from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

from models.core import CRNNWordModel
from utils.common.processes import broadcast_buffers


class WeightAverage(AveragedModel):
    """The mean of a model's weights at the ends of its epochs, from epoch `first` on; before it, the latest weights.

    The running statistics of batch norm are averaged as well. `update_bn` would recompute them by a pass over all clips
    each epoch. Their mean costs nothing, draws no random numbers and depends on the epochs' ends alone, so a resumed
    run and a run in several processes end at the same bits. The model is given as it is before the first epoch.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.
    """

    def __init__(self, model: CRNNWordModel, first: int):
        # the default, but explicit: torch's multi-tensor average cannot divide integer buffers on CUDA
        super().__init__(model, model.device, avg_fn=get_swa_avg_fn(), use_buffers=True)
        self.first = first

    def add(self, model: CRNNWordModel, epoch: int) -> None:
        """Include the weights at the end of an epoch; every rank calls it."""
        broadcast_buffers(model)
        self.n_averaged.fill_(max(0, epoch - self.first))  # 0 replaces the average
        self.update_parameters(model)
