"""`kafka check`: is everything there that a fleet needs, and if not, which one thing is to be done. Within seconds, harmlessly.

Permissions are not tried out: the broker is asked what this user may do (KIP-430), and whether it would create a topic (validate
only). Nothing is written and no group is joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ..core.clock import Clock
from ..core.errors import SmartTunerError
from .kafka_address import joined
from .kafka_connection import Failed, Target, connected, open_wire
from .kafka_options import Value, client_options, read_options
from .kafka_wire import Deadline, Wire

TOTAL_S = 4.0
"""A command takes one more second to begin."""
MAX_BROKERS = 9
READ, WRITE, CREATE, DESCRIBE, DESCRIBE_CONFIGS = 3, 4, 5, 8, 10
OPERATIONS = {READ: "Read", WRITE: "Write", DESCRIBE: "Describe"}
TOPIC_DENIED, GROUP_DENIED, CLUSTER_DENIED, UNKNOWN_TOPIC = 29, 30, 31, 3
NOT_CONTROLLER, TOO_FEW_BROKERS, POLICY, ALREADY_THERE = 41, 38, 44, 36
NO_COORDINATOR_YET = (14, 15, 16)
TOPIC_RESOURCE = 2
PRINT = "smart-tuner kafka check --print shows the commands"


class Step(NamedTuple):
    """A line of the answer: state is ok, warning, failed or skipped; `hint` says what to do."""

    name: str
    state: str
    what: str
    hint: str = ""


class Need(Protocol):
    """A topic that has to be there (kafka_settings.TopicNeed)."""

    @property
    def name(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def configs(self) -> Mapping[str, str]: ...


Faults = Callable[[Any, int, Mapping[str, str]], Sequence[tuple[str, str]]]
"""Takes a Need, how many partitions there are, and the settings that may be seen: (what is wrong, what to do) each."""


@dataclass(frozen=True)
class Plan:
    """What is checked: the brokers, how to talk to them, and what has to be there, held against `faults`."""

    servers: tuple[tuple[str, int], ...]
    client: Mapping[str, Value]
    topics: Sequence[Need] = ()
    faults: Faults = lambda need, partitions, settings: ()
    group: str = ""
    create_topics: bool = True
    replication_factor: int | None = None


def check(plan: Plan, clock: Clock, total_s: float = TOTAL_S) -> Iterator[Step]:
    """The steps, each as soon as it is known. Ends at the first that fails for good; `total_s` bounds all of them together.
    ConfigError where the options themselves are wrong."""
    deadline = Deadline(clock, total_s)
    passed: list[Step] = []
    others: list[Step] = []
    try:
        wire, target = _first_wire(plan, deadline, passed, others)
    except Failed as failed:
        yield from others
        yield from passed
        yield Step(failed.step, "failed", failed.message, failed.hint)
        return
    yield from others
    yield from passed
    with closing(wire):
        for part in (_brokers, _topics, _group):
            try:
                yield from part(wire, target, plan, deadline)
            except Failed as failed:
                yield Step(part.__name__.strip("_"), "failed", failed.message, failed.hint)
            except (OSError, SmartTunerError) as error:
                hint = getattr(error, "hint", "") or "the broker is slow or went away: try again, and look at its log"
                yield Step(part.__name__.strip("_"), "failed", getattr(error, "message", str(error)), hint)


def cause_of(servers: Sequence[tuple[str, int]], client: Mapping[str, Value], clock: Clock, within_s: float = 3.0) -> Failed | None:
    """Why no client can connect; None where one can."""
    plan = Plan(tuple(servers), client)
    try:
        _first_wire(plan, Deadline(clock, within_s), [], [])[0].close()
    except Failed as failed:
        return failed
    return None


def _first_wire(plan: Plan, deadline: Deadline, passed: list[Step], others: list[Step]) -> tuple[Wire, Target]:
    """A connection to the first of the brokers that lets us in. The steps of that one, or of the last, are left in `passed`,
    what was wrong with those before it in `others`."""
    bootstrap = joined(plan.servers)
    arguments = client_options(bootstrap, plan.client)
    security = read_options(plan.client, bootstrap).security
    for number, (host, port) in enumerate(plan.servers, 1):
        target = Target(host, port, security, arguments)
        passed.clear()
        last = number == len(plan.servers)
        try:
            within = deadline if last else Deadline(deadline.clock, deadline.left_s(deadline.seconds / len(plan.servers)))
            return open_wire(target, within, lambda step, what: passed.append(Step(step, "ok", what))), target
        except Failed as failed:
            if last:
                raise
            others.append(Step(failed.step, "warning", failed.message, failed.hint))
        except TimeoutError as error:
            if last:
                raise Failed("tcp", f"{target.name}: {error}", "check the route to the broker, and its log") from error
            others.append(Step("tcp", "warning", f"{target.name}: {error}"))
    raise Failed("name", "the bus URL names no broker", "write kafka://host:port")


def _metadata(wire: Wire, topics: Sequence[str]) -> Any:
    from kafka.protocol.metadata import MetadataRequest

    version = wire.version(MetadataRequest, 9)
    asked = [MetadataRequest.MetadataRequestTopic(name=name, version=version) for name in topics]
    more = {"include_topic_authorized_operations": True} if version >= 8 else {}
    return wire.ask(MetadataRequest(topics=asked, allow_auto_topic_creation=False, version=version, **more))


def _brokers(wire: Wire, target: Target, plan: Plan, deadline: Deadline) -> Iterator[Step]:
    """Clients go on to the addresses that the brokers advertise, which need not be the ones they were asked at."""
    there = _metadata(wire, ()).brokers
    listed = [target._replace(host=one.host, port=one.port) for one in there]
    away = []
    for one in [one for one in listed if (one.host, one.port) != (target.host, target.port)][:MAX_BROKERS]:
        try:
            connected(one, Deadline(deadline.clock, deadline.left_s(1.0))).close()
        except Failed as failed:
            away.append(failed.message)
    names = ", ".join(one.name for one in listed[:MAX_BROKERS])
    if away:
        hint = "advertised.listeners of the broker must be an address that this host reaches"
        state = "failed" if len(away) == len(listed) else "warning"
        yield Step("brokers", state, f"the cluster advertises {names}: {'; '.join(away)}", hint)
    else:
        yield Step("brokers", "ok", f"{len(listed)}: {names}")


def _topics(wire: Wire, target: Target, plan: Plan, deadline: Deadline) -> Iterator[Step]:
    if not plan.topics:
        return
    wanted = {one.name: one for one in plan.topics}
    found = {one.name: one for one in _metadata(wire, list(wanted)).topics}
    denied = [name for name, one in found.items() if one.error_code == TOPIC_DENIED]
    missing = [name for name, one in found.items() if one.error_code == UNKNOWN_TOPIC]
    there = {name: one for name, one in found.items() if not one.error_code}
    if denied:
        yield Step("permissions", "failed", f"this user may not see {_list(denied)}", f"{PRINT} that allow it")
    yield from _fitting(wire, there, plan)
    if missing:
        yield _creatable(wire, [wanted[name] for name in missing], plan)
    if there:
        yield _permitted(there)


def _list(names: Sequence[str]) -> str:
    return ", ".join(sorted(names))


def _fitting(wire: Wire, there: Mapping[str, Any], plan: Plan) -> Iterator[Step]:
    """Whether the topics that are there are as they have to be."""
    if not there:
        return
    settings = _settings(wire, list(there))
    wanted = {one.name: one for one in plan.topics}
    fine = []
    for name, one in there.items():
        faults = plan.faults(wanted[name], len(one.partitions), settings.get(name, {}))
        for said, hint in faults:
            yield Step("topics", "failed", said, hint)
        if not faults and name in settings:
            fine.append(name)
    blind = [name for name in there if name not in settings]
    if blind:
        what = f"this user may not see the settings of {_list(blind)}: whether they will do is not known"
        yield Step("topics", "warning", what, f"allow DescribeConfigs on them: {PRINT}")
    if fine:
        yield Step("topics", "ok", f"{len(fine)} are there as they have to be: {_list(fine)}")


def _settings(wire: Wire, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The settings of each topic that may be seen."""
    from kafka.protocol.admin import DescribeConfigsRequest

    version = wire.version(DescribeConfigsRequest)
    resource = DescribeConfigsRequest.DescribeConfigsResource
    resources = [
        resource(resource_type=TOPIC_RESOURCE, resource_name=name, configuration_keys=None, version=version) for name in names
    ]
    answer = wire.ask(DescribeConfigsRequest(resources=resources, version=version))
    return {
        one.resource_name: {setting.name: setting.value for setting in one.configs if setting.value is not None}
        for one in answer.results
        if not one.error_code
    }


