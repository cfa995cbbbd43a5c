"""What stands in files and archives: every form is found, nothing is written, no archive takes more than its share."""

import base64
import bz2
import gzip
import io
import lzma
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import pytest
from build import a_bare_request, a_gpd_document, a_request, an_envelope

from station.replay import UnpackLimits
from station.replay.sources import documents

KB, MB = 1024, 1024 * 1024
DOCUMENT = an_envelope(a_request())
SMALL = UnpackLimits(document=16 * KB, total=MB, members=20, ratio=20, ratio_from=64 * KB, nesting=3)


def a_zip(*members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for number, member in enumerate(members):
            name, content = member if isinstance(member, tuple) else (f"{number}.xml", member)
            archive.writestr(name, content)
    return file.getvalue()


def a_tar(*members, mode="w", format=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=format) as archive:
        for number, member in enumerate(members):
            name, content = member if isinstance(member, tuple) else (f"{number}.xml", member)
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def found(tmp_path):
    """What is found in a file with this content: the names behind the file's own, and contents or errors."""

    def found(content, limits=SMALL):
        file = tmp_path / "file"
        file.write_bytes(content)
        listed = list(documents([str(file)], limits, io.BytesIO()))
        assert all(one.name.startswith(str(file)) for one in listed)
        return [(one.name.removeprefix(str(file)), one.error or one.raw) for one in listed]

    return found


FORMS = {
    "envelope": DOCUMENT,
    "utf-16": an_envelope(a_request(), "utf-16-le"),
    "utf-16_no_mark": '<?xml version="1.0" encoding="UTF-16"?><x/>'.encode("utf-16-be"),
    "bom": an_envelope(a_request(), "bom"),
    "blanks": b"\n \n" + a_bare_request(a_request(), declaration=False),
    "gpd": a_gpd_document(a_request()),
    "gpd_1": a_gpd_document(a_request(version=1)),
}
WRAPPED = {
    "base64": lambda raw: base64.b64encode(raw),
    "base64_lines": lambda raw: base64.encodebytes(raw).replace(b"\n", b"\r\n"),
    "base64_url_safe": lambda raw: b"\xef\xbb\xbf" + base64.urlsafe_b64encode(raw).rstrip(b"="),
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda raw: lzma.compress(raw) + b"\0" * 8,
    "xz_of_several_streams": lambda raw: lzma.compress(raw[:99]) + lzma.compress(b"") + lzma.compress(raw[99:]),
}


@pytest.mark.parametrize("form", FORMS)
def test_document(found, form):
    """A document is found as it is, however it is written down."""
    assert found(FORMS[form]) == [("", FORMS[form])]


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("form", ["envelope", "utf-16", "gpd_1"])
def test_wrapped(found, form, wrap):
    """So is one in base64 or compressed."""
    assert found(WRAPPED[wrap](FORMS[form])) == [("", FORMS[form])]


@pytest.mark.parametrize(
    "archive",
    [
        a_zip(*FORMS.values()),
        a_zip(*FORMS.values(), method=zipfile.ZIP_STORED),
        a_tar(*FORMS.values()),
        a_tar(*FORMS.values(), mode="w:gz"),
        a_tar(*FORMS.values(), mode="w:bz2"),
        a_tar(*FORMS.values(), mode="w:xz"),
        base64.b64encode(a_tar(*FORMS.values(), mode="w:gz")),
    ],
    ids=["zip", "zip_stored", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.gz.b64"],
)
def test_archive(found, archive):
    """Archives give their members in order, named behind the archive's name."""
    assert found(archive) == [(f"!{number}.xml", raw) for number, raw in enumerate(FORMS.values())]


def test_archives_in_archives(found):
    """Archives in archives are read as far as they may be nested."""
    inner = a_zip(DOCUMENT)
    content = a_tar(("a.zip", inner), ("b.b64", base64.b64encode(DOCUMENT)), ("c.zip", a_zip(("d.zip", a_zip(inner)))))
    assert found(content) == [
        ("!a.zip!0.xml", DOCUMENT),
        ("!b.b64", DOCUMENT),
        ("!c.zip!d.zip!0.xml", "archives are nested deeper than 3 levels"),
    ]


def test_folder_and_standard_input(tmp_path):
    """A folder gives its files by name, and leaves alone what may never end; `-` is standard input, archives too."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z.xml").write_bytes(DOCUMENT)
    (tmp_path / "a.zip").write_bytes(a_zip(DOCUMENT))
    (tmp_path / "c.xml").symlink_to("b/z.xml")
    (tmp_path / "d").symlink_to(tmp_path)
    (tmp_path / "e").symlink_to("nowhere")
    os.mkfifo(tmp_path / "f")
    listed = documents([str(tmp_path), "-", str(tmp_path / "d" / "b")], SMALL, io.BytesIO(a_zip(DOCUMENT)))
    assert [(one.name.removeprefix(f"{tmp_path}/"), one.error) for one in listed] == [
        ("a.zip!0.xml", None),
        ("b/z.xml", None),
        ("c.xml", None),
        ("d", "a link to a folder: name the folder itself to have it read"),
        ("e", "cannot be read (No such file or directory)"),
        ("f", "not a regular file"),
        ("-!0.xml", None),
        ("d/b/z.xml", None),
    ]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"ciao", "not XML, not an archive, and not base64 of either"),
        (b"c" + b"i" * 100_000, "longer than 16384 bytes (server.max_body)"),
        (b"ciaociaoc", "not XML, not an archive, and not base64 of either"),
        (b"\x89PNG\r\n", "not XML, not an archive, and not base64 of either"),
        (b"<x>" + b" " * 16 * KB, "longer than 16384 bytes (server.max_body)"),
        (base64.b64encode(b"<x>" + b" " * 16 * KB), "longer than 16384 bytes (server.max_body)"),
        (a_zip(DOCUMENT)[:400], "damaged or truncated: not a complete zip archive, or a checksum does not match"),
        (gzip.compress(DOCUMENT)[:400], "damaged or truncated: it ends too early"),
        (lzma.compress(DOCUMENT)[:400], "damaged or truncated: it ends too early"),
        (bz2.compress(DOCUMENT)[:400], "damaged or truncated: it ends too early"),
        (b"BZh9ciao", "damaged or truncated: its compressed data is invalid"),
    ],
)
def test_no_document(found, content, error):
    """What is no document is named with its reason."""
    assert found(content) == [("", error)]


def test_broken_archive_does_not_end_silently(found):
    """Where an archive breaks off, what stands before counts, and the break is an error and not the end."""
    whole = a_tar(DOCUMENT, DOCUMENT, DOCUMENT)
    size = len(whole[: whole.index(b"1.xml")])
    cut = found(whole[: size + 900])
    assert cut[0] == ("!0.xml", DOCUMENT)
    assert [name for name, error in cut[1:] if "damaged or truncated: it" in str(error)] == ["!1.xml", ""]
    flipped = whole[: size + 5] + b"?" + whole[size + 6 :]
    assert found(flipped) == [("!0.xml", DOCUMENT), ("", "damaged or truncated: items read before this point count")]
    assert found(whole[:size])[1:] == [("", "damaged or truncated: items read before this point count")]
    damaged = bytearray(a_zip(("a", DOCUMENT), ("b", DOCUMENT)))
    damaged[200] ^= 0xFF
    first, second = found(bytes(damaged))
    assert (first[0], "damaged or truncated" in first[1]) == ("!a", True)
    assert second == ("!b", DOCUMENT)


def test_members_that_are_no_files(found):
    """Links and devices in an archive are named and never followed; folders are nothing; what is encrypted is told."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (
            ("d", tarfile.DIRTYPE),
            ("l", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("c", tarfile.CHRTYPE),
        ):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)
    assert found(file.getvalue()) == [(f"!{name}", "not a regular file") for name in "lhc"]
    assert found(a_zip(("d/", b""), ("d/a.xml", DOCUMENT))) == [("!d/a.xml", DOCUMENT)]
    assert found(a_zip(DOCUMENT, method=zipfile.ZIP_LZMA)) == [("!0.xml", "unsupported compression: use deflate")]
    locked = bytearray(a_zip(DOCUMENT))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    assert found(bytes(locked)) == [("!0.xml", "encrypted")]


def test_names_are_never_written_to(tmp_path):
    """Whatever an archive calls its members, nothing appears anywhere."""
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    names = ("../../x.xml", str(tmp_path / "y.xml"), "..\\z.xml", "a\x1b[2J.xml")
    for kind, make in (("zip", a_zip), ("tar", a_tar)):
        (folder / kind).write_bytes(make(*((name, DOCUMENT) for name in names)))
    listed = list(documents([str(folder)], SMALL, io.BytesIO()))
    assert [one.error for one in listed] == [None] * 8
    assert sorted(one.name for one in tmp_path.rglob("*")) == ["here", "in", "tar", "zip"]


def test_too_much(found):
    """Each limit holds: members, what one path unpacks to, the ratio, nesting, and the rest of the paths goes on."""
    assert found(a_zip(*[DOCUMENT] * 21))[-1] == ("", "holds more than 20 members: split it")
    assert len(found(a_tar(*[DOCUMENT] * 20))) == 20
    noise = b"<x>" + os.urandom(15 * KB).hex().encode()[: 15 * KB]
    assert found(a_tar(*[noise] * 19, mode="w:gz"), UnpackLimits(document=16 * KB, total=200 * KB))[-1] == (
        "", "unpacks to more than 204800 bytes: split it",
    )  # fmt: skip
    zeros = found(a_tar(("big", b"\0" * 900 * KB), mode="w:gz"))
    assert zeros == [(name, "unpacks to more than 20 times its size") for name in ("!big", "")]
    packed = a_zip(("a.zip", a_zip(("b", b"\0" * 20 * KB))), ("c.xml", DOCUMENT))
    assert found(packed) == [("!a.zip!b", "not XML, not an archive, and not base64 of either"), ("!c.xml", DOCUMENT)]
    bomb = a_zip(("t.gz", gzip.compress(a_tar(("big", b"\0" * 900 * KB), DOCUMENT))), ("c.xml", DOCUMENT))
    assert found(bomb)[-2:] == [("!t.gz", "unpacks to more than 20 times its size"), ("!c.xml", DOCUMENT)]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_tar(found, format):
    """Names that do not fit into a header's first block are read whole, whichever way they are written."""
    names = ["d" * 90 + "/" + "è" * 90 + ".xml", "n" * 500, "7" * 60]
    assert found(a_tar(*[(name, DOCUMENT) for name in names], format=format)) == [(f"!{n}", DOCUMENT) for n in names]


def a_header(name="a", kind=tarfile.REGTYPE, size=0, content=b"", field=None):
    """The first block of a tar member, and what follows padded to blocks. `field`: the size as it is written there."""
    header = tarfile.TarInfo(name)
    header.type, header.size = kind, len(content) or size
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    if field is not None:
        block[124:136] = field
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + content + b"\0" * (-len(content) % 512)


def a_pax_header(records, kind=tarfile.XHDTYPE):
    return a_header(kind=kind, content=records)


def a_zip_of_one(count):
    """A zip archive whose list names the same member `count` times."""
    archive = a_zip(("a", DOCUMENT))
    start, end = archive.index(b"PK\x01\x02"), archive.index(b"PK\x05\x06")
    directory = archive[start:end] * count
    total = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    return archive[:start] + directory + total


BEFORE, AFTER = a_header("before", content=DOCUMENT), a_header("after", content=DOCUMENT) + b"\0" * 1024
BROKEN = "damaged or truncated: items read before this point count"
CUT = "damaged or truncated: it ends too early"
LIES = {
    # What stands in a tar archive between two documents, and what is found in place of the second one.
    "huge": (a_header("huge", field=b"77777777777\0"), [("!huge", CUT), ("", CUT)]),
    "huge_in_bytes": (a_header("huge", field=b"\x80" + b"\xff" * 11), [("!huge", CUT), ("", CUT)]),
    "negative": (a_header(field=b"\xff" * 12), [("", BROKEN)]),
    "negative_name": (a_header(kind=tarfile.GNUTYPE_LONGNAME, field=b"\xff" * 12), [("", BROKEN)]),
    "pax_negative": (a_pax_header(b"15 size=-99999\n") + a_header(), [("", BROKEN)]),
    "pax_huge": (a_pax_header(b"25 size=9999999999999999\n") + a_header("huge"),
                 [("!huge", CUT), ("", CUT)]),
    "pax_digits": (a_pax_header(b"1" * 50_000) + a_header(), [("", BROKEN)]),
    "pax_digits_in_a_value": (a_pax_header(b"50008 a=" + b"1" * 49_999 + b"\n") + a_header(),
                              [("", "a tar header holds a number that is too long")]),
    "pax_overlapping": (a_pax_header(b"2 " * 25_000 + b"=") + a_header(), [("", BROKEN)]),
    "pax_long": (a_pax_header(b"70007 a=" + b"b" * 69_998 + b"\n") + a_header(),
                 [("", "a tar header is too long")]),
    "pax_chain": (a_pax_header(b"6 a=b\n") * 5_000 + a_header(), [("", "a tar header is too long")]),
    "name_chain": (a_header(kind=tarfile.GNUTYPE_LONGNAME, content=b"n") * 5_000 + a_header(),
                   [("", "a tar header is too long")]),
    "globals": (b"".join(a_pax_header(b"11 k%d=v\n" % n, tarfile.XGLTYPE) + a_header() for n in range(1000, 1200)),
                [*[("!a", "empty")] * 19, ("", "holds more than 20 members: split it")]),
    "sparse": (a_header("sparse", kind=tarfile.GNUTYPE_SPARSE, field=b"77777777777\0"),
               [("!sparse", "not a regular file"), ("", CUT)]),
    "device": (a_header("device", kind=tarfile.BLKTYPE, field=b"77777777777\0"),
               [("!device", "not a regular file"), ("!after", DOCUMENT)]),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_tar_headers_are_not_believed(found, lie):
    """What a header says of sizes and numbers costs no more than the bytes there are, and never ends silently."""
    between, wanted = LIES[lie]
    assert found(BEFORE + between + AFTER) == [("!before", DOCUMENT), *wanted]


def test_what_global_headers_hold(found):
    """tarfile copies it for each member."""
    header = a_pax_header(b"".join(b"11 k%d=v\n" % number for number in range(1000, 1101)), tarfile.XGLTYPE)
    assert found(BEFORE + header + AFTER) == [("!before", DOCUMENT), ("", BROKEN)]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (a_zip_of_one(2), "its members overlap"),
        (a_zip_of_one(20_000), "its members overlap"),
        (gzip.compress(b"\x1f\x8b\x08\x08" + b"\0" * 6 + b"n" * MB), "unpacks to more than 20 times its size"),
        *[(make(b"") * 1_000, "holds more than 20 members: split it") for make in (gzip.compress, bz2.compress)],
        (lzma.compress(b"") * 1_000, "holds more than 20 members: split it"),
    ],
    ids=["zip_twice", "zip_overlapping", "gzip_name", "gzip_streams", "bzip2_streams", "xz_streams"],
)
def test_work_is_bounded(found, content, error):
    """What costs time and gives no bytes is counted as well as these."""
    assert found(content) == [("", error)]


