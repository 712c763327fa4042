"""The examples of docs/context.md, run unchanged in the example project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from example_project.postgres import Postgres

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/context.md").read_text()

SCRIPT = """
import json, sys
import django
django.setup()
from django.core.management import call_command
from django.db import connection
from django.test import RequestFactory
from example_project.shop.models import Product
from walex_django.pgoutput.decoder import decode
from walex_django.pgoutput.messages import LogicalMessage

call_command("migrate", verbosity=0)
call_command("walex_setup", stdout=sys.stderr)
Product.objects.create(name="Cup", price=1)
exec(sys.argv[1])
Product.objects.update(stock=-1)
clean_up()
Product.objects.create(name="Cup", price=1)
middleware = ShopContextMiddleware(lambda request: Product.objects.update(stock=1))
middleware(RequestFactory().put("/stock/"))
with connection.cursor() as cursor:
    cursor.execute(
        "SELECT data FROM pg_logical_slot_get_binary_changes('shop_walex', NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'shop_events', 'messages', 'true')"
    )
    found = [decode(bytes(data)) for data, in cursor.fetchall()]
print(json.dumps([
    [message.prefix, json.loads(message.content)]
    for message in found
    if isinstance(message, LogicalMessage)
]))
"""


def test_examples_of_page_work(own_server: Postgres) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    settings, *code = blocks
    assert "walex_django.context.ContextMiddleware" in settings
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "\n".join(code)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "example_project.settings",
            "DATABASE_URL": own_server.url(),
        },
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        ["walex_django.context", {"job": "nightly", "reason": "stock was counted"}],
        ["walex_django.context", {"job": "import"}],
        ["shop.closed", {"until": "2027-01-02"}],
        ["walex_django.context", {"job": "cleanup"}],
        [
            "walex_django.context",
            {"user": None, "path": "/stock/", "method": "PUT", "ip": "127.0.0.1"},
        ],
    ]
