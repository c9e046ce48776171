"""What can be watched: files, image folders, network streams, camera indices; and their names."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from pipeline.redaction import redact, redact_url

__all__ = [
    "IMAGE_SUFFIXES",
    "LIVE_SCHEMES",
    "Source",
    "SourceError",
    "SourceKind",
    "check_source",
    "expand_sources",
    "parse_source",
    "source_bytes",
    "split_credentials",
]

LIVE_SCHEMES = ("rtsp", "rtsps", "http", "https")
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".264", ".265", ".asf", ".avi", ".flv", ".h264", ".hevc", ".m2ts", ".m4v", ".mjpeg", ".mjpg"}
    | {".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv"}
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(:|,,)")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(\d{1,5}))?(?=[/?#]|$)")
_LAST_PORT = 65535
_VIDEO_DEVICE = re.compile(r"/dev/video(\d+)")
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,63})=(.+)", re.DOTALL)


class SourceError(ValueError):
    """A source that cannot be used: one sentence, free of secrets, with what to do."""


class SourceKind(str, Enum):
    """What a source is."""

    FILE = "file"
    FOLDER = "folder"
    DEVICE = "device"
    RTSP = "rtsp"
    RTSPS = "rtsps"
    HTTP = "http"
    HTTPS = "https"


@dataclass(frozen=True, slots=True)
class Source:
    """A source: ``location`` is an absolute path, a camera index or a URL with its secrets.

    ``location`` may hold a password and is kept out of ``repr``; print ``display`` instead.
    """

    kind: SourceKind
    display: str
    _location: str

    def __repr__(self) -> str:
        return f"Source({self.kind.value}, {self.display!r})"

    @property
    def location(self) -> str:
        """What to open. Never print it."""
        return self._location

    @property
    def live(self) -> bool:
        """Whether time goes on without us: newest wins; a finite source waits instead."""
        return self.kind not in (SourceKind.FILE, SourceKind.FOLDER)


def parse_source(text: str) -> Source:
    """Tell what ``text`` names; touches only the local file system.

    Raises:
        SourceError: Nothing usable, or a scheme that is not allowed.

    """
    text = text.strip()
    if not text:
        raise SourceError("the source is empty; give a file, an rtsp:// URL or a camera index")
    if (device := _device(text)) is not None:
        return Source(SourceKind.DEVICE, f"camera {device}", str(device))
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() in LIVE_SCHEMES and text[scheme.end() :].startswith("//"):
        return _network_source(scheme[1].lower(), text[scheme.end() + 2 :])
    if scheme and len(scheme[1]) > 1 and (not Path(text).exists() or scheme[2] == ",,"):
        raise SourceError(_refusal(scheme[1], login="@" in text and "://" not in text))
    path = Path(text).expanduser()
    is_folder = path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES
    kind = SourceKind.FOLDER if is_folder else SourceKind.FILE
    shown = text if path.exists() else redact_url(text)  # it may be a mistyped address
    return Source(kind, shown, str(path.absolute()))


def _device(text: str) -> int | None:
    """Index of a camera of this machine, however it is named.

    ``0``, ``/dev/video0``, or a link such as ``/dev/v4l/by-id/…``, which stays the same when
    cameras are plugged in another order.
    """
    if text.isdecimal():
        return int(text)
    if not text.startswith("/dev/"):
        return None
    found = _VIDEO_DEVICE.fullmatch(str(Path(text).resolve()))
    return None if found is None else int(found[1])


def split_credentials(rest: str) -> tuple[str | None, str]:
    """Split what follows ``scheme://`` into ``user:password`` (or None) and host, port, path.

    People type passwords unquoted, so they may hold ``@ : / ? #``. Of several readings the one
    is taken whose host has a port; else the standard one (the last @ before the first slash);
    else the first @ that a possible host follows.
    """
    marks = [match.start() for match in re.finditer("@", rest)]
    hosts = {mark: match for mark in marks if (match := _HOST.match(rest, mark + 1))}
    with_port = [mark for mark in hosts if hosts[mark][2] and ":" in rest[:mark]]
    if not hosts or (_HOST.match(rest) and not with_port):  # host/path@x holds no credentials
        return None, rest
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    standard = authority.rfind("@")
    if with_port:
        mark = with_port[-1]
    elif standard in hosts:
        mark = standard
    else:
        mark = min(hosts)
    return rest[:mark], rest[mark + 1 :]


def expand_sources(texts: Sequence[str]) -> list[tuple[str, Source]]:
    """Turn ``[NAME=]SOURCE`` (globs and folders of videos too) into sources with unique names.

    Raises:
        SourceError: A source that cannot be used, and of a folder or pattern all of them, a line
            each; or a name given twice.

    """
    named: list[tuple[str, Source]] = []
    taken: set[str] = set()
    for text in texts:
        given, body = _split_name(text)
        sources = _expand(body)
        if given is not None and len(sources) > 1:
            raise SourceError(
                f"{given}: one name for {len(sources)} recordings; leave it out, "
                "and each is named after its file"
            )
        _check_all(sources)
        for source in sources:
            if given is not None and given in taken:
                raise SourceError(f"the camera name {given!r} is given twice; choose another")
            name = given if given is not None else _unique(_name_of(source), taken)
            taken.add(name)
            named.append((name, source))
    return named


def _check_all(sources: Sequence[Source]) -> None:
    """Check what stands for one text; a folder's bad files are told together."""
    wrong = []
    for source in sources:
        try:
            check_source(source)
        except SourceError as error:
            wrong.append(str(error))
    if wrong:
        raise SourceError("\n".join(wrong))


