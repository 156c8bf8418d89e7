"""A request in several rounds: the client is answered with questions, and sends the request again with its answers.

What is needed between two rounds stands in the sealed `requestState` that the client carries: for a modern server all of it,
for a legacy one the name of the call, which waits (`parked.py`).
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from mcpgateway.downstream.envelope import Envelope
from mcpgateway.downstream.generations import INTERNAL
from mcpgateway.downstream.parked import PARKED_SECONDS, Interaction, Parked
from mcpgateway.downstream.questions import Question, agreed, answers_of, input_required, lacking, undeclared, visits
from mcpgateway.downstream.sealed import Sealed, Sealer, digest_of
from mcpgateway.errors import InvalidParams, RpcError
from mcpgateway.protocol import jsonrpc
from mcpgateway.protocol.jsonrpc import Params
from mcpgateway.protocol.modern import ASKABLE

WAITS = "parked"
"""The payload is the name of a call that waits."""

RELAYED = "relayed"
"""The payload is a modern server's own state, in JSON: null where it gave none."""

VISITS = "visits"
"""The user was sent to URLs; a legacy server is asked again afterwards. The payload is their number."""


class Rounds:
    def __init__(self, sealer: Sealer, parked: Parked) -> None:
        self._sealer = sealer
        self.parked = parked

    def __repr__(self) -> str:
        return f"<Rounds {self.parked!r}>"

    def resume(self, request: Envelope, user: str) -> Interaction | None:
        """The call that a request goes on with; None where it begins one, to which `request.answers` then belong.

        Raises InvalidParams for a state that is not this caller's and this request's, RpcError where the user refused.
        """
        if request.state is None:
            # Answers to what nobody asked yet: a modern server may make something of them.
            if "inputResponses" in request.params:
                request.answers["inputResponses"] = request.params["inputResponses"]
            return None
        sealed = self._sealer.open(request.state, user, digest_of(request.method, request.params, request.place))
        answers = answers_of(request.params)
        if sealed.kind == WAITS:
            interaction = self.parked.claim(sealed.payload, user)
            interaction.take(answers)
            return interaction
        if sealed.kind == VISITS:
            if not all(agreed(answers.get(f"url-{number + 1}")) for number in range(int(sealed.payload))):
                raise RpcError.of(INTERNAL, "the server needs the user to visit a URL first, and the user did not")
            return None
        if answers:
            request.answers["inputResponses"] = request.params["inputResponses"]
        if sealed.payload != "null":
            request.answers["requestState"] = Raw(sealed.payload.encode())
        return None

    def ask(self, request: Envelope, user: str, interaction: Interaction) -> bytes:
        """The raw result with which the client is asked what a legacy server asks. The call waits from now on."""
        asked = input_required(interaction.questions(), self._state(request, user, Sealed(WAITS, interaction.named())))
        # Last, so that no call waits for a client that was not told of it.
        self.parked.park(interaction, user)
        return asked

    def relay(self, request: Envelope, user: str, result: bytes) -> bytes:
        """A modern server's questions as the client may see them: unaltered, but for the state, which is sealed.

        Raises RpcError where the client declared no answer to one of them, or they are none that clients can be asked.
        """
        fields = jsonrpc.object_of(result)
        try:
            _check(request, jsonrpc.object_of(fields.get("inputRequests", b"{}")))
        except InvalidParams as fault:
            raise RpcError.of(INTERNAL, f"the server asks for input in a form that is none: {fault}") from fault
        state = self._state(request, user, Sealed(RELAYED, bytes(fields.get("requestState", b"null")).decode()))
        return msgspec.json.encode(fields | {"requestState": jsonrpc.raw(state)})

    def visit(self, request: Envelope, user: str, error: RpcError) -> bytes:
        """The raw result that sends the user to the URLs in a legacy server's error. Raises RpcError where it cannot."""
        try:
            questions = visits(error)
            _check(request, questions)
        except InvalidParams as fault:
            raise RpcError.of(INTERNAL, f"the server wants a URL visited, but does not say which: {fault}") from fault
        return input_required(questions, self._state(request, user, Sealed(VISITS, str(len(questions)))))

    def _state(self, request: Envelope, user: str, sealed: Sealed) -> str:
        return self._sealer.seal(sealed, user, digest_of(request.method, request.params, request.place), PARKED_SECONDS)


def _check(request: Envelope, questions: Params) -> None:
    """Raises RpcError unless the client declared that it answers all of these, InvalidParams where one is no question."""
    for key, raw in questions.items():
        question = Question.decode(raw)
        if question.method not in ASKABLE:
            raise InvalidParams(f"{key[:40]!r} is {question.method[:40]}, which no client can be asked")
        required = lacking(request.capabilities, question)
        if required is not None:
            raise undeclared(required)
