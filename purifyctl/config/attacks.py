"""The list of attacks.

To add an attack, write its function in `purifyctl/attacks/` and add its record to `ATTACKS`. The command line, recipes,
the ladder, the checks and the tables of the documentation are read from the records, in the list's order.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

Family = Literal[
    "gradient sign",  # steps along the sign of the loss's gradient
    "queries",  # asks the model for its outputs only, as a black-box attacker does
    "nearest boundary",  # searches without a budget; the result is cut to the budget
    "other",
]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What is known about one kind of attack."""

    kind: str  # as flags and recipes name it: letters and hyphens
    label: str  # as reports name it, without numbers
    function: str  # "module:function"; purifyctl.attacks.make.AttackFunction says how it is called
    family: Family  # decides under which threat models `evaluate` makes it
    what: str  # what it does, in a line
    paper: str  # who published it
    default_steps: int  # steps that it takes unless `--steps` says otherwise; 0: it is a set of attacks with their own
    # What a step costs, in gradients of the attacked model: a first guess, until it is measured. Without steps: of all
    cost: float = 1.0
    steps_are: str = "gradient steps"  # what `--steps` counts; random moves do not count
    fixed_steps: bool = False  # `--steps` cannot change it, and its name in reports has no number
    can_restart: bool = False  # it starts at a random place, so that `--restarts` can keep the best of several
    can_average: bool = False  # `--eot` can average its gradients over several passes
    can_be_targeted: bool = False  # it can move towards a class
    budget_per_image: bool = False  # it also takes one eps for each image: [N, 1, 1, 1]
    trainable: bool = False  # quick enough for training
    starts_clean: bool = False  # its first gradient is that at the clean image; it takes one eps for each image
    expensive: bool = False  # `evaluate` gives it fewer photographs (`--expensive-limit`)
    # True: `evaluate` lets it make images in floats, and rounds them. False: it makes 8-bit images itself.
    in_floats: bool = True
    # For 8-bit images it must see a model that rounds its input: otherwise rounding its small steps would undo them.
    sees_rounding: bool = False
    # The kind that is the same attack with one step; the check "more steps do worse" compares the two. "": no such kind
    one_step_form: str = ""
    package: str = ""  # the package that it needs, which the extra "attacks" brings
    # What eps means for it, and what a reader of its figures must know. "": no value moves by more than eps
    eps_note: str = ""


