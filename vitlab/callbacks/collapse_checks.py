"""Collapse checks: each finds one way in which training goes wrong, from statistics of a step.

The thresholds are ours. They lie far from what healthy runs show; docs/running.md has how far.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from vitlab.callbacks.training_stats import RECENT, TeacherStats, TrainingStats

START = 30  # steps: before, the center (0.9 at each step) has not reached the teacher's mean
SAME = 0.1  # nats of mutual information of teacher output and image; healthy runs: 0.7 and more
LATER = 100  # steps: before, images may look alike to a healthy encoder
UNIFORM = 0.95  # share of ln(prototypes) from which a teacher counts as uniform
UNCENTERED = 0.9  # of the mean logits are not in the center; healthy runs have less than 0.35
FEW = 9  # steps, after which a speed is one
FAST = 0.005  # share of its norm that a matrix moves in a step; demo: 0.001, at lr x 3 0.0025
# share that one step changes, there and back; the demo: up to 0.003, prompts: 0.043; where weight
# decay balances AdamW's steps, sqrt(2 lr decay) is about 0.02 for the published recipe
LARGE = 0.1
STRONG = 0.01  # the same, once the loss shows that nothing was learned
UNMOVED = 0.99  # share of the loss of a constant prediction, above which nothing is learned
SMALL = 0.01  # share of a matrix that all steps of a run can change together
ABOVE = 1.2  # loss, as a multiple of that of a constant prediction
SPIKE = 30.0  # gradient norm, as a multiple of its median; healthy runs have up to 2.4
FAR = 0.5  # distance of teacher and student; healthy runs have 0.02
TAKEN = 0.1  # share of the teacher that all steps of a run replace; the published recipe: 100%
UNLEARNED = 0.6  # share of the loss that the student has not learned; healthy runs: 0.25 to 0.5
LOST = 0.25  # share of the features' best rank; healthy runs have 0.32 and more
SHARP = 0.5  # of the student's temperature, below which a teacher's is not the cause
LR, WARMUP = "model.optimizer.lr", "model.optimizer.warmup_epochs"
TOO_HIGH = "learning rate too high"


@dataclass(frozen=True)
class Diagnosis:
    """A problem of a run.

    Attributes:
        name: of the problem, short.
        sentence: the problem, the evidence, the remedy.
    """

    name: str
    sentence: str


def large_steps(stats: TrainingStats) -> Diagnosis | None:
    """The learning rate is too high: weights forget what they have learned."""
    if stats.speed > FAST and stats.step > FEW:
        evidence = (
            f"each step moves the weights on by {stats.speed:.1%} of their norm, measured from the "
            "teacher, their average; healthy runs stay below 0.3%"
        )
    elif stats.update is not None and stats.update > LARGE:
        evidence = f"one step changes the weights by {stats.update:.0%} of their norm; healthy "
        evidence += "runs stay below 5%"
    else:
        return None
    return Diagnosis(TOO_HIGH, f"the learning rate is too high: {evidence}. {_lower(stats)}")


def diverged(stats: TrainingStats) -> Diagnosis | None:
    """The loss is worse than that of a constant prediction."""
    constant = stats.constant_loss
    # sigmoids begin at ln 2, far above
    if constant is None or stats.step < START or stats.loss < ABOVE * max(constant, math.log(2)):
        return None
    return Diagnosis(
        TOO_HIGH,
        f"training diverges, most often as the learning rate is too high: the loss is "
        f"{stats.loss:.3g} (a constant prediction gives {constant:.3g}), at learning rate "
        f"{stats.learning_rate:.2g} and a gradient norm of {stats.gradient:.2g}. Lower {LR}, or "
        f"make {WARMUP} longer",
    )


def unlearned(stats: TrainingStats) -> Diagnosis | None:
    """The learning rate was too high: large steps have made all outputs the same."""
    constant = stats.constant_loss
    if stats.teacher is not None or constant is None or stats.mean is None:
        return None
    if stats.mean < UNMOVED * constant or stats.largest < STRONG:
        return None
    return Diagnosis(
        TOO_HIGH,
        f"nothing is learned, most often as the learning rate is too high: the loss of the last "
        f"{RECENT} steps is {stats.mean:.3g} (a constant prediction gives {constant:.3g}), and "
        f"single steps changed the weights by up to {stats.largest:.1%} of their norm. "
        f"{_lower(stats)}, and start anew",
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
        f"together would change the weights by at most {reach:.1%} of their norm. "
        f"Raise {LR}{usual}",
    )


def spikes(stats: TrainingStats) -> Diagnosis | None:
    """Gradients are now and then much larger than usual."""
    if not stats.usual or stats.spike < SPIKE * stats.usual:
        return None
    return Diagnosis(
        "gradient spikes",
        f"the gradient jumps: its norm was {stats.spike:.2g} within the last steps, "
        f"{stats.spike / stats.usual:.0f} times its usual {stats.usual:.2g}; the learning rate, "
        f"{stats.learning_rate:.2g}, is likely too high. Lower {LR}, make {WARMUP} longer, or "
        "lower model.optimizer.clip_grad_norm",
    )


def uncentered(stats: TrainingStats, teacher: TeacherStats) -> Diagnosis | None:
    """Nothing keeps one prototype from winning."""
    if stats.step < START or teacher.center_error < UNCENTERED:
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


def unsharpened(stats: TrainingStats, teacher: TeacherStats) -> Diagnosis | None:
    """Nothing keeps the uniform output from winning."""
    if stats.step < START or teacher.temperature < teacher.student_temperature:
        return None
    return Diagnosis(
        "no sharpening",
        f"the teacher is not sharpened: its temperature {teacher.temperature:.3g} is not below the "
        f"student's {teacher.student_temperature:.3g}, so that the uniform output wins (its "
        f"entropy is {_entropy(teacher)}). {_sharpen(teacher)}",
    )


def uniform(stats: TrainingStats, teacher: TeacherStats) -> Diagnosis | None:
    """The teacher output is uniform, and so is the student's."""
    if stats.step < LATER or _information(teacher) > SAME:  # at first, images may look alike
        return None
    if teacher.entropy < UNIFORM * math.log(teacher.out_dim):
        return None
    if teacher.temperature > SHARP * teacher.student_temperature:
        name, remedy = _cause(stats, "no sharpening", _sharpen(teacher))
    else:
        alike = (
            f"The teacher is sharp, at temperature {teacher.temperature:.3g}: see first whether "
        )
        name, remedy = _cause(
            stats, "collapsed", f"{alike}the images are all alike, then lower {LR}"
        )
    return Diagnosis(
        name,
        f"training has collapsed to the uniform output: the teacher's entropy is "
        f"{_entropy(teacher)}, the loss {stats.loss:.3g}, and {teacher.divergence:.2g} of it is "
        f"left to learn. {remedy}",
    )


