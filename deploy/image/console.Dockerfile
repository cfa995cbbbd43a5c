# The image with what the console needs, on top of the other one, which stays as small as a receipt needs it:
#
#   docker build -t station . && docker build -t station-console - < deploy/image/console.Dockerfile
#
# Without Django, on which the package with bootstrap-italia's files depends: 50 MB that the console never imports.
FROM station
USER root
RUN /usr/local/bin/pip --python /opt/station/bin/python install --no-cache-dir \
      'authlib>=1.6' 'flask>=3.1' 'requests>=2.32' 'typst>=0.15' \
 && /usr/local/bin/pip --python /opt/station/bin/python install --no-cache-dir --no-deps 'design-django-theme>=2.18'
USER 10001:10001
CMD ["console"]