ATTACKS = (
    Attack(
        kind="fgsm",
        label="FGSM",
        function="purifyctl.attacks.gradient:fgsm",
        family="gradient sign",
        what="one step along the gradient's sign",
        paper="Goodfellow et al. 2015",
        default_steps=1,
        fixed_steps=True,
        can_average=True,
        can_be_targeted=True,
        budget_per_image=True,
        trainable=True,
        starts_clean=True,
    ),
    Attack(
        kind="bim",
        label="BIM",
        function="purifyctl.attacks.gradient:bim",
        family="gradient sign",
        what="steps along the gradient's sign, from the image itself",
        paper="Kurakin et al. 2017",
        default_steps=10,
        can_average=True,
        can_be_targeted=True,
        budget_per_image=True,
        trainable=True,
        starts_clean=True,
        one_step_form="fgsm",
    ),
    Attack(
        kind="least-likely",
        label="Least-likely",
        function="purifyctl.attacks.gradient:least_likely",
        family="gradient sign",
        what="BIM towards the class that is least likely when clean",
        paper="Kurakin et al. 2017",
        default_steps=10,
        can_average=True,
        budget_per_image=True,
        trainable=True,
    ),
    Attack(
        kind="pgd",
        label="PGD",
        function="purifyctl.attacks.gradient:pgd",
        family="gradient sign",
        what="steps along the gradient's sign, from a random start",
        paper="Madry et al. 2018",
        default_steps=10,
        can_restart=True,
        can_average=True,
        can_be_targeted=True,
        budget_per_image=True,
        trainable=True,
        one_step_form="fgsm",
    ),
    Attack(
        kind="mi-fgsm",
        label="MI-FGSM",
        function="purifyctl.attacks.gradient:mi_fgsm",
        family="gradient sign",
        what="steps along the sign of accumulated gradients, which transfer better",
        paper="Dong et al. 2018",
        default_steps=10,
        can_average=True,
        can_be_targeted=True,
        budget_per_image=True,
        trainable=True,
        one_step_form="fgsm",
    ),
    Attack(
        kind="dim",
        label="DIM",
        function="purifyctl.attacks.gradient:dim",
        family="gradient sign",
        what="MI-FGSM on images that are shrunk and padded at random",
        paper="Xie et al. 2019",
        default_steps=10,
        can_average=True,
        can_be_targeted=True,
        budget_per_image=True,
        trainable=True,
    ),
    Attack(
        kind="square",
        label="Square",
        function="purifyctl.attacks.square:square",
        family="queries",
        what="random squares; needs no gradients",
        paper="Andriushchenko et al. 2020",
        default_steps=5000,
        cost=0.3,
        steps_are="queries",
        can_be_targeted=True,
        trainable=True,
        expensive=True,
    ),
    Attack(
        kind="noise",
        label="Noise",
        function="purifyctl.attacks.noise:noise",
        family="other",
        what="random signs, stripes, squares or colours; asks no model",
        paper="a yardstick",
        default_steps=1,
        cost=0,
        fixed_steps=True,
        budget_per_image=True,
        trainable=True,
    ),
    Attack(
        kind="deepfool",
        label="DeepFool",
        function="purifyctl.attacks.foolbox_attacks:deepfool",
        family="nearest boundary",
        what="the nearest boundary (L-infinity), cut to eps",
        paper="Moosavi-Dezfooli et al. 2016",
        default_steps=50,
        cost=0.5,
        in_floats=False,
        sees_rounding=True,
        package="foolbox",
        eps_note="the nearest boundary's perturbation, cut to eps",
    ),
    Attack(
        kind="jsma",
        label="JSMA",
        function="purifyctl.attacks.art_attacks:jsma",
        family="other",
        what="raises the two most telling values per step (L0) by eps",
        paper="Papernot et al. 2016",
        default_steps=100,
        steps_are="pairs of values",
        can_be_targeted=True,
        in_floats=False,
        sees_rounding=True,
        expensive=True,
        package="adversarial-robustness-toolbox",
        eps_note="an L0 attack: two values per step, each raised by eps",
    ),
    Attack(
        kind="universal",
        label="Universal",
        function="purifyctl.attacks.art_attacks:universal",
        family="other",
        what="one perturbation for each batch",
        paper="Moosavi-Dezfooli et al. 2017",
        default_steps=10,
        cost=10,
        steps_are="passes over the batch",
        in_floats=False,
        sees_rounding=True,
        expensive=True,
        package="adversarial-robustness-toolbox",
        eps_note="one perturbation for each batch, not one for all images",
    ),
    Attack(
        kind="one-pixel",
        label="One-pixel",
        function="purifyctl.attacks.art_attacks:one_pixel",
        family="queries",
        what="the best colour within eps for the best pixel (L0)",
        paper="Su et al. 2019",
        default_steps=100,
        cost=120,
        steps_are="generations of 400 candidates",
        can_be_targeted=True,
        in_floats=False,
        sees_rounding=True,
        expensive=True,
        package="adversarial-robustness-toolbox",
        eps_note="an L0 attack: one pixel, whose values move by at most eps; images without success stay clean",
    ),
    Attack(
        kind="cw",
        label="C&W",
        function="purifyctl.attacks.foolbox_attacks:carlini_wagner",
        family="nearest boundary",
        what="the nearest boundary (L2), cut to eps",
        paper="Carlini and Wagner 2017",
        default_steps=100,
        cost=9,
        steps_are="gradient steps for each of 9 constants",
        can_be_targeted=True,
        in_floats=False,
        sees_rounding=True,
        expensive=True,
        package="foolbox",
        eps_note="an L2 attack, cut to eps; images without success stay clean",
    ),
    Attack(
        kind="autoattack",
        label="AutoAttack",
        function="purifyctl.attacks.autoattack:autoattack",
        family="other",
        what="APGD-CE, APGD-T, FAB-T and Square; with `--eot 20` its version for random networks",
        paper="Croce and Hein 2020",
        default_steps=0,
        cost=3000,
        steps_are="",
        fixed_steps=True,
        can_average=True,
        sees_rounding=True,
        expensive=True,
        package="pyautoattack",
        eps_note="images without success stay clean",
    ),
)
BY_KIND = {attack.kind: attack for attack in ATTACKS}
WITH_RESTARTS = ", ".join(attack.kind for attack in ATTACKS if attack.can_restart)  # for texts

if TYPE_CHECKING:
    AttackKind = str
else:  # the choices of flags and recipes are the list's
    AttackKind = Literal[tuple(BY_KIND)]
