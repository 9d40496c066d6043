"""Train a convolutional network from scratch.

python train/train_cnn.py                                   # digits, seconds on a laptop
python train/train_cnn.py data=mnist recipe=cnn_mnist_12    # python jobs/prepare.py data=mnist comes before
python train/train_cnn.py data=cifar10 seed=3               # the reference's 100 epochs
torchrun --nproc-per-node 2 train/train_cnn.py data=cifar10

Test accuracy, selected on validation, mean and standard deviation of seeds 0 to 2, on two CPU cores:
digits 98.98 +- 0.32 % in 20 s; MNIST with cnn_mnist_12 99.59 +- 0.07 % in half an hour on one of the cores.
"""

import sys
from typing import Any

from common.attempt import Attempt, run_entry
from common.config import TrainCNN


def train(attempt: Attempt) -> dict[str, Any]:
    # Torch is loaded behind the door: a refused or a finished run has answered by now.
    import torch.nn.functional as F

    from common.compute import place, seed_model, start
    from common.data.packed import Batch, open_data
    from common.fit import fit
    from common.loop import Loss, report
    from common.models.adaptive_cnn import AdaptiveCNN, parameter_count

    settings = attempt.settings
    with start(settings.compute) as compute:
        data = open_data(attempt.data_folder, settings, compute)

        seed_model(settings.seed, "weights")
        model = place(AdaptiveCNN(data.packed.shape, len(data.packed.classes), settings.model.dropout), compute)

        def objective(model: Any, batch: Batch) -> Loss:
            logits = model(batch.images)
            return Loss(F.cross_entropy(logits, batch.targets, label_smoothing=settings.recipe.label_smoothing), logits)

        chosen = fit(model, objective, data.train, data.val, attempt, compute)

        return {
            "model": {"name": settings.model.name, "parameters": parameter_count(model)},
            "data": data.facts(),
            **chosen,
            "val": report(model, data.val, "val", attempt) if data.val else None,
            "test": report(model, data.open_test(), "test", attempt),
        }


def main(argv: list[str] | None = None) -> int:
    return run_entry(TrainCNN, train, argv, script="train/train_cnn.py", about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
