"""From the name of a source to the source."""

from collections.abc import Sequence
from pathlib import Path

from purifyctl import console
from purifyctl.errors import ConfigError
from purifyctl.sources.choice import Choice, described
from purifyctl.sources.local import LocalSource
from purifyctl.sources.remote import RemoteSource
from purifyctl.sources.source import ImageFile, Source
from purifyctl.sources.urls import is_url


def open_source(address: Path | str, *, skip_folder: Path | None = None) -> Source:
    """The source that a path names, also as file://, or a URL.

    Parameters
    ----------
    address
        A str may be a URL; a Path never is one.
    skip_folder
        A folder on this machine that is not entered: the output, if it lies inside the source.

    Raises
    ------
    ConfigError
        The URL is malformed, or fsspec knows no such protocol.
    MissingDependencyError
        The package for the URL's protocol is not installed.
    """
    text = str(address)
    if isinstance(address, Path) or not is_url(text):
        return LocalSource(Path(address), skip_folder)
    if text.lower().startswith(("file://", "local://")):  # so that it is kept apart from the output, as any path
        return LocalSource(Path(text.partition("://")[2]), skip_folder)
    return RemoteSource(text)


def list_images(
    source: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = (), skip_folder: Path | None = None
) -> list[ImageFile]:
    """Every input of a folder or file on this machine, sorted by path, as `run` takes them. It says what is left out.

    Raises
    ------
    ConfigError
        The source does not exist, cannot be listed, or holds no pictures.
    """
    choice = Choice(include, exclude)
    images = [one.as_image() for one in LocalSource(source, skip_folder).inputs(choice)]
    said = described(choice.left_out.facts())
    if not images:
        raise ConfigError(
            f"{source} holds no pictures{f' to take. Left out: {said}' if said else ''}.",
            hint="check the path and the globs",
        )
    if said:
        console.note_once(f"Left out of {source}: {said}.")
    return images
