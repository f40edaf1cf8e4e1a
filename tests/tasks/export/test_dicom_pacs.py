"""Objects at a PACS: what was sent to a real one comes back as it was, and whatever goes wrong is told by object."""

import logging
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, ParametricMapStorage, SegmentationStorage
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelGet

from models.errors import ConfigurationError
from tasks.export import pacs as pacs_module
from tasks.export.pacs import CERTIFICATE, KEY, TITLE, TOKEN, Pacs, Unreachable
from tasks.export.segmentation import segmentation
from tasks.export.sending import check_sending
from tasks.export.structured_report import Scores, structured_report
from tests.orthanc import NAME, PASSWORD, Orthanc, orthanc
from tests.tasks.export.dicom_cases import GRADCAM, STUDY, encoded, mapped, sourced
from tests.tasks.export.test_dicom_map import radiograph, series
from tests.tasks.readers.test_dicom_series import oblique


@pytest.fixture(scope="module")
def objects() -> list[bytes]:
    values, source = sourced(series(oblique(1)))
    made = [
        mapped(values, source),
        segmentation(values > 0, source, GRADCAM),
        structured_report([Scores("lesion", {"probability": 0.5})], source, GRADCAM),
        mapped(*sourced([radiograph()], 2)),
    ]
    return [encoded(one) for one in made]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacs_module, "_WAITS", (0.0, 0.01, 0.01))


@pytest.fixture
def netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login {NAME} password {PASSWORD}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def sent(address: str, objects: list[bytes]) -> list[str | None]:
    with Pacs.of(address).connected() as store:
        return [store(one) for one in objects]


def content(data: bytes) -> Dataset:
    """All that an object says beside its file's own header, which a PACS writes anew."""
    found = dcmread(BytesIO(data))
    found.remove_private_tags()
    return found


def assert_same(found: bytes, expected: bytes) -> None:
    was, came = content(expected), content(found)
    assert came.to_json_dict() == was.to_json_dict()
    if "FloatPixelData" in was:
        np.testing.assert_array_equal(came.pixel_array, was.pixel_array)


def by_get(server: Orthanc) -> dict[str, bytes]:
    """Get the study back by C-GET."""
    found = {}

    def keep(event: Any) -> int:
        came = event.dataset
        came.file_meta = event.file_meta
        found[str(came.SOPInstanceUID)] = encoded(came)
        return 0x0000

    entity = AE(ae_title="COHORTLENS")
    entity.add_requested_context(PatientRootQueryRetrieveInformationModelGet)
    kinds = [ParametricMapStorage, SegmentationStorage, ComprehensiveSRStorage]
    for kind in kinds:
        entity.add_requested_context(kind)
    roles = [build_role(kind, scp_role=True) for kind in kinds]
    association = entity.associate(
        "127.0.0.1",
        server.port,
        ae_title=server.title,
        ext_neg=roles,
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    )
    query = Dataset()
    query.QueryRetrieveLevel, query.PatientID, query.StudyInstanceUID = "STUDY", "4711", STUDY
    assert [*association.send_c_get(query, PatientRootQueryRetrieveInformationModelGet)]
    association.release()
    return found


def by_wado(server: Orthanc) -> dict[str, bytes]:
    """Get the study back by WADO-RS."""
    import requests

    session = requests.Session()
    session.auth = (NAME, PASSWORD)
    found = DICOMwebClient(f"{server.url}/dicom-web", session=session).retrieve_study(STUDY)
    return {str(one.SOPInstanceUID): encoded(one) for one in found}


@pytest.mark.usefixtures("netrc")
@pytest.mark.parametrize("how", ["dimse", "web"])
@pytest.mark.parametrize("back", [by_get, by_wado, Orthanc.instances])
def test_what_is_sent_comes_back_as_it_was(
    server: Orthanc, objects: list[bytes], how: str, back: Callable[[Orthanc], dict[str, bytes]]
) -> None:
    dimse = f"dicom://{server.title}@127.0.0.1:{server.port}"
    address = dimse if how == "dimse" else f"{server.url}/dicom-web"
    assert sent(address, objects) == [None] * len(objects)
    found = back(server)
    assert len(found) == len(objects)
    for one in objects:
        assert_same(found[str(dcmread(BytesIO(one)).SOPInstanceUID)], one)


@pytest.mark.usefixtures("netrc")
def test_what_is_sent_again_is_there_once(server: Orthanc, objects: list[bytes]) -> None:
    for _ in range(2):
        assert sent(f"{server.url}/dicom-web/", objects[:1]) == [None]
    uids = [str(dcmread(BytesIO(one)).SOPInstanceUID) for one in objects]
    assert len([uid for uid in server.instances() if uid == uids[0]]) == 1


