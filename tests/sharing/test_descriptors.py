"""Who may have a descriptor, and what becomes of those who ask for one in another way than this library does."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import threading
import time
from contextlib import ExitStack

import pytest
from foreign import Foreign
from processes import open_files
from says import says
from together import run_together

from diffreplay import ReplayBuffer
from diffreplay.errors import SharedMemoryError
from diffreplay.sharing import descriptors
from tests.sharing.test_handle import filled, root

WRITING = (
    "from tests.sharing.test_handle import filled\nreplay = filled()\nanswer = replay.handle(), replay._server.address"
)


@pytest.fixture
def given(tmp_path):
    """A file's descriptor, given away by this process, and where."""
    (tmp_path / "file").write_text("what is given away")
    with open(tmp_path / "file") as file:
        server = descriptors.DescriptorServer(file.fileno(), file)
        yield server.address
        server.close()


def read(address):
    with open(descriptors.take(address)) as file:
        return os.pread(file.fileno(), 100, 0).decode()


def path(address):
    return f"{address.folder}/{descriptors.NAME}"


def connect(address):
    client = socket.socket(socket.AF_UNIX)
    client.connect(path(address))
    return client


def test_a_descriptor_is_given_away_as_often_as_it_is_asked_for(given):
    before = open_files()
    for _ in range(200):
        assert read(given) == "what is given away"
    assert open_files(before) == before


def test_no_child_inherits_it(given):
    fd = descriptors.take(given)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_who_says_nothing_keeps_nobody_waiting(given):
    before = open_files()
    with ExitStack() as clients:
        for _ in range(300):
            clients.enter_context(connect(given))
        assert read(given) == "what is given away"
        assert open_files(before + 300) == before + 300, "all of them ours"
    assert open_files(before) == before


def send(client):
    """Far more than the socket's memory holds, to somebody who reads nothing."""
    try:
        for _ in range(1000):
            client.sendall(b"GET / HTTP/1.1\r\n" * 1000)
    except OSError:
        pass


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def send_descriptors(client):
    try:
        with open("/dev/null") as file:
            socket.send_fds(client, [b"take these"], [file.fileno()] * 100)
    except OSError:
        pass


@pytest.mark.parametrize("misbehave", [send, reset, send_descriptors, lambda client: None])
def test_garbage_and_going_at_once(given, misbehave):
    before = open_files()

    def ask():
        for _ in range(100):
            with connect(given) as client:
                misbehave(client)

    run_together(*[ask] * 4, *[lambda: [read(given) for _ in range(50)]] * 2)
    assert read(given) == "what is given away"
    assert open_files(before) == before


def test_no_signal_of_a_broken_pipe_ends_the_process():
    """A program may want to end by it, as command lines do."""
    with Foreign() as writer:
        _, address = writer.run("import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n" + WRITING)
        os.kill(writer.pid, signal.SIGSTOP)
        for _ in range(50):
            connect(address).close()
        os.kill(writer.pid, signal.SIGCONT)
        assert writer.run("answer = len(replay)") == 40


def test_a_full_queue_is_waited_for_and_a_stopped_process_given_up(monkeypatch):
    with Foreign() as writer:
        handle, address = writer.run(WRITING)
        os.kill(writer.pid, signal.SIGSTOP)
        with pytest.raises(BlockingIOError):
            while True:
                with socket.socket(socket.AF_UNIX) as client:
                    client.setblocking(False)
                    client.connect(path(address))
        with monkeypatch.context() as shorter:
            shorter.setattr(descriptors, "ANSWER_SECONDS", 0.2)
            with pytest.raises(SharedMemoryError) as told:
                len(handle)
            says(told, f"process {writer.pid} | stopped | seconds")
        timer = threading.Timer(0.5, os.kill, (writer.pid, signal.SIGCONT))
        timer.start()
        begun = time.monotonic()
        assert len(handle) == 40 and time.monotonic() - begun > 0.3
        timer.join()


def test_a_process_that_cannot_open_files_for_a_while():
    few = "import os, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\nfiles = []\n"
    use_up = "try:\n    while True: files.append(os.open('/dev/null', os.O_RDONLY))\nexcept OSError: pass"
    with Foreign() as writer, Foreign() as reader:
        handle, _ = writer.run(few + WRITING)
        reader.run(few + "import diffreplay")
        writer.run(use_up)
        reader.send("answer = len(handle)", handle=handle)
        time.sleep(1)
        spent = writer.run("times = os.times()\nanswer = times.user + times.system")
        time.sleep(1)
        assert writer.run("times = os.times()\nanswer = times.user + times.system") - spent < 0.5, "it waits meanwhile"
        writer.run("while files: os.close(files.pop())")
        assert reader.answer() == 40
        for free in range(4):
            reader.run(f"{use_up}\nfor _ in range({free}): os.close(files.pop())")
            try:
                reader.run("import pickle\nanswer = len(pickle.loads(data))", data=pickle.dumps(handle))
            except SharedMemoryError as error:
                says(error, "open")
                assert "\n" not in str(error)
            else:
                assert free
        reader.run("while files: os.close(files.pop())")
        assert reader.run("answer = len(pickle.loads(data))") == 40


# Other users.


@root
def test_another_user_gets_nothing_even_where_the_folder_lets_anyone_in(given):
    os.chmod(given.folder, 0o777)
    os.chmod(path(given), 0o777)
    with Foreign() as other:
        other.run("import os, socket\nos.setgroups([]), os.setgid(65534), os.setuid(65534)")
        source = (
            "client = socket.socket(socket.AF_UNIX)\nclient.connect(path)\nanswer = socket.recv_fds(client, 9, 9)[:2]"
        )
        assert other.run(source, path=path(given)) == (b"", [])
    assert read(given) == "what is given away"


@root
def test_nothing_is_taken_from_another_user(given):
    with Foreign() as other:
        other.run("import os, shutil, socket, tempfile\nos.setgroups([]), os.setgid(65534), os.setuid(65534)")
        folder = other.run("answer = folder = tempfile.mkdtemp()")
        other.run("server = socket.socket(socket.AF_UNIX)\nserver.bind(folder + '/socket')\nserver.listen()")
        before = open_files()
        with pytest.raises(SharedMemoryError) as told:
            descriptors.take(given._replace(folder=folder))
        says(told, "user 0 | user 65534")
        del told
        assert open_files(before) == before
        other.run("shutil.rmtree(folder)")


# What answers is something else.


@pytest.mark.parametrize(("message", "count"), [(b"", 0), (b"\0", 0), (b"x" * 100_000, 0), (b"\0", 1), (b"\0", 9)])
def test_an_answer_of_another_kind_is_refused(tmp_path, message, count):
    replay = filled()
    address = replay.handle()._address._replace(folder=str(tmp_path))
    handle = pickle.loads(pickle.dumps(replay.handle()))
    handle._address = address
    with socket.socket(socket.AF_UNIX) as server, open("/dev/null") as file:
        server.bind(path(address))
        server.listen()

        def answer():
            with server.accept()[0] as connection:
                socket.send_fds(connection, [message], [file.fileno()] * count) if message else None

        before = open_files()
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SharedMemoryError) as told:
            len(handle)
        thread.join()
        assert "\n" not in str(told.value)
        del told
        assert open_files(before) == before


def test_memory_of_another_buffer_is_refused():
    replay, other = filled(), ReplayBuffer(5000, (3, 8, 8), (1,))
    handle = pickle.loads(pickle.dumps(replay.handle()))
    handle._address = other.handle()._address
    with pytest.raises(SharedMemoryError, match="expected a shared memory file of"):
        len(handle)
