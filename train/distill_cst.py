"""Train a ViT on labels and on the tokens of another ViT: on their directions, and on how alike they are.

python train/distill_cst.py teacher=HASH                                     # a ViT of the suite, a run on the same set
python train/distill_cst.py data=cifar10 teacher=timm/vit_small_patch14_dinov2.lvd142m teacher.input_size=224
python train/distill_cst.py data=cifar10 teacher=HASH distill.relation=sample distill.student_layers=[6,11]

loss = labels + token_weight (1 - cosine of projected tokens) + relation_weight KL of relations. The two terms of the
teacher may begin after a share of the epochs.
"""

import sys
from typing import Any

from common.cli.attempt import Attempt, run_entry
from common.settings.entries import DistillCST


def train(attempt: Attempt) -> dict[str, Any]:
    # Torch is loaded only here, so that a run that is refused or finished answers without it.
    import torch

    from common.compute import place, seed_model, start
    from common.data.packed import Batch, open_data
    from common.distillation.figure import draw_distillation
    from common.distillation.gate import agreement_on, judge
    from common.distillation.teacher import open_teacher
    from common.distillation.tokens import StudentWithProjectors, on_grid, related, spread
    from common.models.zoo import build_model, measure_speed, model_facts
    from common.training.fit import fit
    from common.training.loop import Loss
    from common.training.losses import label_loss, relation_divergence, token_distance
    from common.training.predict import report

    settings = attempt.settings
    assert isinstance(settings, DistillCST)
    recipe, distill = settings.recipe, settings.distill
    with start(settings.compute) as compute:
        data = open_data(attempt.data_folder, settings, compute)
        teacher = open_teacher(settings.teacher, data.facts(), attempt.root, compute, answers=False)
        teacher_width = teacher.check_tokens(data.train.shape, distill.teacher_layer, compute)
        gate = judge(teacher, settings, distill, attempt.root)

        seed_model(settings.seed, "weights")
        student: Any = build_model(settings.model, data.facts(), checkpointing=recipe.checkpointing)
        projecting = StudentWithProjectors(student, settings.student_layers, distill.hidden, teacher_width)
        taught_student = place(projecting, compute)

        def objective(model: Any, batch: Batch) -> Loss:
            logits, tokens, projected = model(batch.images, with_tokens=True)
            taught = on_grid(teacher.tokens(batch.images, distill.teacher_layer), student.grid)

            # relation=random relates as many tokens of the whole batch as one image has. They are drawn for every
            # relation, so that the random numbers that follow are the same.
            images, tokens_each = taught.shape[:2]
            chosen = torch.randperm(images * tokens_each)[:tokens_each].to(compute.device)

            own = label_loss(logits, batch.targets, recipe.label_smoothing, multi_label=data.train.multi_label)
            distance = torch.stack([token_distance(block, taught) for block in projected]).mean()

            # Likeness is measured within each network, so these tokens need no projector.
            teachers_items = related(taught, distill.relation, chosen)
            students_items = [related(block, distill.relation, chosen) for block in tokens]
            divergences = [
                relation_divergence(items, teachers_items, distill.relation_temperature) for items in students_items
            ]
            divergence = torch.stack(divergences).mean()

            done = batch.epoch / recipe.epochs
            taught_loss = distill.token_weight * (done >= distill.token_from) * distance
            taught_loss = taught_loss + distill.relation_weight * (done >= distill.relation_from) * divergence
            terms = {"label_loss": own, "kd_loss": taught_loss, "token_loss": distance, "relation_loss": divergence}
            return Loss(own + taught_loss, logits, terms | spread(projected[-1]))

        # The projectors only help in training: the student alone is validated and kept.
        def deployed(model: Any) -> Any:
            return model.student

        outcome = fit(taught_student, objective, data.train, data.val, attempt, compute, deployed)
        agreement = agreement_on(data.val, student, teacher)
        if compute.first:
            draw_distillation(attempt.run, agreement)

        # The weights are selected by now: only `report` reads the test images.
        return {
            "model": model_facts(settings.model, student, data.train.shape),
            "data": data.facts(),
            **outcome,
            **report(student, data, attempt),
            "teacher": teacher.facts,
            "distillation": {
                "gate": gate,
                "agreement_on_validation": agreement,
                "relation": distill.relation,
                "student_layers": settings.student_layers,
            },
            "speed": measure_speed(student, data.train.shape, compute, recipe.precision),
        }


def main(argv: list[str] | None = None) -> int:
    return run_entry(DistillCST, train, argv, script="train/distill_cst.py", about=__doc__)


if __name__ == "__main__":
    sys.exit(main())
