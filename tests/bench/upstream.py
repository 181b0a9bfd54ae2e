"""nginx as the API behind every server: it serves static files, so that the upstream is not the bottleneck."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pwd import getpwuid
from typing import Final

from tests.bench.processes import free_port, listening

_CONFIG: Final = """\
daemon off;
user {user};
pid {folder}/nginx.pid;
error_log stderr error;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  default_type application/json;
  tcp_nodelay on;
  client_body_temp_path {folder}/temp;
  proxy_temp_path {folder}/temp;
  fastcgi_temp_path {folder}/temp;
  uwsgi_temp_path {folder}/temp;
  scgi_temp_path {folder}/temp;
  server {{
    listen 127.0.0.1:{port};
    root {folder};
    location = /api/products {{ try_files /products.json =404; }}
    location = /api/large {{ try_files /large.json =404; }}
  }}
}}
"""


def product(number: int) -> dict[str, object]:
    return {
        "id": number,
        "name": f"Product number {number}",
        "category": "tools",
        "price": {"amount": 1999 + number, "currency": "EUR"},
        "stock": 3 * number,
        "tags": ["new", "for the workshop"],
    }


def products(count: int) -> bytes:
    """The reply of the upstream, as JSON."""
    listed = [product(number) for number in range(1, count + 1)]
    return json.dumps({"products": listed, "total": count}, separators=(",", ":")).encode()


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Yields its URL: ``/api/products`` returns ten products, ``/api/large`` 1 MB of products."""
    for name, count in (("products", 10), ("large", 7000)):
        (folder / f"{name}.json").write_bytes(products(count))
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(user=getpwuid(os.getuid()).pw_name, folder=folder, port=port))
    command = [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(config), "-p", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            listening(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
