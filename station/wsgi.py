"""The WSGI entry: `gunicorn station.wsgi` serves the station, with the configuration that STATION_CONFIG names."""

import gc

from station.app import create_app

application = create_app()

# What is loaded now stays. Python's collector need not look through it again and again for what a request left behind.
gc.collect()
gc.freeze()
