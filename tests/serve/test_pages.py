"""What the server says of itself: metrics, OpenAPI, pages that load nothing from elsewhere."""

import json
import re

import pytest

from helpers.asking import outputs, with_server
from helpers.exported import TREE, line, same
from helpers.random_graphs import N_CLASSES
from tvm_cavs.deploy import load
from tvm_cavs.serve import Limits
from tvm_cavs.serve.metrics import Metrics

pytestmark = pytest.mark.compiles


def test_metrics_are_what_prometheus_reads(folder):
    async def ask(client, service):
        for content in (line(TREE), f"[{line(TREE)},{line(TREE)}]", "no"):
            await client.post("/v1/predict", content=content)
        return (await client.get("/metrics")).text

    text = with_server(folder, ask)
    assert text.endswith("\n")
    sample = re.compile(r'tvm_cavs_\w+(\{\w+="[^"]*"\})? [0-9.e+-]+')
    samples = [each for each in text.splitlines() if not each.startswith("#")]
    assert all(map(sample.fullmatch, samples))
    values = dict(each.rsplit(" ", 1) for each in samples)
    assert values['tvm_cavs_requests_total{status="200"}'] == "2"
    assert values['tvm_cavs_requests_total{status="422"}'] == "1"
    assert values["tvm_cavs_graphs_total"] == values["tvm_cavs_graph_levels_count"] == "3"
    assert values["tvm_cavs_queue_seconds_count"] == "2"
    waited, all_of_it = (values[f"tvm_cavs_{name}_seconds_sum"] for name in ("queue", "request"))
    assert 0 < float(waited) < float(all_of_it)
    assert values['tvm_cavs_graph_levels_bucket{le="1"}'] == "0"
    assert values['tvm_cavs_graph_levels_bucket{le="2"}'] == "3"


def test_a_histogram_counts_up_to_its_ends():
    metrics = Metrics()
    metrics.observe("batch_vertices", 1, 2, 3, 10_000)
    text = metrics.text()
    for end, n in (("1", 1), ("2", 2), ("4", 3), ("8192", 3), ("+Inf", 4)):
        assert f'tvm_cavs_batch_vertices_bucket{{le="{end}"}} {n}\n' in text
    assert "tvm_cavs_batch_vertices_sum 10006" in text


def test_the_example_of_openapi_works(folder):
    async def ask(client, service):
        schema = (await client.get("/openapi.json")).json()
        predict = schema["paths"]["/v1/predict"]["post"]
        given = predict["requestBody"]["content"]["application/json"]["example"]
        answer = predict["responses"]["200"]["content"]["application/json"]["example"]
        return given, answer, (await client.post("/v1/predict", json=given)).json()

    given, answer, found = with_server(folder, ask)
    assert given == json.loads(line(TREE)) and found == answer
    assert same(outputs(found), load(folder)(TREE))


def test_the_model_says_what_it_takes(folder):
    async def ask(client, service):
        return (await client.get("/v1/model")).json()

    about = with_server(folder, ask)
    assert about["name"] == "TreeLSTM" and about["examples"] == [json.loads(line(TREE))]
    assert about["classes"] == [f"class {i}" for i in range(N_CLASSES)]
    assert about["limits"] == {
        "bytes": Limits.body,
        "graphs": Limits.graphs,
        "vertices": Limits.vertices,
    }


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(folder, path):
    async def ask(client, service):
        return await client.get(path)

    response = with_server(folder, ask)
    text = response.text.replace("http://www.w3.org/2000/svg", "")
    assert response.status_code == 200 and "https:" not in text and "http:" not in text
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r'(src|href)="(?!data:|docs"|\."|openapi\.json")', text)
