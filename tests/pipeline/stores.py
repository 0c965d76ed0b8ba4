"""The stores that teams have, as real servers on free loopback ports."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.project import Project

PASSWORD = "a password: of the team's"


@dataclass
class Store:
    """A DVC remote: its URL, the settings that reach it, and where a server keeps its objects."""

    url: str
    settings: dict[str, str] = field(default_factory=dict)
    # Give one object's path below the URL and a function of its bytes; it is stored changed.
    change_object: Callable[[str, Callable[[bytes], bytes]], None] = lambda *_: None


def use(project: Project, store: Store) -> None:
    """Name the store, as the README says: for this clone only, and with checks of what comes."""
    project.run("dvc", "remote", "add", "--local", "--default", "team", store.url)
    for name, value in ({"verify": "true"} | store.settings).items():
        project.run("dvc", "remote", "modify", "--local", "team", name, value)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def program(name: str) -> str:
    """Return the path of a server's program, or skip the test with the reason."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed (.ci/install-packages installs it from Debian)")
    return path


@contextmanager
def running(command: list[str | Path], port: int, log: Path) -> Iterator[None]:
    """Run a server until the block ends; wait until it accepts connections."""
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            for _ in range(200):
                assert server.poll() is None, log.read_text()
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                pytest.fail(f"{command[0]} does not answer: {log.read_text()}")
            yield
        finally:
            server.terminate()


def change_file(root: Path) -> Callable[[str, Callable[[bytes], bytes]], None]:
    def change(path: str, function: Callable[[bytes], bytes]) -> None:
        file = root / path
        file.chmod(0o644)
        file.write_bytes(function(file.read_bytes()))

    return change


@contextmanager
def folder(root: Path) -> Iterator[Store]:
    """A folder that everybody sees."""
    objects = root / "objects"
    objects.mkdir()
    yield Store(str(objects), change_object=change_file(objects))


@contextmanager
def ssh(root: Path) -> Iterator[Store]:
    """OpenSSH's sshd, with a throw-away key."""
    sshd, port = program("sshd"), free_port()
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True
        )
    (root / "authorized_keys").write_bytes((root / "user_key.pub").read_bytes())
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks itself in as root
    (root / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {root}/host_key\nPidFile {root}/sshd.pid\n"
        f"AuthorizedKeysFile {root}/authorized_keys\nPasswordAuthentication no\nUsePAM no\n"
        "StrictModes no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    objects = root / "objects"
    with running([sshd, "-D", "-e", "-f", root / "sshd_config"], port, root / "sshd.log"):
        yield Store(
            f"ssh://{getpass.getuser()}@127.0.0.1:{port}{objects}",
            {"keyfile": str(root / "user_key")},
            change_file(objects),
        )


@contextmanager
def nginx(root: Path) -> Iterator[int]:
    """nginx, which serves root/objects at /read/ for reading and at /objects/ as WebDAV."""
    nginx, port = program("nginx"), free_port()
    module = Path("/usr/lib/nginx/modules/ngx_http_dav_ext_module.so")
    if not module.exists():
        pytest.skip(
            "nginx's WebDAV module is not installed (.ci/install-packages installs it from Debian)"
        )
    (root / "objects").mkdir()
    (root / "read").symlink_to("objects")
    digest = subprocess.run(
        ["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True
    ).stdout
    (root / "passwords").write_text(f"team:{digest}")
    (root / "nginx.conf").write_text(f"""
        {"user root;" if os.geteuid() == 0 else ""}
        daemon off;
        pid {root}/nginx.pid;
        load_module {module};
        events {{}}
        http {{
            access_log off;
            client_max_body_size 0;
            client_body_temp_path {root}/body;
            proxy_temp_path {root}/proxy;
            fastcgi_temp_path {root}/fastcgi;
            uwsgi_temp_path {root}/uwsgi;
            scgi_temp_path {root}/scgi;
            server {{
                listen 127.0.0.1:{port};
                root {root};
                location / {{ deny all; }}
                location /read/ {{ limit_except GET {{ deny all; }} }}
                location /objects/ {{
                    dav_methods PUT DELETE MKCOL COPY MOVE;
                    dav_ext_methods PROPFIND OPTIONS;
                    create_full_put_path on;
                    auth_basic team;
                    auth_basic_user_file {root}/passwords;
                }}
            }}
        }}
    """)
    with running([nginx, "-c", root / "nginx.conf", "-e", root / "error.log"], port, root / "log"):
        yield port


@contextmanager
def webdav(root: Path) -> Iterator[Store]:
    """nginx's WebDAV, with a password."""
    with nginx(root) as port:
        yield Store(
            f"webdav://127.0.0.1:{port}/objects",
            {"user": "team", "password": PASSWORD},
            change_file(root / "objects"),
        )


@contextmanager
def http(root: Path) -> Iterator[Store]:
    """A folder that nginx serves for reading."""
    with nginx(root) as port:
        yield Store(f"http://127.0.0.1:{port}/read", {}, change_file(root / "objects"))


@contextmanager
def s3(root: Path) -> Iterator[Store]:
    """Moto's server, which speaks S3."""
    import boto3

    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    with running(["moto_server", "-H", "127.0.0.1", "-p", str(port)], port, root / "moto.log"):
        keys = {"access_key_id": "key", "secret_access_key": "secret"}
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            **{f"aws_{name}": value for name, value in keys.items()},
        )
        client.create_bucket(Bucket="team")

        def change_object(path: str, function: Callable[[bytes], bytes]) -> None:
            content = client.get_object(Bucket="team", Key=f"objects/{path}")["Body"].read()
            client.put_object(Bucket="team", Key=f"objects/{path}", Body=function(content))

        yield Store(
            "s3://team/objects",
            {"endpointurl": endpoint, "region": "us-east-1"} | keys,
            change_object,
        )
