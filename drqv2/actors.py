"""Environments in Ray actors, which collect steps for one learner: what an actor does, and who tells it to.

The learner gives an actor a round: so many steps, with the newest weights. While the actors play, it makes the updates
of the rounds that are done: as many a step as in a process alone. An actor is at most a round ahead of them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import torch

from diffreplay.distributed import ReplayWriter, Service
from diffreplay.errors import ReplayError
from drqv2.policy import Policy
from runs.errors import OptionError

ROUND_STEPS = 25  # agent steps
MOST_FAILURES, RETRY_SECONDS = 240, 0.5  # in a row, and between two, of an actor that is being started again
TELL_SECONDS = 60.0  # without a round that ends

MakeEnvironment = Callable[[int], Any]  # by its seed
MakePolicy = Callable[[int], Policy]


class Episode(NamedTuple):
    """An episode that has ended: the undiscounted sum of its rewards, and its agent steps."""

    reward: float
    steps: int


class Collected(NamedTuple):
    """What came of a round: steps, which are in the buffer; episodes that ended; and what is to be told."""

    steps: int
    episodes: list[Episode]
    messages: list[str]


class EnvironmentActor:
    """Plays in an environment of its own, and adds what it sees to a shard.

    Args:
        number: of the actor; each has environments and noise of its own.
        make_environment: makes the environment.
        make_policy: makes the policy.
        seed: of the run.
    """

    def __init__(self, number: int, make_environment: MakeEnvironment, make_policy: MakePolicy, seed: int) -> None:
        torch.set_num_threads(1)  # there are more actors than cores
        self._make_environment, self._make_policy = make_environment, make_policy
        self._number, self._seed = number, seed
        self._env: Any = None
        self._time_step: Any = None
        self._reward, self._steps = 0.0, 0

    def collect(self, service: Service, step: int, steps: int, weights: np.ndarray) -> Collected:
        """Play a round, and have the shard store it.

        Args:
            service: the shard.
            step: agent step of the run that it begins at, which the exploration depends on.
            steps: how many.
            weights: of the policy, as of `Policy.weights`.
        """
        if self._env is None:
            # One that takes the place of an actor that died begins at a later step, and so with another seed.
            self._writer: ReplayWriter = service.writer(f"actor-{self._number}")
            seeds = np.random.SeedSequence([self._seed, self._number, step]).generate_state(2)
            self._env = self._make_environment(int(seeds[0]))
            self._policy = self._make_policy(int(seeds[1]))
        self._policy.take_weights(weights)
        episodes: list[Episode] = []
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("default", RuntimeWarning)
            for k in range(steps):
                episodes += self._step(step + k)
            self._writer.flush()
        of_writer = dict.fromkeys(text for each in warned if (text := str(each.message)).startswith("writer "))
        return Collected(steps, episodes, [f"actor {self._number}: {text}" for text in of_writer])

    def _step(self, step: int) -> list[Episode]:
        """Play one step; the episode that ended with it."""
        if self._time_step is None or self._time_step.last():
            self._time_step = self._env.reset()
            self._writer.add(self._time_step)
            self._reward, self._steps = 0.0, 0
        action = self._policy.act(self._time_step.observation, step, evaluate=False)
        self._time_step = self._env.step(action)
        self._writer.add(self._time_step)
        self._reward += float(self._time_step.reward)
        self._steps += 1
        return [Episode(self._reward, self._steps)] if self._time_step.last() else []


class Actors:
    """All actors of a run, as the learner sees them.

    Args:
        count: how many.
        make_environment: makes an environment from its seed; it and the next go to other processes.
        make_policy: makes a policy like the agent's from a seed.
        service: the shards that they add to.
        seed: of the run.
    """

    def __init__(
        self, count: int, make_environment: MakeEnvironment, make_policy: MakePolicy, service: Service, seed: int
    ) -> None:
        self._ray: Any = import_module("ray")
        made = self._ray.remote(EnvironmentActor).options(
            # Next to nothing, as Ray's count of processors says little of how long a rendering takes; but with nothing
            # at all Ray would not spread them.
            num_cpus=0.01,
            max_restarts=-1,
            scheduling_strategy="SPREAD",
        )
        self._actors = [made.remote(k, make_environment, make_policy, seed) for k in range(count)]
        self._idle = list(range(count))
        self._under_way: dict[Any, tuple[int, int]] = {}  # actor and steps of each round
        self._service = service
        self._failures = [0] * count  # of each actor, in a row

    def next(self, policy: Policy, step: int, limit: int) -> Collected:
        """Wait for the first round that is done. Idle actors are given rounds before and after.

        Args:
            policy: whose weights the actors get.
            step: agent steps of the run that were collected.
            limit: that are to be collected in all for now; no round goes beyond.

        Raises:
            OptionError: an actor cannot play.
        """
        self._give_rounds(policy, step, limit)
        done, _ = self._ray.wait([*self._under_way], num_returns=1, timeout=TELL_SECONDS)
        if not done:
            told = f"no actor has ended its round for {TELL_SECONDS:.0f} s; `ray status` tells whether they run"
            return Collected(0, [], [told])
        number, _ = self._under_way.pop(done[0])
        self._idle.append(number)
        try:
            collected: Collected = self._ray.get(done[0])
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OptionError | ReplayError):
                raise OptionError(f"actor {number}: {error.cause}") from None
            raise
        except self._ray.exceptions.RayError as error:
            return self._died(number, error)
        self._failures[number] = 0
        self._give_rounds(policy, step + collected.steps, limit)  # so that it plays on while the learner learns
        return collected

    def _give_rounds(self, policy: Policy, step: int, limit: int) -> None:
        weights = None
        for number in self._idle[:]:
            begin = step + sum(steps for _, steps in self._under_way.values())
            steps = min(ROUND_STEPS, limit - begin)
            if steps <= 0:
                return
            weights = self._ray.put(policy.weights()) if weights is None else weights
            round_ = self._actors[number].collect.remote(self._service, begin, steps, weights)
            self._idle.remove(number)
            self._under_way[round_] = number, steps

    def _died(self, number: int, error: Exception) -> Collected:
        """Nothing came of a round; Ray starts the actor again.

        Raises:
            OptionError: it does not come back.
        """
        self._failures[number] += 1
        told = str(error).strip().splitlines() or [repr(error)]
        if self._failures[number] == 1:
            return Collected(
                0, [], [f"actor {number} died and is started again: its episode was cut ({told[0][:200]})"]
            )
        is_dead = isinstance(error, self._ray.exceptions.ActorDiedError)
        if is_dead or self._failures[number] > MOST_FAILURES:
            raise OptionError(
                f"actors={len(self._actors)}: expected actor {number} to come back after its process died, but it does "
                f"not ({told[-1][:300]}); look whether there is memory for so many, and into Ray's logs"
            )
        time.sleep(RETRY_SECONDS)
        return Collected(0, [], [])

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._under_way, self._idle = [], {}, []
