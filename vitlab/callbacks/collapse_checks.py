"""Collapse checks: each rule finds one way in which training goes wrong.

The thresholds are ours. They lie far from what healthy runs show; docs/running.md has how far.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from vitlab.callbacks.training_stats import RECENT, TrainingStats

START = 30  # steps: before, the center (0.9 at each step) has not found the teacher's mean
SAME = 0.1  # nats that the teacher's answer tells of an image; healthy runs tell 0.7 and more
LATER = 100  # steps: before, images may look alike to a healthy encoder
UNIFORM = 0.95  # share of ln(prototypes) from which a teacher counts as uniform
UNCENTERED = 0.9  # of the mean logits are not in the center; healthy runs have less than 0.35
FEW = 9  # steps, after which a speed is one
FAST = 0.005  # share of its norm that a matrix moves on in a step; demo: 0.001, at rate x 3 0.0025
# share that one step changes, there and back; the demo: up to 0.003, prompts: 0.043; where weight
# decay balances AdamW's steps, sqrt(2 rate decay) is about 0.02 for the published recipe
LARGE = 0.1
STRONG = 0.01  # the same, once the loss shows that nothing was learned
UNMOVED = 0.99  # share of the loss of knowing nothing, above which nothing is learned
SMALL = 0.01  # share of a matrix that all steps of a run can change together
ABOVE = 1.2  # loss, as a multiple of that of knowing nothing
SPIKE = 30.0  # gradient norm, as a multiple of its median; healthy runs have up to 2.4
FAR = 0.5  # distance of teacher and student; healthy runs have 0.02
TAKEN = 0.1  # share of the teacher that all steps of a run replace; the published recipe: 100%
UNLEARNED = 0.6  # share of the loss that the student has not learned; healthy runs have 0.25 to 0.5
LOST = 0.25  # share of the features' best rank; healthy runs have 0.32 and more
TOO_HIGH = "learning rate too high"
SHARP = 0.5  # of the student's temperature, below which a teacher's is not to blame
SHARP_ALREADY = (
    "The teacher is sharp, at temperature {:.3g}: see first whether the images are all alike, then "
    "lower model.optimizer.lr"
)
SHARPEN = (
    "Lower model.objective.teacher_temperature, now {:.3g}; DINO uses 0.04 to 0.07 beside the "
    "student's 0.1"
)


@dataclass(frozen=True)
class Diagnosis:
    """What goes wrong.

    Attributes:
        name: of the rule, short.
        sentence: what happens, the evidence, the remedy.
    """

    name: str
    sentence: str


def uncentered(stats: TrainingStats) -> Diagnosis | None:
    """Nothing keeps one prototype from winning."""
    teacher = stats.teacher
    if teacher is None or stats.step < START or teacher.center_error < UNCENTERED:
        return None
    collapsed = teacher.prototypes < 1.5
    state = "has collapsed to one prototype" if collapsed else "is not kept from one prototype"
    return Diagnosis(
        "no centering",
        f"the teacher {state}: its center lies {teacher.center_error:.0%} of the way off the mean "
        f"of its logits (norm of the center {teacher.center_norm:.2g}), and it uses "
        f"{teacher.prototypes:.1f} of {teacher.out_dim} prototypes. The center must follow: set "
        "model.objective.center_momentum to 0.9, and lower if training is short",
    )


def large_steps(stats: TrainingStats) -> Diagnosis | None:
    """The learning rate is too high: weights forget what they have learned."""
    if stats.speed > FAST and stats.step > FEW:
        evidence = f"each step moves the weights on by {stats.speed:.1%} of their norm, "
        evidence += "measured from the teacher, their average; healthy runs stay below 0.3%"
    elif stats.update is not None and stats.update > LARGE:
        evidence = f"one step changes the weights by {stats.update:.0%} of their norm; healthy "
        evidence += "runs stay below 5%"
    else:
        return None
    return Diagnosis(TOO_HIGH, f"the learning rate is too high: {evidence}. {_lower(stats)}")


def diverged(stats: TrainingStats) -> Diagnosis | None:
    """The loss is worse than that of a model that knows nothing."""
    if stats.constant_loss is None or stats.step < START:
        return None
    # sigmoids begin at ln 2, far above
    if stats.loss < ABOVE * max(stats.constant_loss, math.log(2)):
        return None
    return Diagnosis(
        TOO_HIGH,
        f"training diverges, most often as the learning rate is too high: the loss is "
        f"{stats.loss:.3g}{_of_constant(stats)}, at learning rate {stats.learning_rate:.2g} and a "
        f"gradient norm of {stats.gradient:.2g}. Lower model.optimizer.lr, or make "
        "model.optimizer.warmup_epochs longer",
    )


def unlearned(stats: TrainingStats) -> Diagnosis | None:
    """The learning rate was too high: large steps have made all answers the same."""
    if stats.teacher is not None or stats.constant_loss is None or stats.mean is None:
        return None
    if stats.mean < UNMOVED * stats.constant_loss or stats.largest < STRONG:
        return None
    return Diagnosis(
        TOO_HIGH,
        f"nothing is learned, most often as the learning rate is too high: the loss of the last "
        f"{RECENT} steps is {stats.mean:.3g}{_of_constant(stats)}, and single steps changed the "
        f"weights by up to {stats.largest:.1%} of their norm. {_lower(stats)}, and start anew",
    )


def spikes(stats: TrainingStats) -> Diagnosis | None:
    """Gradients are now and then much larger than usual."""
    if not stats.usual or stats.spike < SPIKE * stats.usual:
        return None
    return Diagnosis(
        "gradient spikes",
        f"the gradient jumps: its norm was {stats.spike:.2g} within the last steps, "
        f"{stats.spike / stats.usual:.0f} times its usual {stats.usual:.2g}; the learning rate, "
        f"{stats.learning_rate:.2g}, is likely too high. Lower model.optimizer.lr, make "
        "model.optimizer.warmup_epochs longer, or lower model.optimizer.clip_grad_norm",
    )


def unsharpened(stats: TrainingStats) -> Diagnosis | None:
    """Nothing keeps the uniform answer from winning."""
    teacher = stats.teacher
    if teacher is None or stats.step < START:
        return None
    if teacher.temperature < teacher.student_temperature:
        return None
    return Diagnosis(
        "no sharpening",
        f"the teacher is not sharpened: its temperature {teacher.temperature:.3g} is not below the "
        f"student's {teacher.student_temperature:.3g}, so that the uniform answer wins (its "
        f"entropy is {_of_uniform(stats)}). {SHARPEN.format(teacher.temperature)}",
    )


def uniform(stats: TrainingStats) -> Diagnosis | None:
    """The teacher says nothing, and the student agrees."""
    teacher = stats.teacher
    if teacher is None or stats.step < LATER:  # at first, images may look alike
        return None
    if teacher.entropy < UNIFORM * math.log(teacher.out_dim) or _told(stats) > SAME:
        return None
    if teacher.temperature > SHARP * teacher.student_temperature:
        likely = ("no sharpening", SHARPEN.format(teacher.temperature))
    else:
        likely = ("collapsed", SHARP_ALREADY.format(teacher.temperature))
    name, remedy = _why(stats, *likely)
    return Diagnosis(
        name,
        f"training has collapsed to the uniform answer: the teacher's entropy is "
        f"{_of_uniform(stats)}, the loss {stats.loss:.3g}, and {teacher.divergence:.2g} of it is "
        f"left to learn. {remedy}",
    )


def one_answer(stats: TrainingStats) -> Diagnosis | None:
    """The teacher says the same of every image."""
    teacher = stats.teacher
    if teacher is None or stats.step < START or teacher.prototypes > 1.1:
        return None
    center = (
        "The center does not keep up: set model.objective.center_momentum to 0.9 or lower, or "
        f"raise model.objective.teacher_temperature ({teacher.temperature:.3g})"
    )
    name, remedy = _why(stats, "no centering", center)
    return Diagnosis(
        name,
        f"training has collapsed to one prototype: the teacher uses {teacher.prototypes:.2f} of "
        f"{teacher.out_dim} for the images of a batch, and its entropy is {teacher.entropy:.2g}. "
        f"{remedy}",
    )


def same_answer(stats: TrainingStats) -> Diagnosis | None:
    """The teacher's answers differ in time, but not from image to image."""
    teacher = stats.teacher
    if teacher is None or not stats.warm or stats.step < LATER or _told(stats) > SAME:
        return None
    name, remedy = _why(stats, "collapsed", "Lower model.optimizer.lr and start anew")
    return Diagnosis(
        name,
        f"training has collapsed: the teacher says the same of every image (its answer tells "
        f"{max(0.0, _told(stats)):.2f} nats of an image, at {teacher.prototypes:.1f} of "
        f"{teacher.out_dim} prototypes in use). {remedy}",
    )


