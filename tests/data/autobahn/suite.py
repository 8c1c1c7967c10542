"""Runs cases of the Autobahn test suite (Python 2.7, autobahntestsuite 25.10.1) against another process.

    suite.py client URL CASE...   is the client of the WebSocket server at URL
    suite.py server CASE...       is a server on a port of the system's choice, until its standard input ends

Every case ends in a line `RESULT id behavior behaviorClose milliseconds text` on standard output; a server says
`PORT number` first. The suite's own reports, which take longer than many a case, are not written.
"""

import sys
import threading

from autobahntestsuite import choosereactor  # Must be imported before the reactor is.
from autobahntestsuite import fuzzing
from twisted.internet import reactor


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def result(factory, case):
    texts = "%s / %s" % (case["result"], case["resultClose"])
    words = [case[name].replace(" ", "-") for name in ("behavior", "behaviorClose")]
    fields = (case["id"], words[0], words[1], case["duration"], " ".join(texts.split()))
    say("RESULT %s %s %s %d %s" % fields)
    agent = factory.agents.setdefault(case["agent"], {})
    agent[case["id"]] = case


fuzzing.FuzzingFactory.logCase = result
fuzzing.FuzzingFactory.createReports = lambda factory: None


def main():
    mode, arguments = sys.argv[1], sys.argv[2:]
    if mode == "client":
        spec = {"servers": [{"agent": "amp-relay", "url": arguments[0]}], "cases": arguments[1:]}
        fuzzing.startClient(spec)
    else:
        spec = {"url": "ws://127.0.0.1:9001", "cases": arguments}
        port = reactor.listenTCP(0, fuzzing.FuzzingServerFactory(spec), interface="127.0.0.1")
        say("PORT %d" % port.getHost().port)
        waiting = threading.Thread(target=wait_for_the_end)
        waiting.daemon = True
        waiting.start()
    reactor.run()


def wait_for_the_end():
    sys.stdin.read()
    reactor.callFromThread(reactor.stop)


main()