def test_work_of_members(found):
    """Members cost time, however well they are packed: beyond a multiple of its size the path is given up."""
    packed = a_tar(*[(str(number), b"<x/>") for number in range(2_000)], mode="w:gz")
    limits = UnpackLimits(work_from=MB, work_ratio=50)
    *documents, (name, error) = found(packed, limits)
    assert (name, error) == ("", "takes more work than 50 times its size: unpack it first")
    assert {raw for _, raw in documents} == {b"<x/>"}
    assert 100 < len(documents) < 250  # 4 KiB and two blocks each
    assert len(found(packed, UnpackLimits(work_from=MB))) == 2_000


def test_bad_archives_leave_others_alone(tmp_path):
    """An archive that is given up is named, and the other paths are read."""
    paths = [tmp_path / name for name in ("1.tar", "2.zip", "3.xml")]
    for path, content in zip(paths, (LIES["huge"][0], a_zip_of_one(9), DOCUMENT), strict=True):
        path.write_bytes(content)
    listed = documents([str(path) for path in paths], SMALL, io.BytesIO())
    assert [(one.name.removeprefix(f"{tmp_path}/"), one.error) for one in listed] == [
        ("1.tar!huge", CUT), ("1.tar", CUT), ("2.zip", "its members overlap"), ("3.xml", None),
    ]  # fmt: skip


