# The image with what the console needs, on top of the other one, which stays as small as a receipt needs it:
#
#   docker build -t station . && docker build -t station-console -f deploy/image/console.Dockerfile .
#
# Each package with its hash. Without Django, on which the package with bootstrap-italia's files depends: 50 MB that the
# console never imports, and the lock file leaves it out.
FROM station
USER root
COPY requirements-console.lock /tmp/
RUN /usr/local/bin/pip --python /opt/station/bin/python install --no-cache-dir --no-deps --require-hashes \
      -r /tmp/requirements-console.lock \
 && rm /tmp/requirements-console.lock
USER 10001:10001
CMD ["console"]