def _creatable(wire: Wire, missing: Sequence[Need], plan: Plan) -> Step:
    """Whether the daemon may make what is missing: the broker looks at the request and makes nothing."""
    names = _list([one.name for one in missing])
    if not plan.create_topics:
        what = f"missing, and bus.kafka.create_topics is false: {names}"
        return Step("topics", "failed", what, f"{PRINT} that make them")
    refusals = create(wire, missing, plan.replication_factor, validate_only=True)
    if not refusals:
        return Step("topics", "ok", f"missing, the first daemon makes them: {names}")
    code, said = refusals[0]
    hint = {
        TOPIC_DENIED: f"{PRINT} that allow it, or that make them",
        CLUSTER_DENIED: f"{PRINT} that allow it, or that make them",
        TOO_FEW_BROKERS: "lower bus.kafka.replication_factor, or add brokers",
        NOT_CONTROLLER: "nothing: it could not be asked here, the daemon will say",
    }.get(code, PRINT)
    why = "this user may not create them" if code in (TOPIC_DENIED, CLUSTER_DENIED) else said or f"Kafka error {code}"
    return Step("topics", "warning" if code == NOT_CONTROLLER else "failed", f"missing: {names}; {why}", hint)


def create(wire: Wire, topics: Sequence[Need], replication_factor: int | None, validate_only: bool) -> list[tuple[int, str]]:
    """Asks for the topics; (error code, what the broker says) of each that it refuses."""
    from kafka.protocol.admin import CreateTopicsRequest

    version = wire.version(CreateTopicsRequest, 5)
    topic = CreateTopicsRequest.CreatableTopic
    replicas = replication_factor or (-1 if version >= 4 else 1)
    asked = [
        topic(
            name=one.name,
            num_partitions=one.partitions,
            replication_factor=replicas,
            assignments=[],
            configs=[topic.CreatableTopicConfig(name=key, value=value, version=version) for key, value in one.configs.items()],
            version=version,
        )
        for one in topics
    ]
    answer = wire.ask(CreateTopicsRequest(topics=asked, timeout_ms=2000, validate_only=validate_only, version=version))
    refused = [(one.error_code, one.error_message or "") for one in answer.topics if one.error_code]
    return [one for one in refused if one[0] != ALREADY_THERE]