def _why(stats: TrainingStats, name: str, remedy: str) -> tuple[str, str]:
    """Return the likely cause of a collapse and what helps; large steps come first."""
    if stats.fastest < FAST:
        return name, remedy
    return TOO_HIGH, (
        f"The learning rate is too high: steps moved the weights on by up to {stats.fastest:.1%} "
        f"of their norm. {_lower(stats)}, and start anew"
    )


def _lower(stats: TrainingStats) -> str:
    return (
        f"Lower model.optimizer.lr by a factor of 10 or more (learning rate now "
        f"{stats.learning_rate:.2g}, at its peak {stats.peak:.2g})"
    )


def lagging(stats: TrainingStats) -> Diagnosis | None:
    """The teacher does not follow the student."""
    teacher = stats.teacher
    if teacher is None or stats.step < START:
        return None
    if teacher.taken < TAKEN:
        return Diagnosis(
            "teacher lags",
            f"the teacher lags behind: at momentum {teacher.momentum:.6g}, all {stats.steps} steps "
            f"together take {teacher.taken:.0%} of its weights from the student, so that it stays "
            "what it was at the start. Lower model.objective.momentum; a run of few steps needs a "
            "quick teacher",
        )
    if not stats.warm or teacher.distance < FAR:
        return None
    share = teacher.divergence / max(stats.loss, 1e-12)
    if share < UNLEARNED:
        return None
    return Diagnosis(
        "teacher lags",
        f"the teacher lags behind: its weights differ from the student's by "
        f"{teacher.distance:.0%} of their norm, and {share:.0%} of the loss is what the "
        "student has not learned from it. Lower model.objective.momentum; a run of few steps "
        "needs a quick teacher",
    )


