"""Shards as Ray actors on a real cluster of two nodes: writers in actors, a learner, and kills."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from numbered_actor import OPTIONS, SHAPE, Actor, check_batch

from diffreplay import distributed
from diffreplay.errors import InputError, ReplayError

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # so that Ray keeps to 127.0.0.1; it is read at the import
ray = pytest.importorskip("ray")
KILLS = int(os.environ.get("DIFFREPLAY_KILLS", "6"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of Ray on this machine; the driver is on the first."""
    from ray.cluster_utils import Cluster

    here = {"num_cpus": 8, "node_ip_address": "127.0.0.1"}
    made = Cluster(initialize_head=True, head_node_args=here | {"include_dashboard": False})
    made.add_node(**here)
    environment = {
        "env_vars": {
            "PYTHONPATH": os.pathsep.join(
                [os.path.dirname(os.path.dirname(__file__)), os.environ.get("PYTHONPATH", "")]
            )
        }
    }
    ray.init(address=made.address, runtime_env=environment, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


class Collector:
    """Runs an `Actor` over a service's writer, in a process of its own."""

    def __init__(self, service: Any, number: int, begin: int) -> None:
        self.writer = service.writer(f"actor-{number}", chunk_steps=20)
        self.actor = Actor(number, self.writer, begin)

    def run(self, count: int) -> int:
        self.actor.run(count)
        return self.actor.steps

    def flush(self) -> None:
        self.writer.flush()

    def pid(self) -> int:
        return os.getpid()


def collector(service: Any, number: int, begin: int = 0) -> Any:
    return ray.remote(Collector).options(num_cpus=1, max_restarts=0).remote(service, number, begin)


def test_batches_of_two_shards_one_of_them_elsewhere(cluster: Any, tmp_path: Any) -> None:
    service = distributed.start(20_000, SHAPE, (2,), shards=2, directory=tmp_path, **OPTIONS)
    collectors = []
    for k in range(4):  # one after the other, so that each finds the shard with fewer writers
        collectors.append(collector(service, k))
        ray.get(collectors[-1].run.remote(500))
    ray.get([each.flush.remote() for each in collectors])
    stats = service.stats()
    assert sum(each["transitions"] for each in stats) == 4 * 500
    assert all(each["transitions"] for each in stats), "writers went to both shards"
    loader = service.loader(batch_size=64)
    seen, sources = set(), []
    for _ in range(100):
        batch = next(loader)
        seen |= check_batch(batch, may_repeat=True)
        sources += batch.source.tolist()
    assert len(seen) > 0.9 * 2000
    share = stats[1]["transitions"] / 2000
    assert abs(sum(sources) / len(sources) - share) < 5 * (share * (1 - share) / len(sources)) ** 0.5
    for each in stats:
        sent, coded = each["bytes_in"] + each["bytes_out"], each["payload_bytes"] + each["scalar_bytes"]
        assert sent < 2 * coded, "frames cross the network coded"
    service.save()
    with pytest.raises(InputError, match="one shard, on the learner's machine"):
        service.loader(num_workers=2)
    service.close()
    again = distributed.start(20_000, SHAPE, (2,), shards=2, directory=tmp_path, **OPTIONS)
    assert [each["transitions"] for each in again.stats()] == [each["transitions"] for each in stats]
    again.close()


def test_a_named_service_is_found_by_another_process(cluster: Any) -> None:
    service = distributed.start(1000, SHAPE, (2,), name="found", **OPTIONS)
    writer = distributed.connect("found").writer("one")
    writer.flush()
    with pytest.raises(ReplayError, match="got 'nowhere'"):
        distributed.connect("nowhere")
    loader = service.loader(8, num_workers=0, sequence_length=4)
    assert loader is not None
    service.close()


def test_actors_and_a_shard_are_killed_at_random(cluster: Any, tmp_path: Any) -> None:
    service = distributed.start(20_000, SHAPE, (2,), shards=2, directory=tmp_path, save_every=0.5, **OPTIONS)
    chance, begins = random.Random(0), [0] * 4
    collectors = [collector(service, k) for k in range(4)]
    pids = ray.get([each.pid.remote() for each in collectors])
    loader = service.loader(batch_size=32)
    for _ in range(KILLS):
        work = [each.run.remote(60) for each in collectors]
        check_batch(next(loader), may_repeat=True)
        victim = chance.randrange(5)
        os.kill(service.stats()[1]["pid"] if victim == 4 else pids[victim], signal.SIGKILL)
        check_batch(next(loader), may_repeat=True)
        for k, reference in enumerate(work):
            with suppress(ray.exceptions.RayActorError):
                begins[k] = ray.get(reference)
            if k == victim:
                begins[k] += 1000
                collectors[k] = collector(service, k, begins[k])
                pids[k] = ray.get(collectors[k].pid.remote())
    ray.get([each.flush.remote() for each in collectors])
    for _ in range(20):
        check_batch(next(loader), may_repeat=True)
    total = 0
    for number, each in enumerate(service.stats()):
        total += each["transitions"]
        assert each["transitions"] > 0, f"shard {number}"
    assert total <= sum(begins)
    service.close()


def test_without_a_cluster_it_is_said_what_to_do() -> None:
    if ray.is_initialized():
        pytest.skip("a cluster of another test is there")
    with pytest.raises(ReplayError, match=r"call ray\.init\(\) first"):
        distributed.start(100, SHAPE, (2,), **OPTIONS)
    with pytest.raises(ReplayError, match=r"call ray\.init\(\) first"):
        distributed.connect("any")
