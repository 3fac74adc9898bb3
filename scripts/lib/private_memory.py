"""The largest private memory of a command."""
import pathlib
import subprocess
import sys
import time


def peak(command):
    """The largest RssAnon (/proc/PID/status) of a command, in bytes."""
    command = [str(part) for part in command]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    most = 0
    while process.poll() is None:
        try:
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = [int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon:")]
        most = max([most, *found])
        time.sleep(0.005)
    said = process.stderr.read()
    if process.wait():
        sys.exit(f"{' '.join(command)}\n{said}")
    return most * 1024
