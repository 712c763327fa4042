"""The site's web server; runserver would query the unreachable database."""

from __future__ import annotations

import sys

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.servers.basehttp import run
from django.core.wsgi import get_wsgi_application

if __name__ == "__main__":
    application = StaticFilesHandler(get_wsgi_application())
    run("127.0.0.1", int(sys.argv[1]), application, threading=True)
