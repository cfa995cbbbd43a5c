"""The WSGI entry: `gunicorn station.wsgi` serves the station, with the configuration that STATION_CONFIG names."""

from station.app import create_app

application = create_app()
