"""What people write for Kubernetes: names and amounts that it would refuse are refused as the spec is read."""

from __future__ import annotations

from typing import Any

import pytest

from lemnos.errors import UsageError
from lemnos.spec.clusters import KubernetesSpec
from lemnos.spec.document import validated

FULL = {
    "namespace": "llm",
    "weights": {"claim": "models.v2", "size": "1.5Ti"},
    "node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "zone": ""},
    "tolerations": [{"key": "nvidia.com/gpu"}],
    "resources": {"rdma/ib": "1"},
    "memory": "400Gi",
    "cpus": "500m",
    "cache_host_path": "/data/cache",
    "gateway_image": "registry.example/lemnos:1",
    "expose": {
        "host": "llm.example.org",
        "by": "httproute",
        "gateway": "infra/public",
    },
}


def test_what_kubernetes_takes() -> None:
    assert validated(KubernetesSpec, FULL).memory == "400Gi"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"namespace": "LLM"}, "no name in Kubernetes"),
        ({"namespace": "a_b"}, "no name in Kubernetes"),
        ({"weights": {"claim": "-m"}}, "no name in Kubernetes"),
        ({"pull_secrets": ["a b"]}, "no name in Kubernetes"),
        ({"memory": "400GB"}, "no quantity in Kubernetes: write 400Gi"),
        ({"shared_memory": "lots"}, "no quantity"),
        ({"weights": {"host_path": "data"}}, "begin it with '/'"),
        ({"node_selector": {"a b": "c"}}, "cannot be in a label"),
        ({"node_selector": {"a": "c d"}}, "cannot be in a label"),
        ({"node_selector": {"/a": "c"}}, "cannot be the key of a label"),
        ({"weights": {"claim": "m", "host_path": "/m"}}, "two volumes"),
        ({"expose": {"host": "a.b"}}, "needs gateway_image"),
        (
            {"gateway_image": "x", "expose": {"host": "a.b", "by": "httproute"}},
            "belongs to a gateway",
        ),
        (
            {"gateway_image": "x", "expose": {"host": "http://a.b"}},
            "no name in Kubernetes",
        ),
        ({"autoscale": "keda"}, "keda needs prometheus"),
        ({"kind": "statefulset"}, "kind"),
        ({"name_space": "x"}, "namespace"),
    ],
)
def test_what_it_would_refuse(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        validated(KubernetesSpec, keys)
