"""What every part of a run shares: the yard, the number of rounds, and whom to tell."""

from collections.abc import Callable, Sequence

from measure import Sample, Spread
from msgspec import Struct
from rigs import Floor, Gateway, Subject, Upstream, Yard


class Stage:
    """A run under way.

    Args:
        yard: where it takes place.
        rounds: how often each comparison is made.
        say: told what is measured now.

    Attributes:
        capacity: requests a second that keymux answers, once that is measured.
    """

    def __init__(self, yard: Yard, rounds: int, say: Callable[[str], None]) -> None:
        self.yard = yard
        self.rounds = rounds
        self.say = say
        self.capacity = 0.0


class Compared(Struct, frozen=True):
    """The programs that are compared, all running, and what they have in front and behind.

    Attributes:
        behind: the upstream of both.
        floor: nginx.
        gateway: keymux.
    """

    behind: Upstream
    floor: Floor
    gateway: Gateway


class Round(Struct, frozen=True):
    """Subjects measured between two measurements of the floor."""

    before: Sample
    subjects: Sequence[Sample]
    after: Sample

    def floor(self, figure: Callable[[Sample], float]) -> float:
        """A figure of the floor: the mean of both measurements."""
        return (figure(self.before) + figure(self.after)) / 2


def rounds(
    stage: Stage,
    what: str,
    take: Callable[[Subject], Sample],
    floor: Subject,
    subjects: Sequence[Subject],
) -> list[Round]:
    """Measure subjects, each round between two measurements of the floor."""
    found = []
    for number in range(1, stage.rounds + 1):
        samples = []
        for subject in (floor, *subjects, floor):
            stage.say(f"{what}: {subject.name}, round {number} of {stage.rounds}")
            samples.append(take(subject))
        before, *between, after = samples
        found.append(Round(before, between, after))
    return found


def of_floor(found: Sequence[Round], figure: Callable[[Sample], float]) -> Spread:
    """A figure of the floor over all rounds."""
    return Spread.of([one.floor(figure) for one in found])


def of_subject(found: Sequence[Round], index: int, figure: Callable[[Sample], float]) -> Spread:
    """A figure of one subject over all rounds."""
    return Spread.of([figure(one.subjects[index]) for one in found])


def ratio(found: Sequence[Round], index: int, figure: Callable[[Sample], float]) -> Spread:
    """A figure of a subject divided by the floor's, round by round."""
    return Spread.of([figure(one.subjects[index]) / one.floor(figure) for one in found])


def added(found: Sequence[Round], index: int, figure: Callable[[Sample], float]) -> Spread:
    """A figure of a subject less the floor's, round by round."""
    return Spread.of([figure(one.subjects[index]) - one.floor(figure) for one in found])


def others(found: Sequence[Round]) -> float:
    """The highest share of the core under test that other programs took in a measurement."""
    return max(sample.others for one in found for sample in (one.before, *one.subjects, one.after))
