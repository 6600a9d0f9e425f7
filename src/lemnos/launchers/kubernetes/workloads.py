"""An engine's unit as a Deployment, a LeaderWorkerSet or a RayCluster. Pure."""

from __future__ import annotations

import itertools

from lemnos.errors import UsageError
from lemnos.launchers.kubernetes import argv
from lemnos.launchers.kubernetes.names import (
    RANK,
    NodeFacts,
    of_unit,
    pod_labels,
    selector,
)
from lemnos.launchers.kubernetes.pods import LEAVING, Object, container, pod, probes
from lemnos.launchers.kubernetes.weights import with_weights
from lemnos.launchers.site import Site
from lemnos.spec.plan import Command, Job
from lemnos.spec.unit import Unit

WORKERS = "workers"
"""The rank of all pods that are made from a group's second template; which one a pod is says the label
leaderworkerset.sigs.k8s.io/worker-index."""
RAY_PORT, RAYLET_PORT = 6379, 6380
# KubeRay hands over its `ray start --block` instead of running it (overwrite-container-cmd; buildPod and
# setMissingRayStartParams of its pod.go). The engine is the container's process, and ends with Ray.
_HEAD = """eval "$KUBERAY_GEN_RAY_START_CMD" &
until ray health-check --address "$RAY_ADDRESS" >/dev/null 2>&1; do
  kill -0 $! || exit 1
  sleep 1
done
exec "$@"
"""


def deployment(unit: Unit, site: Site, nodes: NodeFacts) -> Object:
    """One pod, or with ``scale:`` as many as its scaler wants; a second one of the same unit is never
    started beside it, since it would need the same GPUs."""
    containers = []
    for job in unit.jobs:
        own = _alone(job, unit, site)
        containers.append(own | (probes(unit, site) if job.port else {}))
    template = _template(unit, site, unit.jobs[0], pod(unit, site, nodes, containers))
    spec: Object = {"replicas": 1, "revisionHistoryLimit": 1}
    if site.spec.scale:
        del spec["replicas"]  # the scaler's: we would take its pods away
        containers[0]["lifecycle"] = LEAVING
    spec["strategy"] = {"type": "Recreate"}
    # What it waits for can take as long as a start, and lemnos says when that is too long.
    spec["progressDeadlineSeconds"] = 7 * 24 * 3600
    spec["selector"] = {"matchLabels": selector(site, unit.name)}
    spec["template"] = with_weights(template, unit, site)
    return of_unit("apps/v1", "Deployment", unit, site, spec)


def leader_worker_set(unit: Unit, site: Site, nodes: NodeFacts) -> Object:
    """A group of pods that start and end together: the first has the API. Raises UsageError where the
    others differ by more than their rank."""
    hosts = unit.place.hosts
    leader, workers = unit.jobs[0], unit.jobs[1:]
    if len(unit.jobs) != len(hosts):
        raise UsageError(
            f"a group of {len(hosts)} pods runs one process in each, and {site.deployment} has "
            f"{len(unit.jobs)}",
            where="kubernetes.kind",
            fix="use engine: dynamo for prefill and decode apart, kind: raycluster for Ray",
        )
    first = container(
        leader.part or leader.role,
        leader,
        unit,
        site,
        argv.of_leader(leader.command.argv),
        argv.env_of_rank(leader.command.env, 0),
    ) | probes(unit, site)
    other = container(
        workers[0].part or workers[0].role,
        workers[0],
        unit,
        site,
        argv.of_workers(workers),
        argv.env_of_workers(workers),
    )
    if site.spec.scale:
        first["lifecycle"] = LEAVING
    own = _template(unit, site, leader, pod(unit, site, nodes, [first]))
    theirs = _template(unit, site, workers[0], pod(unit, site, nodes, [other]))
    theirs["metadata"]["labels"][RANK] = WORKERS
    spec: Object = {"replicas": 1} if not site.spec.scale else {}
    spec["startupPolicy"] = "LeaderCreated"
    # The group's headless Service would be called as the set is, which is our own Service's name: this
    # way it is called as the leader's pod.
    spec["networkConfig"] = {"subdomainPolicy": "UniquePerReplica"}
    spec["leaderWorkerTemplate"] = {
        "size": len(hosts),
        # An engine cannot go on without one of its ranks: all are started anew.
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": with_weights(own, unit, site),
        "workerTemplate": with_weights(theirs, unit, site),
    }
    api = "leaderworkerset.x-k8s.io/v1"
    return of_unit(api, "LeaderWorkerSet", unit, site, spec)


def ray_cluster(unit: Unit, site: Site, nodes: NodeFacts) -> Object:
    """KubeRay's cluster: the head starts Ray, then the engine, which places its ranks through it."""
    job = unit.jobs[0]
    words = [argv.alone(word) for word in job.command.argv]
    if ("--distributed-executor-backend", "ray") not in itertools.pairwise(words):
        raise UsageError(
            "a RayCluster is for vLLM over several hosts: nothing else here runs on Ray",
            where="kubernetes.kind",
            fix="leave it out",
        )
    env = {k: v for k, v in job.command.env.items() if k != "RAY_ADDRESS"}
    values = {k: argv.alone(v) for k, v in env.items()}
    near = {"RAY_ADDRESS": f"127.0.0.1:{RAY_PORT}"}
    head = container("ray-head", job, unit, site, words, values | near) | probes(
        unit, site
    )
    head["command"], head["args"] = ["sh", "-c", _HEAD], ["sh", *words]
    keyless = job.model_copy(update={"command": Command(argv=job.command.argv)})
    worker = container("ray-worker", keyless, unit, site, [], values)
    worker["command"] = ["sh", "-c", 'eval "exec $KUBERAY_GEN_RAY_START_CMD"']
    del worker["ports"]
    # KubeRay's own ask Ray's dashboard agent, which engines' images need not have.
    alive = {"tcpSocket": {"port": RAYLET_PORT}, "periodSeconds": 20}
    worker |= {
        "livenessProbe": alive | {"failureThreshold": 6},
        "readinessProbe": alive,
    }
    own = _template(unit, site, job, pod(unit, site, nodes, [head]))
    theirs = _template(unit, site, job, pod(unit, site, nodes, [worker]))
    theirs["metadata"]["labels"][RANK] = WORKERS
    count = len(unit.place.hosts) - 1
    spec: Object = {
        "headGroupSpec": {
            # The dashboard would let whoever reaches it run anything.
            "rayStartParams": {"include-dashboard": "false"},
            "template": with_weights(own, unit, site),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": count,
                "minReplicas": count,
                "maxReplicas": count,
                "rayStartParams": {"node-manager-port": str(RAYLET_PORT)},
                "template": with_weights(theirs, unit, site),
            }
        ],
    }
    found = of_unit("ray.io/v1", "RayCluster", unit, site, spec)
    found["metadata"]["annotations"] = {"ray.io/overwrite-container-cmd": "true"}
    return found


def _alone(job: Job, unit: Unit, site: Site) -> Object:
    command = [argv.alone(word) for word in job.command.argv]
    env = {name: argv.alone(value) for name, value in job.command.env.items()}
    name = job.part or job.role
    return container(
        f"{name}-{job.rank}" if job.rank else name, job, unit, site, command, env
    )


def _template(unit: Unit, site: Site, job: Job, spec: Object) -> Object:
    return {"metadata": {"labels": pod_labels(site, unit.name, job)}, "spec": spec}
