"""Sections of pages that scripts write, and the machine's name for them."""
import os
import platform
import re


def put(file, name, section, heading=""):
    """Writes a section into a page, in place of the one of the same name; a new page begins with the heading."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    block = f"{start}\n{section.strip()}\n{end}"
    page = file.read_text() if file.exists() else heading
    found = re.compile(re.escape(start) + ".*?" + re.escape(end), re.S)
    file.write_text(found.sub(lambda _: block, page) if found.search(page) else page.rstrip("\n") + "\n\n" + block + "\n")


def cpu():
    """The processor's name."""
    for line in open("/proc/cpuinfo") if os.path.exists("/proc/cpuinfo") else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
