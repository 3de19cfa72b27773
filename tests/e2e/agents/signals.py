"""Say "ready", then the name of each signal that arrives; end with status 7 on USR1."""

import os
import signal

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGWINCH", "SIGCONT", "SIGQUIT", "SIGUSR1")


def main():
    signal.pthread_sigmask(signal.SIG_BLOCK, {getattr(signal, name) for name in NAMES})
    print("ready", os.getpid(), flush=True)
    while True:
        name = signal.Signals(signal.sigwait({getattr(signal, name) for name in NAMES})).name
        print(name, flush=True)
        if name == "SIGUSR1":
            raise SystemExit(7)


main()
