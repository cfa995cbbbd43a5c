#!/usr/bin/env bash
# Builds the image without Docker and starts it: buildah, with a base made by debootstrap in the place of python:slim.
# Needs root, and Debian's packages buildah and debootstrap. Shows the size, and that it serves as Docker would run it:
# without rights, on a file system that cannot be written but for /tmp, /dev/shm and the data folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
export BUILDAH_ISOLATION=chroot
store=(--root "$work/storage" --runroot "$work/run")
server=
finish() {
  [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
  local mounted
  for mounted in dev/shm tmp var/lib/station proc; do umount "$work/root/$mounted" 2>/dev/null || true; done
  umount "$work/root" 2>/dev/null || true
  buildah "${store[@]}" rm --all >/dev/null 2>&1 || true
  rm -rf --one-file-system "$work"
}
trap finish EXIT

echo "== base"
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "${SUITE:-bookworm}" "$work/base" \
  ${MIRROR:+"$MIRROR"} >"$work/debootstrap.log" 2>&1 || { tail -5 "$work/debootstrap.log"; exit 1; }
ln -s python3 "$work/base/usr/bin/python"
rm -rf "$work"/base/var/cache/apt/archives/*.deb "$work"/base/var/lib/apt/lists/*
base=$(buildah "${store[@]}" from scratch)
buildah "${store[@]}" add --quiet "$base" "$work/base" / >/dev/null
buildah "${store[@]}" commit --quiet "$base" base >/dev/null

echo "== image"
# What pip is told of its registry on this machine, and the certificates it trusts, in the stage that installs alone.
share=(--volume /etc/ssl/certs:/etc/ssl/certs:ro)
[ ! -f /etc/pip.conf ] || share+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
buildah "${store[@]}" build --quiet "${share[@]}" --build-arg PYTHON=localhost/base --format docker --tag station . >/dev/null
image=$(buildah "${store[@]}" from --pull=never localhost/station)
mounted=$(buildah "${store[@]}" mount "$image")
echo "base    $(du -sm --apparent-size "$work/base" | cut -f1) MiB"
echo "station $(du -sm --apparent-size "$mounted/opt/station" | cut -f1) MiB on top of the base"
# What a registry holds and a machine fetches: layers as they travel, this base among them, which is larger than python:slim.
buildah "${store[@]}" push --quiet localhost/station "oci:$work/packed" >/dev/null
packed=$(du -sm --apparent-size "$work/packed" | cut -f1)
echo "packed  $packed MiB, with the base"
[ "$packed" -lt 150 ] || { echo "the image is too large"; exit 1; }
buildah "${store[@]}" inspect --type image --format '{{.Docker.Config.User}} {{.Docker.Config.Entrypoint}} {{.Docker.Config.Cmd}} {{.Docker.Config.Healthcheck}}{{println}}' localhost/station
for unwanted in usr/bin/gcc usr/bin/cc usr/bin/ld root/.cache build opt/station/bin/pip; do
  [ ! -e "$mounted/$unwanted" ] || { echo "this does not belong in the image: $unwanted"; exit 1; }
done

echo "== run"
mkdir "$work/root"
mount --bind "$mounted" "$work/root"
mount -o remount,bind,ro "$work/root"
mount -t tmpfs -o mode=1777 tmpfs "$work/root/tmp"
mount -t tmpfs -o uid=10001,gid=10001,mode=0700 tmpfs "$work/root/var/lib/station"
mount -t proc proc "$work/root/proc"
mount --bind /dev/shm "$work/root/dev/shm"
# A list, not a function: the background process is then the station itself.
inside=(
  env -i PATH=/opt/station/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 STATION_LOG_FORMAT=json
  STATION_SERVER_LISTEN=127.0.0.1:18080 STATION_SERVER_HEALTH_LISTEN=127.0.0.1:18081
  "$(command -v chroot)" --userspec=10001:10001 "$work/root"
  setpriv --no-new-privs sh -c 'cd /var/lib/station && exec "$@"' sh
)
[ "$("${inside[@]}" sh -c "touch /usr/written 2>/dev/null || echo no")" = no ] || { echo "the file system can be written"; exit 1; }
"${inside[@]}" station migrate
"${inside[@]}" station serve 2>"$work/serve.log" &
server=$!
for _ in $(seq 100); do
  if "${inside[@]}" python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:18081/ready', timeout=4)" 2>/dev/null
  then ready=yes; break; fi
  sleep 0.2
done
[ "${ready:-}" = yes ] || { cat "$work/serve.log"; exit 1; }
curl --silent --fail -H 'Content-Type: text/xml' --data-binary @tests/data/plain.xml http://127.0.0.1:18080/paForNode \
  | grep -q '<outcome>OK</outcome>'
kill -TERM "$server"
status=0
wait "$server" || status=$?
server=
echo "serves without rights on a read-only file system; ends with $status at SIGTERM"
[ "$status" = 0 ]
"${inside[@]}" station receipts list | grep -q 0123456789abcdef
"${inside[@]}" station demo | tail -1
