"""A process that knows nothing of this one, unlike those of multiprocessing: it runs what it is sent."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Foreign:
    """Runs Python in a process of its own, which a `with` ends.

    Args:
        environment: further variables of it.
        before: runs in the process before it becomes another program.
    """

    def __init__(self, environment: dict[str, str] | None = None, before: Any = None) -> None:
        path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path} | (environment or {}),
            preexec_fn=before,
        )

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def send(self, source: str, **names: Any) -> None:
        """Have it run `source`, where `names` stand for values, which plain pickle takes there."""
        assert self.process.stdin is not None
        pickle.dump((source, pickle.dumps(names)), self.process.stdin)
        self.process.stdin.flush()

    def answer(self) -> Any:
        """What it called `answer`; raises what it raised."""
        assert self.process.stdout is not None
        answer = pickle.load(self.process.stdout)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def run(self, source: str, **names: Any) -> Any:
        """Send, and wait for the answer."""
        self.send(source, **names)
        return self.answer()

    def kill(self) -> None:
        """Kill it, by a signal that it does not hear."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Let it end by itself; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(200)

    def __enter__(self) -> Foreign:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def main() -> None:
    commands, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed disturbs no answer
    names: dict[str, Any] = {}
    while True:
        try:
            source, pickled = pickle.load(commands)
        except EOFError:
            return
        names["answer"] = None
        try:
            names |= pickle.loads(pickled)
            exec(source, names)
            answer = pickle.dumps(names["answer"])
        except SystemExit:  # a child that was forked ends
            raise
        except BaseException as error:
            answer = pickle.dumps(error)
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    main()
