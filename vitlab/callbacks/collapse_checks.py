"""Collapse checks: the ways in which training goes wrong, told by statistics of a step.

The thresholds are ours. They lie far from what healthy runs show; docs/running.md has how far.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

START = 30  # steps: before, the center (0.9 at each step) has not reached the teacher's mean
SAME = 0.1  # nats of mutual information of teacher output and image; healthy runs: 0.7 and more
LATER = 100  # steps: before, images may look alike to a healthy encoder
UNIFORM = 0.95  # share of ln(prototypes) from which a teacher counts as uniform
UNCENTERED = 0.9  # of the mean logits are not in the center; healthy runs have less than 0.35
FEW = 9  # steps, after which a speed is one
RECENT = 100  # steps, over which a loss is not the luck of a few small batches any more
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
TEMPERATURE = "model.objective.teacher_temperature"
TOO_HIGH = "learning rate too high"


@dataclass(frozen=True)
class TeacherStats:
    """Statistics of DINO's teacher; entropies in nats.

    Attributes:
        out_dim: prototypes of the head.
        entropy: mean over images; ln(out_dim) if it is uniform.
        divergence: of the student from the teacher, the mean over pairs of views; the loss is the
            sum of both.
        prototypes: in use: exp of the entropy of the mean over this rank's images.
        center_error: distance of the center from the mean logits of a step, as a share of their
            norm; the lowest of the last steps.
        temperature, student_temperature: of the two softmaxes.
        momentum: share of the teacher that stays after a step.
        distance: of the teacher's weights from the student's, as a share of their norm.
        rank: RankMe of the teacher's [CLS] features of this rank's images, at most their number.
        taken: share of its weights that all steps of the run together take from the student.
    """

    out_dim: int
    entropy: float
    divergence: float
    prototypes: float
    center_error: float
    temperature: float
    student_temperature: float
    momentum: float
    distance: float
    rank: float
    taken: float = 1.0

    def speed(self, step: int) -> float:
        """Return the share of their norm that weights leave behind in a step.

        The teacher is an average over about 1 / (1 - momentum) steps. Unlike the size of a step,
        its distance from the student does not count what steps take back from each other.
        """
        return self.distance / max(1.0, min(step, 1 / max(1 - self.momentum, 1e-12)))


@dataclass(frozen=True)
class TrainingStats:
    """Statistics of a run at one step.

    Attributes:
        step: optimizer steps taken, of `steps` of the whole run.
        warm: whether the warm-up of the learning rate is over.
        loss: of the newest micro-batch.
        constant_loss: least loss of a constant prediction, see `Objective.constant_loss`.
        gradient: median norm of the gradient in the steps since the last check.
        spike: the largest of them.
        usual: median norm over the checks before; 0 at first.
        learning_rate: of the step; `peak` is the highest of the run.
        update: change of a weight matrix in the step as a share of its norm, the median over
            several; None where no matrix is trained.
        largest: the largest update at any check so far.
        mean: loss of the newest `RECENT` steps, the mean of one micro-batch of each, without what
            the keys of prompts add; None until there are as many behind the warm-up.
        teacher: of DINO; None for others.
        speed: see `TeacherStats.speed`; 0 without a teacher.
        fastest: the highest speed so far.
        best_rank: the highest `teacher.rank` so far.
    """

    step: int
    steps: int
    warm: bool
    loss: float
    constant_loss: float | None
    gradient: float
    spike: float
    usual: float
    learning_rate: float
    peak: float
    update: float | None
    largest: float = 0.0
    mean: float | None = None
    teacher: TeacherStats | None = None
    speed: float = 0.0
    fastest: float = 0.0
    best_rank: float = 0.0


class Diagnosis(NamedTuple):
    """A problem of a run: its short name; the problem, the evidence, the remedy."""

    name: str
    sentence: str


def diagnose(stats: TrainingStats) -> Diagnosis | None:
    """Return the first problem, a cause before what follows from it; None if all is well."""
    checks = (_unbalanced, _learning_rate, _collapsed, _falling_behind)
    return next((found for check in checks for found in check(stats)), None)


def _unbalanced(stats: TrainingStats) -> Iterator[Diagnosis]:
    """Nothing keeps the uniform output, or one prototype, from winning."""
    teacher = stats.teacher
    if teacher is None or stats.step < START:
        return
    if teacher.temperature >= teacher.student_temperature:
        yield Diagnosis(
            "no sharpening",
            f"the teacher is not sharpened: its temperature {teacher.temperature:.3g} is not below "
            f"the student's {teacher.student_temperature:.3g}, so that the uniform output wins. "
            f"{_sharpen(teacher)}",
        )
    if teacher.center_error >= UNCENTERED:
        yield Diagnosis(
            "no centering",
            f"nothing keeps the teacher from one prototype: its center lies "
            f"{teacher.center_error:.0%} of the way off the mean of its logits, and it uses "
            f"{teacher.prototypes:.1f} of {teacher.out_dim} prototypes. Set "
            "model.objective.center_momentum to 0.9, and lower if training is short",
        )


def _learning_rate(stats: TrainingStats) -> Iterator[Diagnosis]:
    """Steps are so large that weights forget what they have learned, or too small to learn."""
    constant = math.inf if stats.constant_loss is None else stats.constant_loss
    mean = 0.0 if stats.mean is None else stats.mean
    above = f"a constant prediction gives {constant:.3g}"
    evidence = ""
    if stats.speed > FAST and stats.step > FEW:
        evidence = (
            f"each step moves the weights on by {stats.speed:.1%} of their norm, measured from the "
            "teacher, their average; healthy runs stay below 0.3%"
        )
    elif stats.update is not None and stats.update > LARGE:
        evidence = f"one step changes the weights by {stats.update:.0%} of their norm; healthy "
        evidence += "runs stay below 5%"
    # sigmoids begin at ln 2, far above
    elif stats.step >= START and stats.loss >= ABOVE * max(constant, math.log(2)):
        evidence = f"the loss is {stats.loss:.3g}, where {above}"
    elif stats.teacher is None and mean >= UNMOVED * constant and stats.largest >= STRONG:
        evidence = (
            f"the loss of the last {RECENT} steps is {mean:.3g}, where {above}, and single steps "
            f"changed the weights by up to {stats.largest:.1%} of their norm"
        )
    if evidence:
        yield Diagnosis(TOO_HIGH, f"the learning rate is too high: {evidence}. {_lower(stats)}")
    reach = 0.0
    if stats.peak:
        if not stats.update or not stats.learning_rate:
            return
        reach = stats.update * stats.peak / stats.learning_rate * stats.steps
    if stats.step >= START and reach <= SMALL:
        usual = "; DINO's is 0.0005 per 256 images" if stats.teacher else " by a factor of 10"
        yield Diagnosis(
            "learning rate too low",
            f"the learning rate is too low: at its peak, {stats.peak:.2g}, all {stats.steps} steps "
            f"together would change the weights by at most {reach:.1%} of their norm. "
            f"Raise {LR}{usual}",
        )


def _collapsed(stats: TrainingStats) -> Iterator[Diagnosis]:
    """The teacher output is the same for every image: uniform, one prototype, or another."""
    teacher = stats.teacher
    if teacher is None or stats.step < START:
        return
    # mutual information of output and image: entropy of the mean less mean entropy
    information = math.log(teacher.prototypes) - teacher.entropy
    same = stats.step >= LATER and information <= SAME
    name, remedy = "collapsed", f"See first whether the images are all alike, then lower {LR}"
    if same and teacher.entropy >= UNIFORM * math.log(teacher.out_dim):
        output = "uniform"
        if teacher.temperature > SHARP * teacher.student_temperature:
            name, remedy = "no sharpening", _sharpen(teacher)
    elif teacher.prototypes <= 1.1:
        output, name = "one prototype", "no centering"
        remedy = f"Set model.objective.center_momentum to 0.9 or lower, or raise {TEMPERATURE} "
        remedy += f"({teacher.temperature:.3g})"
    elif same and stats.warm:
        output = "constant"
    else:
        return
    if stats.fastest >= FAST:
        name = TOO_HIGH
        remedy = f"Steps moved the weights on by up to {stats.fastest:.1%} of their norm. "
        remedy += _lower(stats)
    yield Diagnosis(
        name,
        f"training has collapsed: the teacher output is {output}, the same for every image (mutual "
        f"information {max(0.0, information):.2f} nats, entropy {teacher.entropy:.2g}, "
        f"{teacher.prototypes:.1f} of {teacher.out_dim} prototypes in use). {remedy}",
    )


def _falling_behind(stats: TrainingStats) -> Iterator[Diagnosis]:
    """The teacher does not follow, features use ever fewer directions, or gradients jump."""
    teacher = stats.teacher
    if teacher is not None:
        share, evidence = teacher.divergence / max(stats.loss, 1e-12), ""
        if stats.step >= START and teacher.taken < TAKEN:
            evidence = (
                f"at momentum {teacher.momentum:.6g}, all {stats.steps} steps together take "
                f"{teacher.taken:.0%} of its weights from the student"
            )
        elif stats.step >= START and stats.warm and teacher.distance >= FAR and share >= UNLEARNED:
            evidence = (
                f"its weights differ from the student's by {teacher.distance:.0%} of their norm, "
                f"and {share:.0%} of the loss is what the student has not learned from it"
            )
        if evidence:
            remedy = "Lower model.objective.momentum; a run of few steps needs a quick teacher"
            yield Diagnosis("teacher lags", f"the teacher lags behind: {evidence}. {remedy}")
        if stats.warm and teacher.rank <= LOST * stats.best_rank:
            yield Diagnosis(
                "features lose rank",
                f"the features lose rank: [CLS] uses {teacher.rank:.1f} directions (RankMe), and "
                f"{stats.best_rank:.1f} at its best. Lower {LR} or {TEMPERATURE}; last.ckpt may "
                "already be past its best",
            )
    if stats.usual and stats.spike >= SPIKE * stats.usual:
        yield Diagnosis(
            "gradient spikes",
            f"the gradient jumps: its norm was {stats.spike:.2g} within the last steps, "
            f"{stats.spike / stats.usual:.0f} times its usual {stats.usual:.2g}. {_lower(stats)}, "
            f"make {WARMUP} longer, or lower model.optimizer.clip_grad_norm",
        )


def _lower(stats: TrainingStats) -> str:
    rate = f"learning rate now {stats.learning_rate:.2g}, at its peak {stats.peak:.2g}"
    return f"Lower {LR} by a factor of 10 or more ({rate})"


def _sharpen(teacher: TeacherStats) -> str:
    return (
        f"Lower {TEMPERATURE}, now {teacher.temperature:.3g}; DINO uses 0.04 to 0.07 beside the "
        "student's 0.1"
    )