def check_source(source: Source) -> None:
    """Look at a local source from outside, before anything is started.

    Raises:
        SourceError: It is missing, empty, text, or a folder without images or videos.

    """
    if source.live:
        return
    path = Path(source.location)
    if not path.exists():
        raise SourceError(f"{source.display}: no such file; check the path")
    if source.kind is SourceKind.FOLDER:
        if path.is_dir() and not images_in(path):
            inside = any(each.is_dir() for each in path.iterdir())
            deeper = f"; for those in folders below, '{path / '**' / '*.mp4'}'" if inside else ""
            raise SourceError(
                f"{source.display}: is a folder without images or videos; give a video file, "
                f"or a folder of videos or of .jpg or .png pictures{deeper}"
            )
        return
    if not path.is_file():
        raise SourceError(f"{source.display}: is not a regular file; give a video file")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise SourceError(f"{source.display}: cannot be read: {error.strerror}") from None
    if not head:
        raise SourceError(f"{source.display}: is empty (0 bytes); record or copy it again")
    if _is_text(head):
        raise SourceError(f"{source.display}: is text, not a video; give a video file")


def source_bytes(source: Source) -> int | None:
    """Size of a recording, or of all pictures of a folder; None of what is live or gone."""
    if source.live:
        return None
    path = Path(source.location)
    try:
        return sum(one.stat().st_size for one in (images_in(path) if path.is_dir() else [path]))
    except OSError:
        return None


