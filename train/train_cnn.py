"""Train a convolutional network from scratch.

python train/train_cnn.py                                   # digits, seconds on a laptop
python train/train_cnn.py data=mnist recipe=cnn_mnist_12    # first: python jobs/prepare.py data=mnist
python train/train_cnn.py data=cifar10 seed=3               # the reference's 100 epochs
torchrun --nproc-per-node 2 train/train_cnn.py data=cifar10

Test accuracy, selected on validation, mean and standard deviation of seeds 0 to 2, on two CPU cores:
digits 98.98 +- 0.32 % in 20 s; MNIST with cnn_mnist_12 99.59 +- 0.07 % in half an hour on one of the cores.
"""

import sys
from typing import Any

from common.cli.attempt import Attempt, run_entry
from common.settings.entries import TrainCNN


def train(attempt: Attempt) -> dict[str, Any]:
    # Torch is loaded only here, so that a run that is refused or finished answers without it.
    from common.compute import place, seed_model, start
    from common.data.packed import Batch, open_data
    from common.models.zoo import build_model, measure_speed, model_facts
    from common.training.fit import fit
    from common.training.loop import Loss
    from common.training.losses import label_loss
    from common.training.predict import report

    settings = attempt.settings
    assert isinstance(settings, TrainCNN)
    recipe = settings.recipe
    with start(settings.compute) as compute:
        data = open_data(attempt.data_folder, settings, compute)

        # Data are opened first, because the first layer of fast_cnn is made from training images.
        seed_model(settings.seed, "weights")
        model = build_model(settings.model, data.facts(), train=data.train, checkpointing=recipe.checkpointing)
        model = place(model, compute)

        def objective(model: Any, batch: Batch) -> Loss:
            logits = model(batch.images)
            loss = label_loss(logits, batch.targets, recipe.label_smoothing, multi_label=data.train.multi_label)
            return Loss(loss, logits)

        outcome = fit(model, objective, data.train, data.val, attempt, compute)

        # The weights are selected by now: only `report` reads the test images.
        return {
            "model": model_facts(settings.model, model, data.train.shape),
            "data": data.facts(),
            **outcome,
            **report(model, data, attempt),
            "speed": measure_speed(model, data.train.shape, compute, recipe.precision),
        }


def main(argv: list[str] | None = None) -> int:
    return run_entry(TrainCNN, train, argv, script="train/train_cnn.py", about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
