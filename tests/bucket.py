"""A server on localhost that speaks as much of Google Cloud Storage's JSON API as gcsfs, TensorStore and TensorBoard's
writer need (https://cloud.google.com/storage/docs/json_api): objects with generations, and conditions on them."""

import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

NAME = "bucket"
OBJECTS = re.compile(rf"/(?:download/|upload/)?storage/v1/b/{NAME}/o")


class Object(NamedTuple):
    """An object and which version of it this is."""

    data: bytes
    generation: int


class Bucket:
    """What a server holds, and how to reach it.

    Attributes:
        refuse: whether all is forbidden.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.lock, self.generation, self.refuse, self.address = threading.Lock(), 0, False, ""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that send the three libraries here."""
        return {
            "STORAGE_EMULATOR_HOST": self.address,
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            "GCE_METADATA_ROOT": "localhost:1",  # nobody need look for a virtual machine's credentials
            "GOOGLE_CLOUD_PROJECT": "project",
        }

    def put(self, name: str, data: bytes, query: Mapping[str, str]) -> Object | None:
        """Writes an object; None where a condition does not hold."""
        with self.lock:
            before = self.objects.get(name)
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != (before.generation if before else 0):
                return None
            self.generation += 1
            self.objects[name] = Object(data, self.generation)
            return self.objects[name]

    def remove(self, name: str, query: Mapping[str, str]) -> int:
        """Removes an object; the status."""
        with self.lock:
            before = self.objects.get(name)
            if before is None:
                return 404
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != before.generation:
                return 412
            del self.objects[name]
            return 204


def described(name: str, found: Object) -> dict[str, Any]:
    """What the API says of an object."""
    times = dict.fromkeys(("timeCreated", "updated"), "2026-01-01T00:00:00.000Z")
    numbers = {"size": str(len(found.data)), "generation": str(found.generation), "metageneration": "1"}
    return {"kind": "storage#object", "bucket": NAME, "name": name, **numbers, **times}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    bucket: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Sends a whole answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def say(self, content: Mapping[str, Any], status: int = 200) -> None:
        """Sends JSON."""
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def fail(self, status: int) -> None:
        """Sends an error as Google does."""
        self.say({"error": {"code": status, "message": {403: "Forbidden", 404: "Not Found"}.get(status, "")}}, status)

    def asked(self) -> tuple[str, str | None, dict[str, str], bytes]:
        """The path, the name of the object in it, the query and the body of a request."""
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        found = OBJECTS.match(parts.path)
        name = unquote(parts.path[found.end() + 1 :]) if found and found.end() < len(parts.path) else None
        return parts.path, name, dict(parse_qsl(parts.query)), body

    def do_GET(self) -> None:
        """An object, what is known of it, a list, or the bucket."""
        path, name, query, _ = self.asked()
        if self.bucket.refuse:
            return self.fail(403)
        if name is not None:
            found = self.bucket.objects.get(name)
            if found is None:
                return self.fail(404)
            return self.content(found, query) if query.get("alt") == "media" else self.say(described(name, found))
        if OBJECTS.match(path):
            return self.list(query)
        return self.say({"name": NAME}) if path.endswith(f"/b/{NAME}") else self.fail(404)

    def content(self, found: Object, query: Mapping[str, str]) -> None:
        """Sends an object, or a range of it."""
        headers = {"x-goog-generation": str(found.generation), "ETag": f'"{found.generation}"'}
        if query.get("ifGenerationNotMatch") == str(found.generation):
            return self.answer(304, headers=headers)
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            return self.answer(200, found.data, headers)
        size = len(found.data)
        start = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
        end = min(int(wanted[2]) + 1, size) if wanted[1] and wanted[2] else size
        if start >= size:
            return self.answer(416, headers={**headers, "Content-Range": f"bytes */{size}"})
        return self.answer(206, found.data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"})

    def list(self, query: Mapping[str, str]) -> None:
        """Sends what begins with a prefix, and what lies together up to a delimiter."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for name, found in sorted(self.bucket.objects.items()):
            outside = not query.get("startOffset", "") <= name or ("endOffset" in query and name >= query["endOffset"])
            if not name.startswith(prefix) or outside:
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(described(name, found))
        self.say({"items": items, "prefixes": sorted(prefixes)})

    def do_POST(self) -> None:
        """Writes an object, or removes many."""
        path, uploaded, query, body = self.asked()
        if self.bucket.refuse:
            return self.fail(403)
        if path.startswith("/batch"):
            return self.batch(body)
        if uploaded is not None:
            return self.written(uploaded, body, query)
        if not OBJECTS.match(path):
            return self.fail(404)
        name, kind = query.get("name", ""), query.get("uploadType")
        if kind == "resumable":
            name = name or json.loads(body)["name"]
            place = f"{self.bucket.address}{path}/{quote(name, safe='')}?{urlsplit(self.path).query}"
            return self.answer(200, headers={"Location": place})
        if kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary is not None
            parts = re.split(rb"\r?\n?--" + re.escape(boundary[1].encode()), body)
            (told, data) = (re.split(rb"\r?\n\r?\n", part, maxsplit=1)[1] for part in parts[1:3])
            name, body = json.loads(told)["name"], data
        return self.written(name, body, query)

    def do_PUT(self) -> None:
        """The one part of a resumable upload."""
        _, name, query, body = self.asked()
        assert name is not None
        return self.written(name, body, query)

    def written(self, name: str, data: bytes, query: Mapping[str, str]) -> None:
        """Writes an object and says so."""
        found = self.bucket.put(name, data, query)
        return self.fail(412) if found is None else self.say(described(name, found))

    def do_DELETE(self) -> None:
        """Removes an object."""
        _, name, query, _ = self.asked()
        if self.bucket.refuse or name is None:
            return self.fail(403)
        status = self.bucket.remove(name, query)
        return self.answer(204) if status == 204 else self.fail(status)

    def batch(self, body: bytes) -> None:
        """Removes all that a batch names."""
        answers = []
        for path in re.findall(rb"DELETE (\S+) HTTP", body):
            name = unquote(OBJECTS.sub("", urlsplit(path.decode()).path, count=1)[1:])
            status = self.bucket.remove(name, {})
            answers.append(f"\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status} \r\n\r\n")
        text = "--parts".join(["", *answers, "--"])
        self.answer(200, text.encode(), {"Content-Type": "multipart/mixed; boundary=parts"})


class Server(ThreadingHTTPServer):
    """A client that has read enough hangs up, which is no error."""

    def handle_error(self, *_: object) -> None:
        """Says nothing of a client that is gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)


@contextmanager
def serving() -> Iterator[Bucket]:
    """A server with an empty bucket of the name `NAME`, in threads of this process."""
    bucket = Bucket()
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"bucket": bucket}))
    bucket.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
