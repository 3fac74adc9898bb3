"""English text, fetched by package name from the ordinary package registries.

`austen()`: Jane Austen's six novels, from Debian's `r-cran-janeaustenr` (the novels are in the public domain; the package's own code is MIT).
`as_you_like_it()`: Shakespeare's play, from the test data in the source package `brotli` on PyPI (the play is in the public domain).
`rated(kind)`: short texts with a human rating of their sentiment, from the source package `vaderSentiment` on PyPI (MIT; C.J. Hutto and E. Gilbert, VADER, ICWSM 2014).

Both need the network once; what was fetched is kept in the cache folder. The checksums hold the text fixed.
"""
import hashlib
import io
import os
import pathlib
import re
import struct
import subprocess
import sys
import tarfile
import zlib

CACHE = pathlib.Path(os.environ.get("PEFT_ONNX_TEXTS", pathlib.Path.home() / ".cache/peft-onnx-texts"))
NOVELS_PACKAGE, NOVELS_FILE = "r-cran-janeaustenr", "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
NOVELS_SHA256 = "8fb5198960d0da724b1562f96e4221e5c1b41ff455000280b02c55980c3d8f21"
PLAY_PACKAGE, PLAY_FILE = "brotli==1.2.1", "tests/testdata/asyoulik.txt"
PLAY_SHA256 = "eaa3526fe53859f34ecdf255712f9ecf0b2c903451d4755b2edaa2e2599cb0fc"
RATED_PACKAGE, RATED_ARCHIVE = "vaderSentiment==3.3.2", "additional_resources/hutto_ICWSM_2014.tar.gz"
RATED_SHA256 = {
    "movieReviewSnippets": "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
    "amazonReviewSnippets": "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
    "nytEditorialSnippets": "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
}


def checked(path, sha256):
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        sys.exit(f"{path}: expected sha256 {sha256}, found {found}")
    return data


def r_strings(stream):
    """The strings of one serialised R character vector (format version 3, XDR: section 1.8 of "R Internals")."""
    (length,) = struct.unpack_from(">I", stream, 14)
    at = 18 + length
    kind, count = struct.unpack_from(">II", stream, at)
    assert kind & 0xFF == 16, "expected a character vector"
    at += 8
    for _ in range(count):
        _, length = struct.unpack_from(">II", stream, at)
        at += 8 + length
        yield stream[at - length:at].decode()


def novels_database():
    path = CACHE / "Rdata.rdb"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-q", NOVELS_PACKAGE], cwd=CACHE, check=True)
        package = next(CACHE.glob(NOVELS_PACKAGE + "_*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, CACHE / "deb"], check=True)
        (CACHE / "deb" / NOVELS_FILE).rename(path)
    return checked(path, NOVELS_SHA256)


def austen():
    """The chapters of the six novels, each a text with one paragraph a line."""
    database, chapters = novels_database(), []
    while database:
        inflate = zlib.decompressobj()
        lines = list(r_strings(inflate.decompress(database[4:])))
        database = inflate.unused_data
        book = re.split(r"\n\s*chapter [ivxl\d]+\s*\n", "\n".join(lines), flags=re.IGNORECASE)
        chapters += [paragraphs(chapter) for chapter in book[1:]]
    return chapters


def paragraphs(text):
    text = re.sub(r"\n\s*(VOLUME [IVX]+|THE END|FINIS)\s*(?=\n|$)", "\n", text)
    text = text.replace("_", "").replace("*", "")
    return "\n".join(" ".join(p.split()) for p in re.split(r"\n\s*\n", text) if p.strip()) + "\n"


def source_file(package, member):
    """A file of a source package on PyPI, `name==version`."""
    CACHE.mkdir(parents=True, exist_ok=True)
    archives = lambda: [path for path in CACHE.glob("*.tar.gz") if path.name.lower() == package.lower().replace("==", "-") + ".tar.gz"]
    if not archives():
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", CACHE, package], check=True)
    with tarfile.open(archives()[0]) as archive:
        return archive.extractfile(next(m for m in archive.getmembers() if m.name.endswith(member))).read()


def play_text():
    path = CACHE / "asyoulik.txt"
    if not path.exists():
        path.write_bytes(source_file(PLAY_PACKAGE, PLAY_FILE))
    return checked(path, PLAY_SHA256).decode("ascii")


def rated(kind, folder=None):
    """Pairs of a mean rating from -4 to 4 and its text: `movieReviewSnippets`, `amazonReviewSnippets` or `nytEditorialSnippets`, from a folder that has them or fetched."""
    name = f"{kind}_GroundTruth.txt"
    path = pathlib.Path(folder or CACHE) / name
    if not path.exists():
        with tarfile.open(fileobj=io.BytesIO(source_file(RATED_PACKAGE, RATED_ARCHIVE))) as archive:
            path.write_bytes(archive.extractfile(next(m for m in archive.getmembers() if m.name.endswith(name))).read())
    lines = checked(path, RATED_SHA256[kind]).decode("utf-8", "replace").splitlines()
    return [(float(rating), text.strip()) for _, rating, text in (line.split("\t", 2) for line in lines)]


def as_you_like_it():
    """The play as scenes, each a list of (speaker, lines), without stage directions."""
    scenes = []
    for scene in re.split(r"\nSCENE [IVX]+.*\n", play_text().split("\nACT I\n", 1)[1])[1:]:
        speeches = []
        for line in scene.split("\n"):
            line = re.sub(r"\[[^\]]*\]?", "", line).rstrip()
            speech = re.match(r"([A-Z][A-Za-z ]*?)\t+(\S.*)", line)
            if speech and (speech[1].isupper() or speech[1] in ("First Lord", "Second Lord", "A Lord", "Forester", "First Page", "Second Page")):
                speeches.append((speech[1], [speech[2]]))
            elif speeches and line.startswith("\t") and line.strip() and not line.startswith("\t\t") and "]" not in line:
                speeches[-1][1].append(line.strip())
        scenes.append(speeches)
    return scenes
