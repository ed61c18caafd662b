"""What processes tell each other, in one process."""

import dataclasses

from podrl.experience.episodes import EpisodeWindow
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
    first.add(1, [(1.0, 10)])
    first.add(2, [(3.0, 30), (4.0, 40)])
    second.add(1, [(2.0, 20)])
    second.add(3, [(5.0, 50)])
    assert second.gather() == ([], 0)
    assert first.gather() == ([(1.0, 10), (2.0, 20), (3.0, 30), (4.0, 40), (5.0, 50)], 5)
    second.add(4, [(6.0, 60)])
    second.gather()
    assert first.gather() == ([(6.0, 60)], 1)
    assert post == {}


def test_of_more_episodes_than_the_window_holds_only_the_newest_travel():
    def window_after(every, size=7, updates=12):
        """The window of a job of two, gathered every so many updates."""
        post, window = {}, EpisodeWindow(size)
        members = [EpisodeGatherer(Member(index, 2, post), window=size, timeout_s=1.0) for index in range(2)]
        for update in range(1, updates + 1):
            for index, member in enumerate(members):
                member.add(update, [(float(update), index)] * (1 + (update + index) % 3))
            if update % every == 0:
                members[1].gather()
                assert all(len(text) < 40 * size for text in post.values())
                newest, count = members[0].gather()
                window.add([total for total, _ in newest], [length for _, length in newest], older=count - len(newest))
        return window.record()

    assert window_after(every=1) == window_after(every=12) == window_after(every=4)
