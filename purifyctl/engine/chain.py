"""The chain: purifier and classifier, run one after the other on a batch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from purifyctl.engine.backends import Batch, Runner
from purifyctl.engine.bundle import Bundle


@dataclass(frozen=True)
class Chain:
    """Open networks of one bundle, in one of three forms: purifier and classifier as two graphs; both fused in one; or
    only the purifier.

    `run` takes a batch through both. `purify` and `classify` do so in two steps, so that something else can start in
    between, such as encoding:

        purified, probabilities = chain.purify(images)
        ...  # the purified images are ready
        if probabilities is None:
            probabilities = chain.classify(purified)

    To classify images that were not purified, the chain needs two graphs:
    `open_chain(bundle, bundle.chain(apart=True))`. Several threads may use a chain.
    """

    runners: Mapping[str, Runner]  # by name: `fused`, or `purifier` with or without `classifier`

    @property
    def fused(self) -> bool:
        """Whether one graph gives both the purified images and their probabilities."""
        return "fused" in self.runners

    @property
    def purifier(self) -> Runner:
        """The graph that purifies. A fused one also gives the probabilities."""
        return self.runners["fused" if self.fused else "purifier"]

    @property
    def classifier(self) -> Runner | None:
        """The graph that only classifies; None: the chain is fused, or only purifies."""
        return self.runners.get("classifier")

    @property
    def device_id(self) -> int | None:
        """The GPU whose memory batches should lie in; None: host memory."""
        return self.purifier.device_id

    @property
    def concurrency(self) -> int:
        """Threads that keep the device busy."""
        return self.purifier.concurrency

    def purify(self, images: Batch) -> tuple[Batch, Batch | None]:
        """Purify a batch.

        Parameters
        ----------
        images
            RGB uint8 [n, H, W, 3].

        Returns
        -------
        purified, probabilities
            RGB uint8 [n, H, W, 3]; and their class probabilities [n, classes] if the chain is fused, otherwise None.
        """
        if self.fused:
            purified, probabilities = self.purifier.infer(images)
            return purified, probabilities
        (purified,) = self.purifier.infer(images)
        return purified, None

    def classify(self, images: Batch) -> Batch | None:
        """Class probabilities [n, classes] of a batch, purified or not; None: the chain has no classifier.

        Raises
        ------
        ValueError
            The chain is fused: its graph classifies only what it has purified.
        """
        if self.fused:
            raise ValueError("a fused chain classifies only what it has purified")
        return self.classifier.infer(images)[0] if self.classifier is not None else None

    def run(self, images: Batch) -> tuple[Batch, Batch | None]:
        """Purify a batch, then classify what was purified.

        Returns
        -------
        purified, probabilities
            RGB uint8 [n, H, W, 3]; [n, classes], or None if the chain has no classifier.
        """
        purified, probabilities = self.purify(images)
        return purified, probabilities if self.fused else self.classify(purified)


@contextmanager
def open_chain(
    bundle: Bundle, networks: Sequence[str] | None = None, *, batch_size: int | None = None
) -> Iterator[Chain]:
    """Open a bundle's chain on this machine.

    Parameters
    ----------
    networks
        As `bundle.chain` names them; None: all that it names by default.
    batch_size
        The most images of one batch; None: the bundle's own number.

    Raises
    ------
    BundleError, BackendError
        The bundle is not trusted, or does not run here.
    """
    names = bundle.chain() if networks is None else networks
    with ExitStack() as stack:
        yield Chain({name: stack.enter_context(bundle.open(name, batch_size)) for name in names})