def test_a_pacs_that_does_not_know_us_says_so(server: Orthanc, objects: list[bytes]) -> None:
    with pytest.raises(Unreachable, match=r"answers 401: give credentials in COHORTLENS_PACS_TOKEN, or a .netrc"):
        sent(f"{server.url}/dicom-web", objects[:1])
    with pytest.raises(Unreachable, match=r"the PACS WRONG@127.0.0.1:\d+ rejects the association: does it know COHORT"):
        sent(f"dicom://WRONG@127.0.0.1:{server.port}", objects[:1])


@pytest.mark.usefixtures("netrc")
def test_an_address_without_a_service_says_so(server: Orthanc, objects: list[bytes]) -> None:
    with pytest.raises(Unreachable, match="answers 404: no DICOMweb service lies there"):
        sent(f"{server.url}/elsewhere", objects[:1])


@pytest.mark.parametrize("address", ["dicom://PACS@127.0.0.1:9", "http://127.0.0.1:9/dicom-web"])
def test_nobody_there_says_so(address: str, objects: list[bytes]) -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        sent(address, objects[:1])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://reader:secret@pacs/dicom-web", "holds credentials"),
        ("https://pacs/dicom-web?token=secret", "holds credentials"),
        ("https://pacs/dicom-web?x=secret", "has a query or a fragment"),
        ("dicom://PACS:secret@host:104", "holds a password"),
        ("dicom://host:104", "has to name the entity"),
        ("dicom://PACS@host", "has to name the entity"),
        ("dicom://AVERYLONGTITLEINDEED@host:104", "up to 16 characters"),
        ("dicom://PACS@host:port", "--send"),
        ("http://pacs/dicom-web", "would show patients to the network"),
        ("ftp://pacs", "give dicom://AET@host:port"),
        ("pacs", "give dicom://AET@host:port"),
    ],
)
def test_what_is_no_address_is_refused(address: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as error:
        Pacs.of(address)
    assert "secret" not in str(error.value)


def test_addresses_are_taken_apart() -> None:
    assert Pacs.of("dicom://PACS@host:104") == Pacs(title="PACS", host="host", port=104)
    assert Pacs.of("dicoms://PACS@host:2762") == Pacs(title="PACS", host="host", port=2762, is_secure=True)
    assert Pacs.of("https://pacs/dicom-web/") == Pacs(url="https://pacs/dicom-web")
    assert str(Pacs.of("dicom://PACS@host:104")) == "PACS@host:104"


class Peer:
    """A storage provider that answers as it is told, and remembers who has called."""

    def __init__(self, statuses: list[int], kinds: list[str], secure: ssl.SSLContext | None = None) -> None:
        self.statuses = statuses
        self.callers: list[str] = []
        self.uids: list[str] = []
        self.wait = 0.0
        entity = AE(ae_title="PEER")
        for kind in kinds:
            entity.add_supported_context(kind)
        handlers = [(evt.EVT_C_STORE, self._answer), (evt.EVT_REQUESTED, self._called)]
        self.server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=secure)
        self.port = self.server.server_address[1]

    def _called(self, event: Any) -> None:
        self.callers.append(event.assoc.requestor.primitive.calling_ae_title)

    def _answer(self, event: Any) -> int:
        self.uids.append(str(event.request.AffectedSOPInstanceUID))
        time.sleep(self.wait)
        status = self.statuses.pop(0) if self.statuses else 0
        if status < 0:
            event.assoc.abort()
        return max(status, 0)


@pytest.mark.parametrize(
    ("statuses", "reason", "asked"),
    [
        ([0xB000], None, 1),
        ([0xA900], "status 0xA900", 1),
        ([0xC123], "status 0xC123", 1),
        ([0xA700, 0], None, 2),
        ([0xA700] * 3, "status 0xA700", 3),
        ([-1, 0], None, 2),
        ([-1, -1, -1], "it does not answer", 3),
    ],
    ids=["warning", "no match", "not understood", "full, then not", "full", "aborted once", "aborted"],
)
def test_what_the_pacs_answers_is_told(
    statuses: list[int], reason: str | None, asked: int, objects: list[bytes]
) -> None:
    peer = Peer([*statuses], [ParametricMapStorage])
    try:
        found = sent(f"dicom://PEER@127.0.0.1:{peer.port}", [objects[0], objects[1], objects[3]])
    finally:
        peer.server.shutdown()
    assert found == [reason, "it takes no Segmentation Storage", None]
    assert len(peer.uids) == asked + 1


def test_we_call_ourselves_as_the_environment_says(monkeypatch: pytest.MonkeyPatch, objects: list[bytes]) -> None:
    monkeypatch.setenv(TITLE, "RESEARCH")
    peer = Peer([], [ParametricMapStorage])
    try:
        assert sent(f"dicom://PEER@127.0.0.1:{peer.port}", objects[:1]) == [None]
    finally:
        peer.server.shutdown()
    assert peer.callers == ["RESEARCH"]


