"""The network of a finished run, with its weights."""

import safetensors
import safetensors.torch
from torch import nn

from common.compute import Compute, place
from common.failures import Refused
from common.models.zoo import build_model
from common.run.finished import TrainedRun

KEYS_SHOWN = 3


def load_model(trained: TrainedRun, compute: Compute, word: str = "run") -> nn.Module:
    """The chosen weights on the device, in evaluation mode; Refused where they are of another architecture."""
    settings = trained.settings.model
    model = build_model(settings, trained.data, fresh=False)
    try:
        weights = safetensors.torch.load_file(trained.run.best)
    except safetensors.SafetensorError as error:
        raise Refused([f"{word}: {trained.run.best} is not a whole safetensors file: {error}"]) from None
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        more = f" and {len(wrong) - KEYS_SHOWN} more" if len(wrong) > KEYS_SHOWN else ""
        raise Refused(
            [
                f"{word}: {trained.run.best} is a checkpoint of another architecture than {settings.name}: "
                f"{', '.join(wrong[:KEYS_SHOWN])}{more} do not fit"
            ]
        )
    model.load_state_dict(weights)
    return place(model, compute).eval()