SIZE = 64 * MB


def write_bombs(folder):
    """Archives that would each fill memory with `SIZE` or more, written piece by piece."""

    def pieces(file, piece):
        for _ in range(SIZE // MB):
            file.write(piece * (MB // len(piece)))

    with gzip.open(folder / "1-gzip", "wb", 1) as file:
        pieces(file, b" ")
    with bz2.open(folder / "2-bzip2", "wb", 1) as file:
        pieces(file, b"x")
    with lzma.open(folder / "3-xz", "wb", preset=0) as file:
        pieces(file, b"x")
    asks_for_4_gib = bytearray(lzma.compress(b"<x/>"))
    asks_for_4_gib[16] = 40
    asks_for_4_gib[20:24] = zlib.crc32(asks_for_4_gib[12:20]).to_bytes(4, "little")
    (folder / "4-xz-dictionary").write_bytes(asks_for_4_gib)
    for name, kind in (("5-tar-name", tarfile.GNUTYPE_LONGNAME), ("6-tar-pax", tarfile.XHDTYPE)):
        header = tarfile.TarInfo("a")
        header.type, header.size = kind, SIZE
        with (folder / name).open("wb") as file:
            file.write(header.tobuf(tarfile.GNU_FORMAT))
            pieces(file, b"n")
    header = tarfile.TarInfo("a")
    header.size = SIZE
    header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a"}
    with (folder / "7-tar-sparse").open("wb") as file:
        file.write(header.tobuf(tarfile.PAX_FORMAT))
        file.write(b"99999999\n000000\n")
        pieces(file, b"1\n")
    with (folder / "8-zip-directory").open("wb") as file:
        pieces(file, b"PK\x03\x04")
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, SIZE, 0, 0))
    with zipfile.ZipFile(folder / "9-zip", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a", "w") as file:
        pieces(file, b"\0")


def test_bombs_and_memory(tmp_path):
    """No archive makes the process take much memory, and each one's error leaves the next one alone."""
    write_bombs(tmp_path)
    program = (
        "import io, resource, sys\n"
        "from station.replay import UnpackLimits; from station.replay.sources import documents\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for one in documents(sys.argv[1:], UnpackLimits(), io.BytesIO()): print(one.error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    *errors, grown = done.stdout.splitlines()
    assert errors == [
        *["longer than 1048576 bytes (server.max_body)"] * 3,
        "damaged or truncated: its xz data is invalid, or needs more memory than is allowed",
        *["a tar header is too long"] * 3,
        "holds too many members: split it, or use tar",
        "longer than 1048576 bytes (server.max_body)",
    ]
    assert int(grown) < 45 * KB, f"{grown} KiB"
