"""Train a student on labels and on a teacher's answers (Hinton et al. 2015; with a DIST token, Touvron et al. 2021).

python train/distill_kd.py teacher=digits-adaptive_cnn-s0-255de7e6c7         # a run's folder, name or hash
python train/distill_kd.py data=cifar10 teacher=HASH distill=kd_reference    # the reference's DeiT
python train/distill_kd.py data=cifar10 model=resnet18_small teacher=HASH distill=kd_cascade recipe=cascade

In a cascade, each run is the teacher of the next. loss = (1 - alpha) labels + alpha teacher.
"""

import sys
from typing import Any

from common.cli.attempt import Attempt, run_entry
from common.settings.distillation import share_of_teacher
from common.settings.entries import DistillKD
from common.settings.models import ViTSettings


def train(attempt: Attempt) -> dict[str, Any]:
    # Torch is loaded only here, so that a run that is refused or finished answers without it.
    import torch

    from common.compute import place, seed_model, start
    from common.data.packed import Batch, open_data
    from common.distillation.figure import draw_distillation
    from common.distillation.gate import agreement_on, judge
    from common.distillation.teacher import open_teacher
    from common.models.zoo import build_model, measure_speed, model_facts
    from common.training.fit import fit
    from common.training.loop import Loss
    from common.training.losses import hard_distillation, label_loss, soft_distillation
    from common.training.predict import report

    settings = attempt.settings
    assert isinstance(settings, DistillKD)
    recipe, distill = settings.recipe, settings.distill
    with start(settings.compute) as compute:
        data = open_data(attempt.data_folder, settings, compute)
        teacher = open_teacher(settings.teacher, data.facts(), attempt.root, compute, answers=True)
        gate = judge(teacher, settings, distill, attempt.root)

        seed_model(settings.seed, "weights")
        model = build_model(settings.model, data.facts(), train=data.train, checkpointing=recipe.checkpointing)
        model = place(model, compute)
        two_heads = isinstance(settings.model, ViTSettings) and settings.model.dist_token
        several = data.train.multi_label

        def objective(model: Any, batch: Batch) -> Loss:
            # The teacher sees the same images, however they were mixed. Of two heads, one learns from each source.
            answers = teacher.answers(batch.images)
            if two_heads:
                logits, labelled, taught, _ = model(batch.images, layers=())
            else:
                logits = labelled = taught = model(batch.images)

            if distill.labels == "soft":
                kd = soft_distillation(taught, answers, distill.temperature, multi_label=several)
            else:
                kd = hard_distillation(taught, answers, multi_label=several)
            own = label_loss(labelled, batch.targets, recipe.label_smoothing, multi_label=several)

            # The teacher's share changes with every step, not only from epoch to epoch.
            alpha = share_of_teacher(distill, (batch.epoch + batch.step / data.train.steps) / recipe.epochs)
            terms = {"label_loss": own, "kd_loss": kd, "alpha": torch.tensor(alpha, device=compute.device)}
            return Loss((1 - alpha) * own + alpha * kd, logits, terms)

        outcome = fit(model, objective, data.train, data.val, attempt, compute)
        agreement = agreement_on(data.val, model, teacher)
        if compute.first:
            draw_distillation(attempt.run, agreement)

        # The weights are selected by now: only `report` reads the test images.
        return {
            "model": model_facts(settings.model, model, data.train.shape),
            "data": data.facts(),
            **outcome,
            **report(model, data, attempt),
            "teacher": teacher.facts,
            "distillation": {"gate": gate, "agreement_on_validation": agreement},
            "speed": measure_speed(model, data.train.shape, compute, recipe.precision),
        }


def main(argv: list[str] | None = None) -> int:
    return run_entry(DistillKD, train, argv, script="train/distill_kd.py", about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