def one_prototype(stats: TrainingStats, teacher: TeacherStats) -> Diagnosis | None:
    """The teacher output is one prototype for every image."""
    if stats.step < START or teacher.prototypes > 1.1:
        return None
    center = (
        "The center does not keep up: set model.objective.center_momentum to 0.9 or lower, or "
        f"raise model.objective.teacher_temperature ({teacher.temperature:.3g})"
    )
    name, remedy = _cause(stats, "no centering", center)
    return Diagnosis(
        name,
        f"training has collapsed to one prototype: the teacher uses {teacher.prototypes:.2f} of "
        f"{teacher.out_dim} for the images of a batch, and its entropy is {teacher.entropy:.2g}. "
        f"{remedy}",
    )


def constant_output(stats: TrainingStats, teacher: TeacherStats) -> Diagnosis | None:
    """The teacher output differs from step to step, but not from image to image."""
    if not stats.warm or stats.step < LATER or _information(teacher) > SAME:
        return None
    name, remedy = _cause(stats, "collapsed", f"Lower {LR} and start anew")
    return Diagnosis(
        name,
        "training has collapsed: the teacher output is constant across images (mutual information "
        f"with the image: {max(0.0, _information(teacher)):.2f} nats, at {teacher.prototypes:.1f} "
        f"of {teacher.out_dim} prototypes in use). {remedy}",
    )