def images_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder in the order of their names, hidden ones left out."""
    shown = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in shown if path.suffix.lower() in IMAGE_SUFFIXES)


def _network_source(scheme: str, rest: str) -> Source:
    credentials, place = split_credentials(rest)
    host = _HOST.match(place)
    if host is None:
        raise SourceError(
            f"{redact_url(f'{scheme}://{rest}')}: names no host; "
            f"write {scheme}://user:password@host:port/path"
        )
    display = f"{scheme}://{'***@' if credentials else ''}{place}"
    if host[2] is not None and not 1 <= int(host[2]) <= _LAST_PORT:
        raise SourceError(
            f"{redact(display)}: there is no port {host[2]}; ports go from 1 to {_LAST_PORT}"
        )
    if credentials is None:
        return Source(SourceKind(scheme), redact(display), f"{scheme}://{place}")
    user, colon, password = credentials.partition(":")
    quoted = (
        quote(unquote_to_bytes(user), safe="") + colon + quote(unquote_to_bytes(password), safe="")
    )
    return Source(SourceKind(scheme), redact(display), f"{scheme}://{quoted}@{place}")


def _refusal(scheme: str, login: bool) -> str:
    """Say why a scheme is not taken; before a ``login`` it may be a user's name and no scheme."""
    if scheme.lower() == "file":
        return "file: URLs are not taken; give the path itself"
    meant = [known for known in LIVE_SCHEMES if sorted(known) == sorted(scheme.lower())]
    if meant:  # a slash is missing, or letters are swapped
        return f"{scheme}: is no address; did you mean {meant[0]}://host/path?"
    if login:
        return "is no address; write rtsp:// (or http://) before the user"
    return (
        f"the scheme {scheme!r} is not allowed; "
        f"live sources are {', '.join(f'{known}://' for known in LIVE_SCHEMES)}, else give a path"
    )


def _split_name(text: str) -> tuple[str | None, str]:
    match = _NAMED.fullmatch(text.strip())
    if Path(text).exists():
        return None, text
    if match is None:
        _check_unnamed(text.strip())
        return None, text
    return match[1], match[2]


def _check_unnamed(text: str) -> None:
    """Raise SourceError for what was meant as ``NAME=SOURCE``; an address may hold ``=`` too."""
    name, equals, body = text.partition("=")
    if not equals or "/" in name or glob.has_magic(text):
        return
    if name and not body:
        raise SourceError(f"{redact(text)}: no source behind the '='; write NAME=SOURCE")
    raise SourceError(
        f"{redact(name)!r} cannot name a camera: a name is 1 to 64 of A-Z, a-z, 0-9, '_', '.' and "
        "'-', and begins with a letter or digit"
    )


def _expand(body: str) -> list[Source]:
    if not glob.has_magic(body) or Path(body).exists() or "://" in body:
        source = parse_source(body)
        return _recordings_in(source, Path(body.strip())) or [source]
    matches = sorted(glob.glob(body, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute
    paths = [path for path in matches if _is_watchable(Path(path))]
    if not paths:
        raise SourceError(f"{redact_url(body)}: no video file matches; check the pattern")
    return [parse_source(path) for path in paths]


def _recordings_in(source: Source, typed: Path) -> list[Source]:
    """Each video file of a folder, by name; none where it is no folder of videos.

    A folder of pictures is one recording made of them. ``typed`` is its path as it was given.

    Raises:
        SourceError: It holds both, as where a recorder keeps a picture beside each recording.

    """
    folder = Path(source.location)
    if source.kind is not SourceKind.FOLDER or not folder.is_dir():
        return []
    names = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
    found = [name for name in names if Path(name).suffix.lower() in VIDEO_SUFFIXES]
    if found and images_in(folder):
        videos = redact_url(str(typed / f"*{Path(found[0]).suffix}"))
        raise SourceError(
            f"{source.display}: holds videos and pictures; give the videos alone as '{videos}', "
            "or put the pictures into a folder of their own"
        )
    return [parse_source(str(typed / name)) for name in found]


def _is_watchable(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES or path.is_dir()


def _name_of(source: Source) -> str:
    if source.kind is SourceKind.DEVICE:
        raw = f"camera{source.location}"
    elif source.live:
        place = source.location.split("://", 1)[1]
        host = _HOST.match(split_credentials(place)[1])
        raw = host[1] if host else "camera"
    else:
        raw = Path(source.location).stem
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", raw).strip("-._")[:56]
    return name or "camera"


def _unique(name: str, taken: set[str]) -> str:
    candidate: Callable[[int], str] = lambda n: name if n == 1 else f"{name}-{n}"  # noqa: E731
    number = 1
    while candidate(number) in taken:
        number += 1
    return candidate(number)


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not merely cut within the last character
            return False
        text = head[: error.start].decode("utf-8")
    return all(char.isprintable() or char in "\r\n\t\f\v" for char in text)
