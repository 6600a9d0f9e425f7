"""What the real kubectl 1.37 said (and what API servers say by their own sources), in a person's words."""

from __future__ import annotations

import re

import pytest

from lemnos.errors import UsageError
from lemnos.launchers.kubernetes.words import (
    code_in_words,
    refused,
    unschedulable,
    words,
)

NOISE = (
    'E1121 20:36:38.901041   15505 memcache.go:381] "Couldn\'t get current server API group list" '
    'err="Get \\"https://127.0.0.1:9/api?timeout=32s\\": {why}"\n'
)
CASES = {
    "context": (
        "Error in configuration: context was not found for specified context: nope\n",
        "the kubeconfig has no context 'nope'",
        "kubectl config get-contexts",
    ),
    "context, older kubectl": (
        'error: context "nope" does not exist\n',
        "the kubeconfig has no context 'nope'",
        "get-contexts",
    ),
    "kubeconfig": (
        "error: stat /home/ann/none: no such file or directory\n",
        "there is no kubeconfig /home/ann/none",
        "name the one",
    ),
    "kubeconfig, broken": (
        'error: error loading config file "/k/bad": yaml: line 1: did not find expected node content\n',
        "cannot be read: yaml: line 1",
        "kubectl config view",
    ),
    "no kubeconfig at all": (
        "The connection to the server localhost:8080 was refused - did you specify the right host or port?\n",
        "kubectl knows no cluster",
        "KUBECONFIG",
    ),
    "refused": (
        NOISE.format(why="dial tcp 127.0.0.1:9: connect: connection refused") * 5
        + "The connection to the server 127.0.0.1:9 was refused - did you specify the right host or port?\n",
        "the API server does not answer (connection refused)",
        "cluster-info",
    ),
    "no such host": (
        NOISE.format(why="dial tcp: lookup no.such.host on 10.0.0.53:53: no such host"),
        "the API server's name no.such.host means nothing here",
        "VPN",
    ),
    "timeout": (
        "Unable to connect to the server: net/http: TLS handshake timeout\n",
        "the API server does not answer",
        "VPN",
    ),
    "a server that is about to end": (
        'error: http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=""\n',
        "the API server does not answer",
        "VPN",
    ),
    "a forward that you may not make": (
        'error: error upgrading connection: unable to upgrade connection: pods "x" is forbidden: User "ann" cannot '
        'create resource "pods/portforward" in API group "" in the namespace "llm"\n',
        "you may not create pods/portforward in the namespace llm",
        "--verb=create --resource=pods/portforward",
    ),
    "a pod of a priority that there is not": (
        'Error creating: pods "box-engine-0-5c5d7b8f6-" is forbidden: no PriorityClass with name none was found\n',
        "no PriorityClass with name none was found",
        "",
    ),
    "a controller that is still starting": (
        "Error from server (InternalError): Internal error occurred: failed calling webhook "
        '"mleaderworkerset.kb.io": failed to call webhook: Post "https://lws-webhook-service.lws-system.svc:443/'
        'mutate?timeout=10s": dial tcp 10.96.3.4:443: connect: connection refused\n',
        "does not answer (webhook mleaderworkerset.kb.io)",
        "try again when it is ready",
    ),
    "certificate": (
        NOISE.format(
            why="tls: failed to verify certificate: x509: certificate signed by unknown authority"
        ),
        "certificate",
        "kubeconfig anew",
    ),
    "plugin": (
        NOISE.format(
            why="getting credentials: exec: executable aws-nope not found\n\nIt looks like"
        ),
        "logs in with 'aws-nope'",
        "install it",
    ),
    "unauthorized": (
        "error: You must be logged in to the server (the server has asked for the client to provide credentials)\n",
        "does not know you",
        "log in anew",
    ),
    "forbidden": (
        'Error from server (Forbidden): deployments.apps "web" is forbidden: User "ann" cannot patch resource '
        '"deployments" in API group "apps" in the namespace "llm"\n',
        "you may not patch deployments in the namespace llm",
        "kubectl -n llm create role lemnos-deployments --verb=patch --resource=deployments.apps && kubectl -n llm "
        "create rolebinding lemnos-deployments --role=lemnos-deployments --user=ann",
    ),
    "forbidden, cluster": (
        'Error from server (Forbidden): nodes is forbidden: User "ann" cannot list resource "nodes" in API group "" '
        "at the cluster scope\n",
        "you may not list nodes of the cluster",
        "kubectl create clusterrole lemnos-nodes --verb=list --resource=nodes &&",
    ),
    "kind": (
        'error: resource mapping not found for name: "web" namespace: "" from "STDIN": no matches for kind '
        '"LeaderWorkerSet" in version "leaderworkerset.x-k8s.io/v1"\nensure CRDs are installed first\n',
        "the cluster does not know the kind LeaderWorkerSet (leaderworkerset.x-k8s.io/v1)",
        "kubectl apply --server-side -f https://",
    ),
    "kind, keda": (
        'no matches for kind "ScaledObject" in version "keda.sh/v1alpha1"\n',
        "the kind ScaledObject",
        "helm install keda",
    ),
    "quota": (
        'Error creating: pods "chat-engine-0-a" is forbidden: exceeded quota: gpus, requested: '
        "requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=8",
        "the namespace's quota gpus is used up: it asks for requests.nvidia.com/gpu=8",
        "plan for fewer GPUs",
    ),
    "namespace": (
        'Error from server (NotFound): namespaces "none" not found\n',
        "there is no namespace 'none'",
        "kubectl create namespace none",
    ),
    "webhook": (
        'Error from server (Forbidden): admission webhook "policy.example.org" denied the request: web has no cost centre\n',
        "a rule of the cluster (policy.example.org) denies it: web has no cost centre",
        "rules of the cluster",
    ),
    "pod security": (
        'Error creating: pods "a" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
        "Pod Security (restricted:latest) does not take these pods: runAsNonRoot != true",
        "another namespace",
    ),
    "conflict": (
        'error: Apply failed with 1 conflict: conflict with "kubectl-edit" using apps/v1: .spec.replicas\n'
        "Please review the fields above--they currently have other managers. Here\n",
        "'kubectl-edit' manages .spec.replicas there",
        "--force-conflicts",
    ),
    "conflict, with what else is said of the manager": (
        'error: Apply failed with 1 conflict: conflict with "kube-controller-manager" with subresource "scale" '
        "using apps/v1 at 2026-11-21T21:40:05Z: .spec.replicas\n",
        "'kube-controller-manager' manages .spec.replicas",
        "--force-conflicts",
    ),
    "conflicts": (
        'error: Apply failed with 2 conflicts: conflicts with "kubectl-edit" using apps/v1:\n- .spec.replicas\n'
        "- .spec.paused\nPlease review\n",
        "'kubectl-edit' manages .spec.replicas, .spec.paused there",
        "--force-conflicts",
    ),
    "name": (
        'The Deployment "Web_1" is invalid: metadata.name: Invalid value: "Web_1": a lowercase RFC 1123 subdomain '
        "must consist of lower case alphanumeric characters\n",
        "Kubernetes takes no Deployment like 'Web_1': metadata.name: Invalid value",
        "change the name",
    ),
    "old server": (
        'Error from server (BadRequest): PodDisruptionBudget in version "v1" cannot be handled as a '
        'PodDisruptionBudget: strict decoding error: unknown field "spec.unhealthyPodEvictionPolicy"\n',
        'does not take: unknown field "spec.unhealthyPodEvictionPolicy"',
        "kubectl version",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_kubectl_says_becomes_a_sentence(case: str) -> None:
    said, what, fix = CASES[case]
    error = refused(said)
    assert what in error.what or what in str(error), error.what
    assert fix in error.fix, error.fix
    assert error.where
    assert "\n" not in error.what and "memcache" not in str(error)
    assert "(unknown)" not in str(error)


def test_a_wrong_request_leaves_with_two() -> None:
    assert isinstance(refused(CASES["context"][0]), UsageError)
    assert not isinstance(refused(CASES["refused"][0]), UsageError)


def test_what_nobody_knows_is_told_in_kubectl_s_own_words() -> None:
    error = refused("Warning: old\nerror: something new\nhappened\n", "it fails")
    assert error.what == "it fails: something new happened"
    assert "says nothing" in refused("").what


UNSCHEDULABLE = {
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No preemption victims found.": (
        "none of 3 nodes takes it: 3 have too little nvidia.com/gpu free"
    ),
    "0/5 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: present}, 4 node(s) didn't match Pod's node affinity/selector.": (
        "none of 5 nodes takes it: 4 lack the label that is asked for (kubernetes.node_selector), "
        "1 have the taint nvidia.com/gpu (kubernetes.tolerations)"
    ),
    "0/4 nodes are available: 1 Insufficient nvidia.com/gpu, 3 node(s) had untolerated taint(s). no new claims to deallocate, preemption: 0/4 nodes are available: 1 No preemption victims found for incoming pod, 3 Preemption is not helpful for scheduling.": (
        "none of 4 nodes takes it: 1 have too little nvidia.com/gpu free, "
        "3 have a taint that is not tolerated (kubernetes.tolerations)"
    ),
    "0/4 nodes are available: 4 node(s) didn't match PersistentVolume's node affinity. no new claims to deallocate, preemption: 0/4 nodes are available: 4 Preemption is not helpful for scheduling.": (
        "none of 4 nodes takes it: 4 do not reach the model's volume"
    ),
    "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.": (
        "none of 2 nodes takes it: the claim with the model has no volume yet ('kubectl describe pvc')"
    ),
    "": "no node takes it yet",
    "odd": "the scheduler has no node for it: odd",
}


@pytest.mark.parametrize("message", UNSCHEDULABLE)
def test_why_no_node_takes_a_pod(message: str) -> None:
    assert unschedulable(message) == UNSCHEDULABLE[message]


def test_exit_codes() -> None:
    assert code_in_words(3) == "ended with exit code 3"
    assert code_in_words(137) == "was killed by SIGKILL"


def test_every_pattern_compiles_and_is_filled() -> None:
    for each in words().refusals:
        pattern = re.compile(each.says)
        filled = {name.rstrip("2") for name in pattern.groupindex}
        derived = {"qualified", "install", "user"}
        for text in (each.what, each.fix, each.where):
            for name in re.findall(r"{(\w+)}", text):
                assert name in filled | derived, (each.says, name)