def lagging(stats: TrainingStats, teacher: TeacherStats) -> Diagnosis | None:
    """The teacher does not follow the student."""
    if stats.step < START:
        return None
    share = teacher.divergence / max(stats.loss, 1e-12)
    if teacher.taken < TAKEN:
        evidence = (
            f"at momentum {teacher.momentum:.6g}, all {stats.steps} steps together take "
            f"{teacher.taken:.0%} of its weights from the student, so that it stays what it was at "
            "the start"
        )
    elif stats.warm and teacher.distance >= FAR and share >= UNLEARNED:
        evidence = (
            f"its weights differ from the student's by {teacher.distance:.0%} of their norm, and "
            f"{share:.0%} of the loss is what the student has not learned from it"
        )
    else:
        return None
    return Diagnosis(
        "teacher lags",
        f"the teacher lags behind: {evidence}. Lower model.objective.momentum; a run of few steps "
        "needs a quick teacher",
    )


def shrunk(stats: TrainingStats, teacher: TeacherStats) -> Diagnosis | None:
    """Features use ever fewer directions."""
    if not stats.warm or teacher.rank > LOST * stats.best_rank:
        return None
    return Diagnosis(
        "features lose rank",
        f"the features lose rank: [CLS] uses {teacher.rank:.1f} directions (RankMe), and "
        f"{stats.best_rank:.1f} at its best. Lower {LR} or model.objective.teacher_temperature; "
        "last.ckpt may already be past its best",
    )


Check = Callable[[TrainingStats], Diagnosis | None]


def _of_teacher(check: Callable[[TrainingStats, TeacherStats], Diagnosis | None]) -> Check:
    return lambda stats: None if stats.teacher is None else check(stats, stats.teacher)


# a cause before what follows from it
CHECKS: tuple[Check, ...] = (
    *map(_of_teacher, (unsharpened, uncentered)),
    *(large_steps, diverged, unlearned, small_steps),
    *map(_of_teacher, (uniform, one_prototype, constant_output, lagging, shrunk)),
    spikes,
)


def diagnose(stats: TrainingStats) -> Diagnosis | None:
    """Return the diagnosis of the first check that finds something; None if all is well."""
    return next((found for check in CHECKS if (found := check(stats))), None)


def _cause(stats: TrainingStats, name: str, remedy: str) -> tuple[str, str]:
    """Return the likely cause of a collapse and what helps; large steps come first."""
    if stats.fastest < FAST:
        return name, remedy
    return TOO_HIGH, (
        f"The learning rate is too high: steps moved the weights on by up to {stats.fastest:.1%} "
        f"of their norm. {_lower(stats)}, and start anew"
    )


def _lower(stats: TrainingStats) -> str:
    rate = f"learning rate now {stats.learning_rate:.2g}, at its peak {stats.peak:.2g}"
    return f"Lower {LR} by a factor of 10 or more ({rate})"


def _sharpen(teacher: TeacherStats) -> str:
    return (
        f"Lower model.objective.teacher_temperature, now {teacher.temperature:.3g}; DINO uses 0.04 "
        "to 0.07 beside the student's 0.1"
    )


def _information(teacher: TeacherStats) -> float:
    """Mutual information of output and image, nats: entropy of the mean less mean entropy."""
    return math.log(teacher.prototypes) - teacher.entropy


def _entropy(teacher: TeacherStats) -> str:
    most = math.log(teacher.out_dim)
    return f"{teacher.entropy:.2f} of at most ln {teacher.out_dim} = {most:.2f}"
