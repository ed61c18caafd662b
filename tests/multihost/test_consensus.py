"""What processes tell each other, in one process."""

import dataclasses

from podrl.experience.episodes import Episode, EpisodeWindow
from podrl.telemetry.episode_gatherer import EpisodeGatherer


@dataclasses.dataclass
class Member:
    """The part of a `Job` that gathering needs, with a dictionary for the coordination service."""

    process_index: int
    process_count: int
    post: dict

    def send(self, name, value):
        self.post[self.process_index, name] = value

    def receive(self, process, name, timeout_s):
        return self.post.pop((process, name))


def test_episodes_come_by_update_and_then_by_process():
    post = {}
    first, second = (EpisodeGatherer(Member(index, 2, post), window=10, timeout_s=1.0) for index in range(2))
    first.add(1, [Episode(1.0, 10)])
    first.add(2, [Episode(3.0, 30), Episode(4.0, 40, {"success": 1.0})])
    second.add(1, [Episode(2.0, 20, {"success": 0.1})])
    second.add(3, [Episode(5.0, 50)])
    assert second.gather() == ([], 0)
    assert first.gather() == (
        [
            *(Episode(1.0, 10), Episode(2.0, 20, {"success": 0.1}), Episode(3.0, 30)),
            *(Episode(4.0, 40, {"success": 1.0}), Episode(5.0, 50)),
        ],
        5,
    )
    second.add(4, [Episode(6.0, 60)])
    second.gather()
    assert first.gather() == ([Episode(6.0, 60)], 1)
    assert post == {}


def test_counts_of_all_processes_are_summed_also_those_that_are_zero():
    post = {}
    counts = [{"remote/refused": 0, "remote/bytes_in": 5}, {"remote/refused": 0, "remote/bytes_in": 7, "other": 1}]
    first, second = (
        EpisodeGatherer(Member(index, 2, post), 10, 1.0, lambda index=index: counts[index]) for index in (0, 1)
    )
    second.gather()
    first.gather()
    assert first.totals == {"remote/refused": 0, "remote/bytes_in": 12, "other": 1}
    counts[1]["remote/bytes_in"] = 8  # Counts are so far: the sum does not add up those of each call.
    second.gather()
    first.gather()
    assert first.totals["remote/bytes_in"] == 13


def test_of_more_episodes_than_the_window_holds_only_the_newest_travel():
    def window_after(every, size=7, updates=12):
        """The window of a job of two, gathered every so many updates."""
        post, window = {}, EpisodeWindow(size)
        members = [EpisodeGatherer(Member(index, 2, post), window=size, timeout_s=1.0) for index in range(2)]
        for update in range(1, updates + 1):
            for index, member in enumerate(members):
                member.add(update, [Episode(float(update), index)] * (1 + (update + index) % 3))
            if update % every == 0:
                members[1].gather()
                assert all(len(text) < 40 * size for text in post.values())
                newest, count = members[0].gather()
                window.add(newest, older=count - len(newest))
        return window.record()

    assert window_after(every=1) == window_after(every=12) == window_after(every=4)