def shrunk(stats: TrainingStats) -> Diagnosis | None:
    """Features use ever fewer directions."""
    teacher = stats.teacher
    if teacher is None or not stats.warm or teacher.rank > LOST * stats.best_rank:
        return None
    return Diagnosis(
        "features lose rank",
        f"the features lose rank: [CLS] uses {teacher.rank:.1f} directions (RankMe), and "
        f"{stats.best_rank:.1f} at its best. Lower model.optimizer.lr or "
        "model.objective.teacher_temperature; last.ckpt may already be past its best",
    )


def small_steps(stats: TrainingStats) -> Diagnosis | None:
    """The learning rate is too low: the run ends where it began."""
    if stats.step < START:
        return None
    reach = 0.0
    if stats.peak:
        if not stats.update or not stats.learning_rate:
            return None
        reach = stats.update * stats.peak / stats.learning_rate * stats.steps
    if reach > SMALL:
        return None
    usual = "; DINO's is 0.0005 per 256 images" if stats.teacher else " by a factor of 10 or more"
    return Diagnosis(
        "learning rate too low",
        f"the learning rate is too low: at its peak, {stats.peak:.2g}, all {stats.steps} steps "
        f"together would change the weights by at most {reach:.1%} of their norm. Raise "
        f"model.optimizer.lr{usual}",
    )


# a cause before what follows from it
RULES: tuple[Callable[[TrainingStats], Diagnosis | None], ...] = (
    *(unsharpened, uncentered, large_steps, diverged, unlearned, small_steps),
    *(uniform, one_answer, same_answer, lagging, shrunk, spikes),
)


def diagnose(stats: TrainingStats) -> Diagnosis | None:
    """Return what the first rule that finds something says; None if all is well."""
    return next((found for rule in RULES if (found := rule(stats))), None)


def _told(stats: TrainingStats) -> float:
    """Nats that the teacher's answer tells of an image: entropy of the mean less mean entropy."""
    assert stats.teacher is not None
    return math.log(stats.teacher.prototypes) - stats.teacher.entropy


def _of_uniform(stats: TrainingStats) -> str:
    assert stats.teacher is not None
    out_dim = stats.teacher.out_dim
    return f"{stats.teacher.entropy:.2f} of at most ln {out_dim} = {math.log(out_dim):.2f}"


def _of_constant(stats: TrainingStats) -> str:
    return f" (knowing nothing gives {stats.constant_loss:.3g})"
