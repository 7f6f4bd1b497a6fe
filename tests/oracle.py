"""A naive replay buffer: every step ever written, as it came, in Python lists. Slow, and simple enough to believe.

`Oracle` adds to the real buffer and to itself. It works out which frames have to be stored, and which complete
windows there are; only how far eviction by bytes got it has to ask, and checks where it can.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from forms import copied, form_of, random_array, same_bits

from diffreplay import ReplayBuffer
from diffreplay.store.layout import Flag
from diffreplay.testing import TimeStep


@dataclass(eq=False)
class Step:
    """A step as it was added, and where its frames are."""

    number: int  # its action, too
    stack: Any  # (frame_stack * C, H, W), or a dict of arrays
    reward: float
    discount: float
    frames: list[int | None]  # rows of its frames; None is a frame of zeros
    previous: Step | None
    ends: bool = False  # its episode

    @property
    def row(self):
        return self.frames[-1]


class Oracle:
    """Mirrors `replay`, which must be new and take int64 actions of shape (1,); a step's action is its number."""

    def __init__(self, replay: ReplayBuffer) -> None:
        self.replay, self.store = replay, replay.store
        self.frame_stack, self.nstep = self.store.layout.frame_stack, replay.nstep
        self.form = form_of(replay)
        self.pass_on = lambda observation: observation  # how observations come to the buffer
        self.steps = 0  # written so far; a step's action is its number
        self.live: list[Step] = []  # those whose row counts
        self.newest: dict[Any, Step] = {}  # of each stream
        self.open: set[Any] = set()
        self.strays: Counter[Any] = Counter()  # transitions in a row of a stream that did not follow the one before
        self.searches: set[Any] = set()  # streams of which the store looks for observations further back
        self.stand_ins: set[int] = set()  # rows that it wrote without a frame, as that is stored further back
        self.tail = 0  # the oldest row, if capacity alone makes rows leave
        self.known_tail = 0  # the oldest row when the last step was complete

    # Writing.

    def write(self, call):
        """Make a call that changes the real buffer; a test may have it interrupted."""
        call()

    def add(self, stack, reward=0.0, discount=1.0, *, first=False, last=False, stream=0):
        """Add a dm_env style step to both."""
        self._evict(first)
        head, action = self.store.head, np.array([self.steps])
        extras, given = self.extras(self.steps), self.pass_on(stack)
        self.write(lambda: self.replay.add(TimeStep(given, action, reward, discount, first, last), stream, extras))
        self._record(stack, reward, discount, stream, first, head)
        self._close(stream, last)
        self.check()

    def add_transition(self, obs, reward, next_obs, terminated=False, truncated=False, stream=0):
        """Add a Gymnasium style transition to both."""
        head = self.store.head
        goes_on = stream in self.open and self.newest[stream].row >= self.store.tail
        anew = not goes_on or not self._same(obs, self.newest[stream].stack)
        if goes_on:
            self.strays[stream] = self.strays[stream] + 1 if anew else 0
            if self.strays[stream] == 2 and self.replay.nstep == 1:
                self.searches.add(stream)
        action = np.array([self.steps + anew])
        if not anew or stream in self.searches:
            self._evict(False)
        extras, given, then = self.extras(self.steps + anew), self.pass_on(obs), self.pass_on(next_obs)
        self.write(
            lambda: self.replay.add_transition(given, action, reward, then, terminated, truncated, stream, extras)
        )
        discount = 0.0 if terminated else 1.0
        before = int(self.store.previous_steps(np.array([self.store.head - 1]))[0])
        again = not anew and before >= head  # its first step left as room was made for the second, or was about to
        assert again or anew or self.newest[stream].row >= self.tail
        if stream in self.searches:
            self._record_found(obs, reward, discount, next_obs, stream, anew, head)
        else:
            if again:
                head = self._record_lone(obs, next_obs, reward, discount, stream, before, head)
            if anew or again:
                head = self._record(obs, 0.0, 1.0, stream, True, head)
                self._evict(False)
                self.steps -= again  # as the action tells
            self._record(next_obs, reward, discount, stream, False, head)
        self._close(stream, terminated or truncated)
        self.check()

    def extras(self, number):
        """The further values of a step; None where the buffer has none."""
        rng = np.random.default_rng(number)
        return {name: random_array(spec, rng) for name, spec in self.replay.extras.items()} or None

    def _close(self, stream, last):
        self.newest[stream].ends = last
        (self.open.discard if last else self.open.add)(stream)

    def _evict(self, first):
        """What capacity alone makes leave before a step comes that is not a first one."""
        while not first and self._transitions(self.tail) >= self.replay.capacity:
            self.tail += 1

    def _record(self, stack, reward, discount, stream, first, head):
        """Note a step that was added when `head` rows were there; return how many there are now."""
        previous = self.newest.get(stream)
        if not first and previous.row < self.store.tail:
            # Its predecessor was evicted before or while it was written: only the store knows which.
            row = head + self.frame_stack - 1
            flags = [int(self.store.column("flags", np.array([r]))[0]) for r in (head, row)]
            first = bool(flags[0] & Flag.FIRST or (self.store.head > row and flags[1] & Flag.FIRST))
            assert first or previous.row >= max(self.tail, self.known_tail), "a step linked to one that was gone"
        if first and previous is not None:
            previous.ends = True
        frames = self._frames(stack, None if first else previous, head)
        step = Step(self.steps, copied(stack), reward, discount, frames, None if first else previous)
        self.newest[stream] = step
        self.live.append(step)
        self.steps += 1
        return step.row + 1

    def _record_lone(self, obs, next_obs, reward, discount, stream, before, head):
        """Note a second step whose first one left as it was written, if it was: both follow again.

        The first one is at row `before` now. There were `head` rows when the transition came; return how many then.
        """
        rows = max(row for row in self._frames(obs, None, 0) if row is not None) + 1
        if before - rows + 1 == head:
            return head
        head = self._record(next_obs, reward, discount, stream, False, head)
        self.steps -= 1
        return head

    def _record_found(self, obs, reward, discount, next_obs, stream, anew, head):
        """Note a transition whose frames may have been found further back, which only the store knows.

        That its rows hold what they should is compared when they are sampled.
        """
        store, steps = self.store, []
        row = store.head - 1
        before = int(store.previous_steps(np.array([row]))[0])
        known = [step for step in self.live if step.row == before]
        assert (before < head) == bool(known), "a step follows one that never was"
        if known:
            previous = known[0]
            assert self._same(previous.stack, obs), "a step follows one that shows something else"
            assert not any(step.previous is previous for step in self.live), "two steps follow one"
            self.steps += anew  # as the action tells
        else:
            previous = Step(self.steps, copied(obs), 0.0, 1.0, self._rows_of(before), None)
            steps.append(previous)
            self.steps += 1
        if stream in self.newest and self.newest[stream] is not previous:
            self.newest[stream].ends = True
        steps.append(Step(self.steps, copied(next_obs), reward, discount, self._rows_of(row), previous))
        self.steps += 1
        self.stand_ins |= set(range(head, row + 1)) - {row for step in steps for row in step.frames}
        self.live += steps
        self.newest[stream] = steps[-1]

    def _rows_of(self, row):
        return [None if r < 0 else r for r in self.store.stacks(np.array([row]))[0].tolist()]

    def _frames(self, stack, previous, head):
        f, (*older, newest) = self.frame_stack, self.form.bits(stack)
        if previous is not None:
            if older == self.form.bits(previous.stack)[1:]:
                return [*previous.frames[1:], head]
        elif all(frame == newest for frame in older):
            return [head] * f
        elif not any(map(any, older)):
            return [None] * (f - 1) + [head]
        return list(range(head, head + f))

    def _same(self, one, other):
        return self.form.bits(one) == self.form.bits(other)

    # Checking.

    def _transitions(self, tail):
        return sum(step.previous is not None and step.previous.row >= tail for step in self.live)

    def check(self):
        """Everything that can be compared without sampling."""
        tail, head = self.store.tail, self.store.head
        assert not self.live or head == self.live[-1].row + 1, "not the expected number of rows"
        self.known_tail = tail
        self.live = [step for step in self.live if step.row >= tail]
        if self.replay.store.max_bytes is None and self.store.codec.reference != "frame":
            assert tail == self.tail
        else:
            self.tail = max(tail, self.tail)
            assert tail >= self.tail
        assert len(self.replay) == self._transitions(tail) <= self.replay.capacity
        stats = self.replay.stats()
        self.stand_ins = {row for row in self.stand_ins if row >= tail}
        assert (stats.transitions, stats.frames) == (len(self.replay), head - tail - len(self.stand_ins))
        assert self.store.max_bytes is None or stats.total_bytes <= self.store.max_bytes
        self.replay.check_invariants()

    def windows(self):
        """The steps (n + 1, or fewer up to an episode's end) of each complete window, by the number of its action."""
        windows = {}
        for step in self.live:
            steps = [step]
            while len(steps) <= self.nstep and steps[0].previous is not None:
                steps.insert(0, steps[0].previous)
                full = len(steps) == self.nstep + 1
                if (full or (self.replay.shorter_at_end and step.ends)) and self._held(steps):
                    windows[steps[1].number] = list(steps)
        return windows

    def sequences(self, length):
        """The steps of each sequence, and the one that ends it, by the row of the first step."""
        following = {step.previous: step for step in self.live if step.previous is not None}
        sequences = {}
        for first in self.live:
            if first in following and self._held([first, following[first]]):
                sequences[first.row] = steps = [first]
                while len(steps) <= length and steps[-1] in following:
                    steps.append(following[steps[-1]])
        return sequences

    def is_whole(self, step):
        """Whether all frames of a step's observation can be read."""
        rows = np.array([row for row in step.frames if row is not None])
        return self.store.oldest_needed(rows).min() >= self.store.tail

    def _held(self, steps):
        rows = [row for step in (steps[0], steps[-1]) for row in step.frames if row is not None]
        rows += [step.row for step in steps]
        return self.store.oldest_needed(np.array(rows)).min() >= self.store.tail

    def check_batch(self, batch):
        """Compare every value of a batch; return the numbers of the actions in it."""
        windows = self.windows()
        numbers = batch.action.numpy()[:, 0]
        incomplete = set(numbers.tolist()) - set(windows)
        assert not incomplete, f"the windows of actions {incomplete} are not complete"
        drawn = [windows[number] for number in numbers.tolist()]
        assert batch.index.tolist() == [steps[0].row for steps in drawn]
        returns = np.array([self._returns(steps) for steps in drawn])
        self._check_observations("obs", batch.obs, [steps[0].stack for steps in drawn])
        self._check_observations("next_obs", batch.next_obs, [steps[-1].stack for steps in drawn])
        extras = [self.extras(number) for number in numbers.tolist()]
        assert set(batch.extras) == set(self.replay.extras)
        for name, values in batch.extras.items():
            assert same_bits(values, np.stack([its[name] for its in extras])), f"extras[{name!r}] differs"
        reward, discount = batch.reward.numpy(), batch.discount.numpy()
        np.testing.assert_allclose(reward, returns[:, :1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(discount, returns[:, 1:], rtol=1e-5, atol=1e-6)
        return numbers

    def check_sequences(self, batch):
        """Compare every value of a batch of sequences; return the rows of their first steps."""
        count, length = batch.mask.shape
        sequences, starts = self.sequences(length), batch.index.tolist()
        assert not set(starts) - set(sequences), "sequences of which not all is there"
        for b, start in enumerate(starts):
            *steps, end = sequences[start]
            there = len(steps)
            assert batch.mask[b].tolist() == [True] * there + [False] * (length - there)
            expected = {
                "action": [[step.number] for step in [*steps[1:], end]],
                "reward": [step.reward for step in [*steps[1:], end]],
                "discount": [step.discount for step in [*steps[1:], end]],
                "terminated": [step.discount == 0 for step in [*steps[1:], end]],
                "is_first": [step.previous is None for step in steps],
            }
            for name, values in expected.items():
                found = getattr(batch, name)[b].numpy()
                assert same_bits(found[:there], np.array(values, found.dtype)), f"{name} differs"
                assert not found[there:].any(), f"{name} past the end"
            for name, values in batch.extras.items():
                its = [self.extras(step.number)[name] for step in [*steps[1:], end]]
                assert same_bits(values[b, :there], np.stack(its)), f"extras[{name!r}] differs"
                assert not values[b, there:].numpy().any()
            shown = [step.stack for step in steps] + [end.stack] * (there < length)
            observations = batch.obs if not self.form.is_plain else {"": batch.obs}
            assert all(values.shape[:2] == (count, length) for values in observations.values())
            part = {name: values[b, : len(shown)] for name, values in observations.items()}
            self._check_observations("obs", part.get("", part), shown)
        return starts

    def _check_observations(self, what, found, stacks):
        found = {"": found} if self.form.is_plain else found
        assert list(found) == [part.name for part in self.replay.parts] and set(found) == set(self.form.specs)
        expected = [self.form.sampled(stack) for stack in stacks]
        for name, values in found.items():
            assert same_bits(values, np.stack([its[name] for its in expected])), f"{what} {name!r} differs"

    def _returns(self, steps):
        """n-step reward and discount of a window, as the loop that defines them."""
        reward, factor = 0.0, 1.0
        for step in steps[1:]:
            reward += factor * step.reward
            factor *= step.discount * self.replay.discount
        return reward, factor
