"""Photographs on their way into a training: held out, cut, attacked once, left out where they cannot be read."""

from contextlib import closing
from pathlib import Path

import pytest
import torch

from purifyctl.errors import TrainingError
from purifyctl.sources import list_images
from purifyctl.training.batches import TrainingBatches, split
from purifyctl.training.cache import AttackCache
from tests.tiny_training import ALONE


def test_held_out_photographs_stay_held_out_when_others_are_added(photos: Path) -> None:
    files = list_images(photos)
    training, held_out = split(files, 0.3, seed=0)
    assert len(held_out) == 3
    assert {*training, *held_out} == set(files)
    assert not set(training) & set(held_out)
    again = split(files[:-1], 0.3, seed=0)[1]
    assert len(set(again) & set(held_out)) >= 2


def test_cached_attacks_are_made_once_and_for_the_crop_that_is_shown(photos: Path, tmp_path: Path) -> None:
    files = list_images(photos)
    batches = TrainingBatches(files, batch_size=5, resize=48, crop=32, seed=0, variants=2)
    seen: dict[int, bytes] = {}
    with closing(batches.from_step(0)) as stream:
        for _ in range(5 * batches.steps_per_epoch):
            batch = next(stream)
            for place, crop in zip(batch.places, batch.x, strict=True):
                assert seen.setdefault(place, crop.numpy().tobytes()) == crop.numpy().tobytes()
    assert sorted(seen) == list(range(2 * len(files)))
    made = []
    cache = AttackCache(tmp_path / "cache", 4, 32, "ours", ALONE)

    def make() -> torch.Tensor:
        made.append(1)
        return torch.full((2, 3, 32, 32), 7 / 255)

    for _ in range(3):
        assert torch.equal(cache.get([1, 3], make) * 255, torch.full((2, 3, 32, 32), 7.0))
    assert made == [1]
    again = AttackCache(tmp_path / "cache", 4, 32, "ours", ALONE)
    assert torch.equal(again.get([3], make) * 255, torch.full((1, 3, 32, 32), 7.0))
    assert made == [1]
    again.get([3, 0], lambda: torch.zeros(2, 3, 32, 32))  # one is missing: the other stays
    assert torch.equal(again.get([3], make) * 255, torch.full((1, 3, 32, 32), 7.0))
    for places, digest in ((5, "ours"), (4, "another's")):
        with pytest.raises(TrainingError, match="another recipe"):
            AttackCache(tmp_path / "cache", places, 32, digest, ALONE)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_photographs_that_cannot_be_read_give_their_place_to_others(photos: Path, batch_size: int) -> None:
    (photos / "cats" / "bad.jpg").write_bytes(b"not a photograph")
    (photos / "bad.png").write_text("nor this")
    files = list_images(photos)
    bad = {"cats/bad.jpg", "bad.png"}
    batches = TrainingBatches(files, batch_size=batch_size, resize=48, crop=32, seed=0, variants=1)
    with closing(batches.from_step(0)) as stream:
        for _ in range(2 * len(files) // batch_size):
            batch = next(stream)
            assert batch.x.shape == (batch_size, 3, 32, 32)
            assert not {str(files[photograph].path) for photograph in batch.places} & bad
    assert set(batches.unreadable) == bad
    assert all("no readable image header" in why for why in batches.unreadable.values())


def test_photographs_that_are_kept_in_memory_make_the_same_batches(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for kept in (0, 3, 1000):  # photographs
        monkeypatch.setattr("purifyctl.training.batches.KEPT_BYTES", kept * 3 * 48**2)
        batches = TrainingBatches(list_images(photos), batch_size=4, resize=48, crop=32, seed=0)
        with closing(batches.from_step(0)) as stream:
            found.append([next(stream) for _ in range(6)])
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert one.places == other.places
            assert torch.equal(one.x, other.x)
