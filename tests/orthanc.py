"""An Orthanc server of our own, a PACS."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.debian import needed
from tests.seaweedfs import free_ports

_DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
NAME, PASSWORD = "reader", "tells-nobody"


@dataclass(frozen=True)
class Orthanc:
    """A running server: what others call it, and where it answers DICOM and HTTP."""

    title: str
    port: int
    url: str

    def rest(self, path: str) -> bytes:
        """Ask its own interface, which is neither C-GET nor DICOMweb."""
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        manager.add_password(None, self.url, NAME, PASSWORD)
        opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(manager))
        with opener.open(f"{self.url}/{path}", timeout=30) as answer:
            found: bytes = answer.read()
        return found

    def instances(self) -> dict[str, bytes]:
        """All files that it holds, by SOPInstanceUID."""
        found = {}
        for one in json.loads(self.rest("instances")):
            uid = json.loads(self.rest(f"instances/{one}/simplified-tags"))["SOPInstanceUID"]
            found[uid] = self.rest(f"instances/{one}/file")
        return found


@contextmanager
def orthanc(folder: Path, **settings: Any) -> Iterator[Orthanc]:
    """Run a server with its data in `folder` for the body."""
    dicom, http = free_ports(2)
    config = {
        "Name": "tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "TemporaryDirectory": str(folder),
        "Plugins": [needed(_DICOMWEB, "orthanc-dicomweb")],
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "DicomCheckCalledAet": True,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {NAME: PASSWORD},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomAlwaysAllowGet": True,
        "DicomModalities": {"us": ["COHORTLENS", "127.0.0.1", 4242]},
        **settings,
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    log = folder / "log.txt"
    with log.open("wb") as sink:
        server = subprocess.Popen(
            [needed("Orthanc", "orthanc"), str(folder / "orthanc.json")], stdout=sink, stderr=subprocess.STDOUT
        )
    found = Orthanc("ORTHANC", dicom, f"http://127.0.0.1:{http}")
    try:
        _wait_for(found, server, log)
        yield found
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(found: Orthanc, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(150):
        if server.poll() is not None:
            break
        try:
            found.rest("system")
            return
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"Orthanc did not start:\n{log.read_text()[-3000:]}")
