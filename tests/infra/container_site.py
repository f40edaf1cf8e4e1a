"""Containers on this machine without a registry: podman and buildah with their storage below the checkout.

What comes from a registry elsewhere is stood in for: Python's image by a Debian of `debootstrap`, those of PostgreSQL
and SeaweedFS by what `standins/` makes of it. A build installs from where this machine's pip and npm do; what they are
told is mounted while the build runs, and is in no image.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from tests.infra.files import CHECKOUT, IMAGE

FOLDER = CHECKOUT / ".cache/containers"
_PACKAGES = ("podman", "runc", "buildah", "debootstrap", "netavark", "aardvark-dns", "catatonit")
_STANDINS = Path(__file__).with_name("standins")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_OF_BUILD = ("--isolation", "chroot", "--network", "host", "--layers", "--format", "docker")
"""Build steps run without a container's limits, which this may not be allowed to set; health checks are Docker's."""

_CONTAINERS = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
helper_binaries_dir = ["/usr/lib/podman", "/usr/libexec/podman"]
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""


def set_up() -> None:
    """Install what is lacking, and make the environment of this process that of podman and buildah."""
    lacking = [name for name in _PACKAGES if not _is_installed(name)]
    if lacking:
        subprocess.run(["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *lacking], check=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in (("containers.conf", _CONTAINERS), ("storage.conf", _STORAGE)):
        (FOLDER / name).write_text(text.format(folder=FOLDER))
    os.environ["CONTAINERS_CONF"] = str(FOLDER / "containers.conf")
    os.environ["CONTAINERS_STORAGE_CONF"] = str(FOLDER / "storage.conf")


def _is_installed(package: str) -> bool:
    return not subprocess.run(["dpkg", "--status", package], capture_output=True, check=False).returncode


def say(*command: str, check: bool = True) -> str:
    """Run a command and return all that it says, by a file: what it starts may hold a pipe open for ever."""
    with TemporaryFile("w+") as said:
        ended = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False)
        said.seek(0)
        text = said.read()
    assert not check or ended.returncode == 0, text[-4000:]
    return text


def build_image() -> None:
    """Build ``cohortlens:cpu`` as infra/Dockerfile says, on the stand-in of its base."""
    (base,) = re.findall(r"^FROM (\S+) AS base$", IMAGE, re.MULTILINE)
    _make_base(f"docker.io/library/{base}")
    with TemporaryDirectory() as folder:
        mounts = [f"--volume={source}:{target}:ro" for source, target in _installers(Path(folder))]
        file = str(CHECKOUT / "infra/Dockerfile")
        say("buildah", "bud", *_OF_BUILD, *mounts, "--target", "cpu", "--tag", "cohortlens:cpu", "--file", file, ".")


def build_standins() -> None:
    """Make what stands in for the images of PostgreSQL and SeaweedFS."""
    context = shutil.copytree(_STANDINS, FOLDER / "standins", dirs_exist_ok=True)
    shutil.copy2(Path(sys.executable).with_name("weed"), context)
    for name, tag in (("postgres", "library/postgres:17"), ("seaweedfs", "chrislusf/seaweedfs:4.48")):
        file = str(context / f"{name}.Dockerfile")
        say("buildah", "bud", *_OF_BUILD, "--tag", f"docker.io/{tag}", "--file", file, str(context))


def _make_base(name: str) -> None:
    """Import a minimal Debian with its Python, of the release and from the mirror that apt has here."""
    if not subprocess.run(["podman", "image", "exists", name], check=False).returncode:
        return
    release = name.rpartition("-")[2]
    policy = subprocess.check_output(["apt-cache", "policy", "base-files"], text=True)
    mirror = re.search(r"\d (https?://\S+|file:\S+) \S+/main", policy)
    assert mirror, f"apt has no mirror:\n{policy}"
    with TemporaryDirectory(dir=FOLDER) as root:
        packages = "--include=python3,python3-venv,python-is-python3,ca-certificates"
        say("debootstrap", "--variant=minbase", packages, release, root, mirror[1])
        say("sh", "-c", f"tar --directory {root} --create . | podman import - {name}")


def _installers(folder: Path) -> list[tuple[Path, Path]]:
    """Collect what pip and npm of this machine are told, and the folders and files that this names."""
    told = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    options = {name.rpartition(".")[2]: value for name, value in re.findall(r"^(\S+)='(.*)'$", told, re.MULTILINE)}
    options.pop("cache-dir", None)
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()))
    own = Path.home() / ".npmrc"
    (folder / "npmrc").write_text(f"{own.read_text() if own.exists() else ''}\ncafile={_CERTIFICATES}\n")
    named = {Path(word.removeprefix("file://")) for value in options.values() for word in value.split()}
    places = {place for path in named if path.is_absolute() for place in _place(path)} | {_CERTIFICATES}
    return [(folder / "pip.conf", Path("/etc/pip.conf")), (folder / "npmrc", Path("/root/.npmrc"))] + [
        (place, place) for place in sorted(places)
    ]


def _place(path: Path) -> list[Path]:
    """Name the places that a path needs: itself, and for an index its parent, where the files lie that it links to."""
    return [path.parent if path.name == "simple" else path] if path.exists() else []
