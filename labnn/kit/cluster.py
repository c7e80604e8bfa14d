"""Dask's workers, of this machine or of a cluster, each with one thing to do at a time."""

import hashlib
import io
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import sysconfig
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, TypeVar
from zipfile import ZIP_DEFLATED, ZipFile

import torch

from labnn.kit.errors import LabError
from labnn.kit.progress import say

Job = TypeVar("Job")

# Dask's watching of itself, each 10 to 500 ms by default: 4 % of two cores that train.
_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
}
# Linux copies workers from a process that has imported these already: some 4 s of a core less for each.
_IMPORTED = ["distributed", "torch", "pandas"]


class Lost(Exception):
    """What a worker did is lost: it died, or nobody waits for it any more."""


@contextmanager
def open_workers(processes: int, address: str | None = None) -> Iterator["Workers"]:
    """As many workers of this machine, or those of the scheduler at ``address``, for a block.

    On Linux this machine's have the environment variables that the process had at its first call. Raises
    ``LabError`` where none can start or be reached.
    """
    if address is not None:
        with _client(address) as client:
            yield Workers(client)
        return
    _refuse_unguarded_script()
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import get_mp_context

    options = {"threads_per_worker": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
    # No dashboard; its port is any free one, as several clusters may be on one machine.
    options |= {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    options["scheduler_kwargs"] = {"dashboard": False}
    method = "forkserver" if sys.platform == "linux" else "spawn"
    with dask.config.set(_QUIET | {"distributed.worker.multiprocessing-method": method}):
        get_mp_context().set_forkserver_preload(_IMPORTED)
        try:
            local = LocalCluster(n_workers=processes, **options)
        except (RuntimeError, OSError) as error:
            way_out = "задайте меньше processes или освободите память"
            raise LabError(f"Рабочие процессы не запустились ({error}): {way_out}.") from None
        with local, Client(local) as client:
            yield Workers(client, local)


def _refuse_unguarded_script() -> None:
    """Every process runs the user's script anew: without a guard it would begin the work itself."""
    script = sys.modules["__main__"]
    path = getattr(script, "__file__", None) if script.__spec__ is None else None
    if path and "__main__" not in Path(path).read_text(encoding="utf-8", errors="replace"):
        way_out = 'поставьте запуск под if __name__ == "__main__":'
        raise LabError(f"Скрипт {path} выполнился бы в каждом процессе заново: {way_out}")


def _client(address: str) -> Any:
    """A client of the scheduler at ``address``, or ``LabError`` after 15 seconds: where another program holds
    the port, Dask would wait for ever.
    """
    from distributed import Client

    opened: SimpleQueue = SimpleQueue()

    def open_client() -> None:
        try:
            opened.put(Client(address, timeout=10))
        except Exception as error:
            opened.put(error)

    Thread(target=open_client, daemon=True).start()
    try:
        client = opened.get(timeout=15)
    except Empty:
        client = TimeoutError("там отвечает не Dask")
    if isinstance(client, Exception):
        way_out = "запустите dask scheduler той же версии или исправьте адрес, например tcp://127.0.0.1:8786"
        raise LabError(f"Кластер {address} недоступен ({client}): {way_out}.")
    return client


class Workers:
    """The workers that ``client`` sees; those of this machine, ``local``, are child processes."""

    def __init__(self, client: Any, local: Any = None):
        self.client, self.local = client, local
        self.stopped = Event()
        self._call, self._seen, self._told, self._asked = _brought_along(), set(), False, 0.0
        self._sent: dict[Any, Any] = {}
        self._sending = Lock()
        self._processes: dict[str, multiprocessing.Process] = {}

    def share_out(self, jobs: Sequence[Job], name: Callable[[Job], str], run: Callable) -> None:
        """Calls ``run(job, worker, later)`` for each of ``jobs``, in a thread for each worker.

        A worker that joins later gets its share; what one did that died is done again. ``later(function,
        ...)`` has something called here, in the thread that waits. Raises ``LabError`` with the ``name`` of a
        job whose worker dies three times.
        """
        waiting, left, deaths, serving = deque(jobs), set(jobs), Counter(), {}
        news: SimpleQueue = SimpleQueue()

        def later(function: Callable, *given: Any) -> None:
            news.put(partial(function, *given))

        def lost(job: Job, worker: str) -> None:
            deaths[job] += 1
            if deaths[job] == 3:
                raise LabError(f"На прогоне {name(job)} трижды погиб рабочий, {self._cause(worker)}.")
            waiting.appendleft(job)

        def serve(worker: str) -> None:
            with suppress(IndexError):  # nothing is waiting
                while True:
                    job = waiting.popleft()
                    try:
                        run(job, worker, later)
                        later(left.remove, job)
                    except (Lost, OSError, CancelledError):
                        later(lost, job, worker)
                        break
                    except BaseException as error:
                        later(_raise, error)
                        break
            later(serving.pop, worker)

        try:
            while left:
                for worker in self.present() - serving.keys() if waiting else ():
                    serving[worker] = Thread(target=serve, args=(worker,), daemon=True)
                    serving[worker].start()
                with suppress(Empty):
                    news.get(timeout=1)()
        finally:
            self.stopped.set()  # the threads take in what is saved and give their locks back
            deadline = time.monotonic() + 5
            for thread in serving.values():
                thread.join(max(deadline - time.monotonic(), 0))

    def present(self) -> set[str]:
        """The addresses of the workers, a second old at most. Raises ``LabError`` where the scheduler is gone
        and for a new worker that does not fit.
        """
        if time.monotonic() < self._asked + 1:
            return self._seen
        try:
            here = set(self.client.nthreads()) if self.client.status == "running" else None
        except OSError:
            here = None
        if here is None:
            raise LabError("Планировщик Dask пропал: запустите его снова и повторите, готовое сохранено.")
        if here - self._seen:
            try:
                self._look_at(here - self._seen)
            except OSError:  # one of the new ones has died meanwhile: the others are looked at anew
                here &= self._seen
        if not here and not self._told:
            say("В кластере Dask нет рабочих, жду их.")
        self._seen, self._told, self._asked = here, not here, time.monotonic()
        return here

    def _look_at(self, new: set[str]) -> None:
        if self.local:
            children = {child.pid: child for child in multiprocessing.active_children()}
            for worker, pid in self.client.run(_ignore_ctrl_c, workers=list(new)).items():
                self._processes[worker] = children.get(pid)
            return
        found = self.client.get_versions(packages=["torch"])
        here, here_words = _versions(found["client"])
        for worker in new & found["workers"].keys():
            there, there_words = _versions(found["workers"][worker])
            if there != here:
                words = f"{there_words}, а здесь {here_words}: установите там такие же"
                raise LabError(f"На рабочем {worker} {words}.")

    def _cause(self, worker: str) -> str:
        """What is known of the death of ``worker``, and what to do."""
        process = self._processes.get(worker)
        if process is None:
            return f"последним {worker}: причина в его журнале; готовое сохранено, повторите"
        if process.exitcode == -signal.SIGKILL:
            reason = "процесс убит (SIGKILL), как делает система, когда не хватило памяти"
        else:
            reason = f"процесс вышел с кодом {process.exitcode}"
        return f"{reason}: повторите с меньшим processes или batch_size, готовое сохранено"

    @property
    def threads(self) -> int:
        """The CPU's threads that each has of this machine; 0 on a cluster: its own choice."""
        return max(torch.get_num_threads() // len(self.local.workers), 1) if self.local else 0

    def scale(self, count: int) -> set[str]:
        """Starts more workers of this machine; gives their addresses when there are ``count``."""
        self.local.scale(count)
        self.client.wait_for_workers(count, timeout=120)
        self._asked = 0.0
        return self.present()

    def submit(self, worker: str, function: Callable, *given: Any, sent: Sequence = ()) -> Any:
        """A future of ``function(*given, *sent)`` on ``worker``: a function of labnn, with ``sent`` from
        ``send``.
        """
        options = {"workers": [worker], "pure": False, "retries": 0}
        place = function.__module__, function.__name__
        return self.client.submit(self._call, *place, pickle.dumps(given), *sent, **options)

    def send(self, thing: Any, worker: str) -> Any:
        """Puts ``thing`` on ``worker`` for as long as the future lives that stands for it."""
        return self.client.scatter([thing], workers=[worker], hash=False)[0]

    def share(self, key: Any, make: Callable[[], Any], worker: str) -> Any:
        """``send`` of what ``make`` gives, once for each ``key``: Dask copies it from worker to worker."""
        with self._sending:
            known = self._sent.get(key)
            if known is None or known.status != "finished":  # not yet there, or gone with its worker
                known = self._sent[key] = self.send(make(), worker)
            return known

    def over(self, future: Any, worker: str, seconds: float = 1) -> bool:
        """Whether ``future`` has ended after ``seconds`` at most. Raises ``Lost`` where it never will."""
        from distributed import wait

        with suppress(TimeoutError):
            wait([future], timeout=seconds)
        if not future.done() and worker not in self.present():
            raise Lost
        return future.done()

    def result(self, future: Any, worker: str) -> Any:
        """What ``future`` gave on ``worker``, or its error."""
        from distributed import KilledWorker

        while not self.over(future, worker):
            pass
        try:
            return future.result(timeout=120)
        except KilledWorker:
            raise Lost from None
        except ImportError as error:
            way_out = "установите там пакеты из requirements.txt"
            raise LabError(f"На рабочем {worker} не хватает пакета ({error}): {way_out}.") from None


def _raise(error: BaseException) -> None:
    raise error


def _ignore_ctrl_c() -> int:
    """In a terminal it goes to all processes, and the caller ends the others; gives the process's number."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return os.getpid()


def _versions(about: dict) -> tuple[tuple[str, ...], str]:
    """What must be equal, the numbers of Python and the first of PyTorch, and both in words."""
    version = about["packages"]["torch"]
    python = ".".join(about["host"]["python"].split(".")[:2])
    return (python, str(version).split(".")[0]), f"Python {python}, PyTorch {version or 'нет'}"


def packed(tables: list[dict[str, Any]]) -> bytes:
    """Dicts of the user's own functions as they are, with what they use of his modules; ``pickle.loads``
    unpacks them.
    """
    import cloudpickle

    not_his = (sysconfig.get_path("stdlib"), str(Path(__file__).parents[1]))
    his = [
        module
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None) or "")
        and any(tables)
        and name == module.__name__
        and "-packages" not in file
        and not file.startswith(not_his)
    ]
    try:
        for module in his:
            cloudpickle.register_pickle_by_value(module)
        return cloudpickle.dumps(tables)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        names = ", ".join(f"«{name}»" for table in tables for name in table)
        way_out = "берите в неё только то, что можно скопировать, или задайте processes=1"
        raise LabError(f"Функцию {names} другим процессам не передать ({error}): {way_out}.") from None
    finally:
        for module in his:
            cloudpickle.unregister_pickle_by_value(module)


def _brought_along() -> Callable:
    """A function that calls one of labnn by its name where labnn is not installed: it brings labnn."""
    content, package = io.BytesIO(), Path(__file__).parents[1]
    with ZipFile(content, "w", ZIP_DEFLATED) as archive:
        for path in sorted(package.rglob("*.py")):
            archive.write(path, path.relative_to(package.parent))
    source = content.getvalue()
    archive_name = f"labnn-{hashlib.sha256(source).hexdigest()[:10]}.zip"

    def call(module: str, function: str, given: bytes, *sent: Any) -> Any:
        # Nested, so that it is pickled as it stands; what it uses is imported where it runs.
        import importlib
        import pickle
        import sys
        from pathlib import Path

        from distributed import get_worker

        path = Path(get_worker().local_directory, archive_name)
        labnn = sys.modules.get("labnn")
        if labnn is None or not labnn.__file__.startswith(str(path)):
            path.write_bytes(source)
            sys.path.insert(0, str(path))
            for name in [name for name in sys.modules if name.partition(".")[0] == "labnn"]:
                del sys.modules[name]
        return getattr(importlib.import_module(module), function)(*pickle.loads(given), *sent)

    return call
