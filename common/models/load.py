"""Loading the network of a finished run, with its weights.

It has a module of its own because opening a run (common/run/finished.py) needs only files, and this needs networks.
"""

import safetensors
import safetensors.torch
from torch import nn

from common.compute import Compute, place
from common.failures import Refused
from common.models.zoo import build_model
from common.run.finished import TrainedRun

KEYS_SHOWN = 3


def load_model(trained: TrainedRun, compute: Compute, word: str = "run") -> nn.Module:
    """Return the network with its chosen weights, on the device and in evaluation mode; Refused if they do not fit.

    word: the setting that named the run, for the message.
    """
    settings = trained.settings.model
    model = build_model(settings, trained.data, fresh=False)
    try:
        weights = safetensors.torch.load_file(trained.run.best)
    except safetensors.SafetensorError as error:
        raise Refused([f"{word}: {trained.run.best} is not a whole safetensors file: {error}"]) from None

    # load_state_dict would complain about every weight; a few names are enough.
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    wrong = sorted(name for name in {*expected, *shapes} if expected.get(name) != shapes.get(name))
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
