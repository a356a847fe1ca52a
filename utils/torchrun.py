"""Start torchrun so that it ends with the exit code of our command, and with its message only.

`torch.distributed.run` turns every failure of a worker into exit code 1 and a long traceback of
its own. The worker that fails first writes its code into the file `$UNISPEECH_EXIT_FILE` (see
`unispeech/__main__.py`); this process passes it on. utils/launch.sh is the way to call it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

# SIGUSR1 is how schedulers announce that the time is nearly over.
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


def main(argv: list[str]) -> int:
    """Run `torchrun [options] -- [command of unispeech and its words]`.

    Returns:
        The exit code of the worker that failed first, or 0.
    """
    # Through the environment, since older versions of torchrun lack these two options.
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", ",".join(name.name for name in HANDLED))
    # Seconds for the workers to write a checkpoint before they are killed.
    os.environ.setdefault("PET_SHUTDOWN_TIMEOUT", "300")
    split = argv.index("--")
    options = run.parse_args([*argv[:split], "-m", "unispeech"])
    # Set here, since torchrun's own parser takes offence at some options of the command.
    options.training_script_args = argv[split + 1 :]
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="unispeech-") as folder:
        exit_file = Path(folder) / "exit"
        os.environ["UNISPEECH_EXIT_FILE"] = str(exit_file)
        try:
            run.run(options)
            return 0
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            code = failure.exitcode
            if code < 0:
                return _report(128 - code, f"worker {rank} was killed by {_name(-code)}")
        except SignalException as error:
            code = 128 + error.sigval
            _wait_for_workers()
        if exit_file.exists():
            return int(exit_file.read_text())
    return _report(code, f"stopped by {_name(code - 128)}" if code > 128 else "a worker failed")


def _report(code: int, reason: str) -> int:
    print(f"error: {reason}; run the same command again to continue", file=sys.stderr)
    return code


def _name(number: int) -> str:
    name = signal.Signals(number).name
    return f"{name} (out of memory?)" if name == "SIGKILL" else name


def _wait_for_workers() -> None:
    # A second signal takes torchrun out of its own wait while workers still save their state.
    for number in HANDLED:
        signal.signal(number, signal.SIG_DFL)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