def _permitted(there: Mapping[str, Any]) -> Step:
    lacking = {}
    for name, one in there.items():
        allowed = one.authorized_operations
        if allowed is None:
            return Step("permissions", "skipped", "a broker before Kafka 2.3 does not tell what this user may do")
        missing = [word for operation, word in OPERATIONS.items() if operation not in allowed]
        if missing:
            lacking[name] = missing
    if not lacking:
        return Step("permissions", "ok", f"this user may {' and '.join(OPERATIONS.values())} all of them (as the broker says)")
    listed = "; ".join(f"{' and '.join(words)} {name}" for name, words in sorted(lacking.items()))
    return Step("permissions", "failed", f"this user may not {listed}", f"{PRINT} that allow it")


def _group(wire: Wire, target: Target, plan: Plan, deadline: Deadline) -> Iterator[Step]:
    """Whether this user may use the daemons' consumer groups."""
    from kafka.protocol.admin import DescribeGroupsRequest

    if not plan.group:
        return
    denied = Step("permissions", "failed", f"this user may not use the consumer group {plan.group}", f"{PRINT} that allow it")
    coordinator = _coordinator(wire, plan.group, deadline)
    if coordinator is None:
        yield denied
        return
    own = (coordinator.host, coordinator.port) == (target.host, target.port)
    with closing(open_wire(target._replace(host=coordinator.host, port=coordinator.port), deadline, _quietly)) as other:
        asked = wire if own else other
        version = asked.version(DescribeGroupsRequest, 5)
        more = {"include_authorized_operations": True} if version >= 3 else {}
        answer = asked.ask(DescribeGroupsRequest(groups=[plan.group], version=version, **more)).groups[0]
    if answer.error_code == GROUP_DENIED:
        yield denied
        return
    allowed = getattr(answer, "authorized_operations", None)
    if allowed is not None and READ not in allowed:
        yield denied
    else:
        yield Step("permissions", "ok", f"this user may use the consumer group {plan.group} (as the broker says)")


def _quietly(step: str, what: str) -> None:
    """A second connection is no news."""


def _coordinator(wire: Wire, group: str, deadline: Deadline) -> Any:
    """The broker that looks after the group; None where this user may not ask. A cluster that never had a group makes the
    coordinator's topic first."""
    from kafka.protocol.metadata import FindCoordinatorRequest

    while True:
        answer = wire.ask(FindCoordinatorRequest(key=group, key_type=0, version=wire.version(FindCoordinatorRequest, 3)))
        if answer.error_code == GROUP_DENIED:
            return None
        if answer.error_code not in NO_COORDINATOR_YET:
            return answer
        deadline.clock.sleep(deadline.left_s(0.1))