@pytest.mark.parametrize(
    ("variable", "value", "address", "message"),
    [
        (
            TITLE,
            "A TITLE THAT IS TOO LONG",
            "dicom://PEER@127.0.0.1:9",
            "AE_TITLE: 'A TITLE THAT IS TOO LONG' is no AE",
        ),
        (TITLE, "", "dicom://PEER@127.0.0.1:9", "AE_TITLE: '' is no AE title"),
        (TITLE, "COHORTLENS", "dicom://PÉER@127.0.0.1:9", "--send: 'PÉER' is no AE title"),
        (CERTIFICATE, "/nowhere.pem", "dicoms://PEER@127.0.0.1:9", "PACS_CERTIFICATE, .*FileNotFoundError.*in PEM"),
        (CERTIFICATE, __file__, "https://127.0.0.1:9/dicom-web", "PACS_CERTIFICATE, .*SSLError.*in PEM"),
    ],
)
def test_who_asks_is_checked_before_anything_is_exported(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, address: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=message):
        check_sending(address, ["dicom-map"])


def test_a_pacs_that_hangs_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch, objects: list[bytes]) -> None:
    monkeypatch.setattr(pacs_module, "_SECONDS_TO_ANSWER", 1)
    peer = Peer([], [ParametricMapStorage])
    peer.wait = 3
    try:
        with pytest.raises(Unreachable, match="has not answered for 1 s"):
            sent(f"dicom://PEER@127.0.0.1:{peer.port}", objects[:1])
    finally:
        peer.server.shutdown()
    assert len(peer.uids) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    names = (str(folder / "certificate.pem"), str(folder / "key.pem"))
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", names[0], "-keyout", names[1]]
    subprocess.run(made, check=True, capture_output=True)
    return names


def test_tls_is_kept_on_both_sides(
    monkeypatch: pytest.MonkeyPatch, certificate: tuple[str, str], objects: list[bytes]
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate[0])
    context.load_cert_chain(*certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    peer = Peer([], [ParametricMapStorage], context)
    address = f"dicoms://PEER@127.0.0.1:{peer.port}"
    try:
        with pytest.raises(Unreachable, match="does not answer"):  # for nobody vouches for it
            sent(address, objects[:1])
        monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
        monkeypatch.setenv(CERTIFICATE, certificate[0])
        monkeypatch.setenv(KEY, certificate[1])
        assert sent(address, objects[:1]) == [None]
        with pytest.raises(Unreachable, match="does not answer"):
            sent(address.replace("dicoms", "dicom"), objects[:1])
    finally:
        peer.server.shutdown()


class Web(BaseHTTPRequestHandler):
    """A DICOMweb service that answers as it is told, and remembers what it was sent."""

    answers: list[tuple[int, bytes]]
    asked: list[tuple[str, int]]

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.asked.append((self.headers["Authorization"], len(self.rfile.read(length))))
        code, body = self.answers.pop(0)
        self.send_response(code)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    Web.answers, Web.asked = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
        server.shutdown()


FAILED = b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}'


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([(200, b"{}")], None),
        ([(202, FAILED)], "status 0x0110"),
        ([(409, FAILED)], "HTTP status 409"),
        ([(503, b""), (200, b"{}")], None),
        ([(503, b"")] * 3, "it is too busy"),
        ([(200, b"no JSON")], "its answer cannot be read"),
        ([(200, b"[1]")], "its answer cannot be read"),
        ([(200, b"")], None),
    ],
)
def test_what_the_service_answers_is_told(
    web: str,
    answers: list[tuple[int, bytes]],
    reason: str | None,
    objects: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKEN, "a-token")
    Web.answers = [*answers]
    assert sent(web, objects[:1]) == [reason]
    assert Web.asked == [("Bearer a-token", Web.asked[0][1])] * len(answers)
    assert Web.asked[0][1] > len(objects[0])


def test_a_large_object_is_repeated_whole(web: str, objects: list[bytes]) -> None:
    large = dcmread(BytesIO(objects[0]))
    large.add_new("EncapsulatedDocument", "OB", bytes(3_000_000))
    Web.answers = [(503, b""), (200, b"{}")]
    assert sent(web, [encoded(large)]) == [None]
    assert Web.asked[0] == Web.asked[1] and Web.asked[0][1] > 3_000_000


@pytest.mark.usefixtures("netrc")
def test_nothing_of_a_patient_is_logged(
    server: Orthanc, objects: list[bytes], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        sent(f"dicom://{server.title}@127.0.0.1:{server.port}", objects)
        sent(f"{server.url}/dicom-web", objects)
    told = capfd.readouterr()
    for text in (caplog.text, told.out, told.err):
        assert "4711" not in text and "ller" not in text and STUDY not in text and PASSWORD not in text
