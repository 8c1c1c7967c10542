"""Scrapes the URL once for each Accept and prints what the parsers of prometheus_client make of the answers, as JSON."""
import json
import sys
import urllib.request

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

url, accepts = sys.argv[1], sys.argv[2:]
answers = []
for accept in accepts:
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        kind, text = answer.headers["Content-Type"], answer.read().decode()
    parse = openmetrics if kind.startswith("application/openmetrics-text") else parser
    families = list(parse.text_string_to_metric_families(text))
    answers.append(
        {
            "kind": kind,
            "families": {family.name: [family.type, family.documentation] for family in families},
            "samples": [[s.name, s.labels, s.value] for family in families for s in family.samples],
        }
    )
print(json.dumps(answers))
